"""Decoders of pairs: references, refinement, padding, and the parts they are made of."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from diptych.data.graphs.pairs import RegionPairs
from diptych.models.detection.decoder_layer import DecoderLayer
from diptych.models.detection.deformable_encoder import EncoderLayer, LanguageFusedEncoder
from diptych.models.detection.feature_pyramid import FeaturePyramid, PyramidTokens
from diptych.models.detection.language_fusion import BidirectionalFusion
from diptych.models.layers.multi_branch_fusion import MultiBranchFusion
from diptych.models.layers.sine_position import box_sine, map_sine, sine
from diptych.models.rlipv2.pair_decoder import EntityDecoder, RelationDecoder
from diptych.models.rlipv2.pair_queries import AnchorQueries, GivenQueries, PointQueries

WIDTH = 16


def pyramid(height: int = 4, width: int = 6, *, seed: int = 0) -> PyramidTokens:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((height, width), (height // 2, width // 2))
    places = sum(h * w for h, w in shapes)
    tokens = torch.randn(2, places, WIDTH, generator=generator)
    return PyramidTokens(tokens, torch.randn(1, places, WIDTH, generator=generator), shapes)


def padded(given: PyramidTokens, extra: int) -> PyramidTokens:
    """The same maps with `extra` columns of noise at the right of the finer level and half as many at the coarser."""
    start, tokens, positions, masks, valid = 0, [], [], [], []
    for height, width in given.shapes:
        wide = width + extra * width // given.shapes[0][1]
        for name, into in (("tokens_BPD", tokens), ("position_BPD", positions)):
            part = getattr(given, name)[:, start : start + height * width].unflatten(1, (height, width))
            into.append(torch.cat((part, torch.randn(len(part), height, wide - width, WIDTH)), 2).flatten(1, 2))
        masks.append((torch.arange(wide) < width).expand(2, height, -1).flatten(1))
        valid.append([width / wide, 1.0])
        start += height * width
    shapes = tuple((height, width + extra * width // given.shapes[0][1]) for height, width in given.shapes)
    return PyramidTokens(torch.cat(tokens, 1), torch.cat(positions, 1), shapes, torch.cat(masks, 1), torch.tensor([valid, valid]))


def layers(count: int, *, dense: bool = False) -> list[DecoderLayer]:
    return [DecoderLayer(WIDTH, 2, mlp_width=32, levels=2, points=3, dense=dense) for _ in range(count)]


@pytest.mark.parametrize("dense", [False, True])
def test_padding_changes_nothing_from_encoder_to_boxes(dense: bool) -> None:
    torch.manual_seed(0)
    encoder = LanguageFusedEncoder(
        [EncoderLayer(WIDTH, 2, mlp_width=32, levels=2, points=3, dense=dense) for _ in range(2)],
        [BidirectionalFusion(WIDTH, 8, width=16, heads=2, dropout=0.0)],
        [[nn.Identity()]],  # type: ignore[list-item]
        fusion_before=(0,),
        coarsest_only=False,
    )
    entities = EntityDecoder(layers(2, dense=dense), WIDTH, anchors=not dense)
    relations = RelationDecoder(
        layers(2, dense=dense), WIDTH, 3, position="entities" if dense else "box", start="zero" if dense else "both", branches=4
    )
    queries = AnchorQueries(3, WIDTH)(2)
    if dense:
        queries = replace(queries, reference_BQC=None, position_BQD=torch.randn(2, 6, WIDTH))
    for module in entities.modules():  # offsets that depend on the query, so that references matter
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    answers = []
    for maps in (pyramid(), padded(pyramid(), 2)):
        read, (labels,) = encoder(maps, torch.linspace(-1, 1, 40).view(1, 5, 8).expand(2, -1, -1))
        content, box = entities(queries, read)
        answers.append((labels, content, box, relations(content[:, -1], box[:, -1], read)))
    for plain, with_padding in zip(*answers, strict=True):
        torch.testing.assert_close(plain, with_padding, atol=3e-5, rtol=1e-4)


def test_layers_equal_those_of_transformers(parity: Any) -> None:
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as theirs

    torch.manual_seed(6)
    config = DeformableDetrConfig(
        d_model=WIDTH, num_feature_levels=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_n_points=3, decoder_n_points=3, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    attention = {"offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj", "out": "output_proj"}

    def copy(ours: nn.Module, other: nn.Module, names: dict[str, str]) -> None:
        for name, their_name in names.items():
            ours.get_submodule(name).load_state_dict(other.get_submodule(their_name).state_dict())

    maps = pyramid()
    maps = replace(maps, position_BPD=maps.position_BPD.expand(2, -1, -1))
    levels = {
        "spatial_shapes": torch.tensor(maps.shapes),
        "spatial_shapes_list": list(maps.shapes),
        "level_start_index": None,
    }
    encoder, their_encoder = EncoderLayer(WIDTH, 2, mlp_width=32, levels=2, points=3), theirs.DeformableDetrEncoderLayer(config)
    copy(encoder.attention, their_encoder.self_attn, attention)
    norms = {"norm_1": "self_attn_layer_norm", "norm_2": "final_layer_norm"}
    copy(encoder, their_encoder, norms | {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"})
    reference = maps.in_levels(maps.centres())
    expected = their_encoder(
        maps.tokens_BPD, None, spatial_position_embeddings=maps.position_BPD, reference_points=reference, **levels
    )
    pairs = [(encoder(maps, reference).tokens_BPD, expected)]

    decoder, their_decoder = layers(1)[0], theirs.DeformableDetrDecoderLayer(config)
    copy(decoder.image, their_decoder.encoder_attn, attention)
    norms = {"norm_1": "self_attn_layer_norm", "norm_2": "encoder_attn_layer_norm", "norm_3": "final_layer_norm"}
    copy(decoder, their_decoder, norms | {"mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2", "among.out_proj": "self_attn.o_proj"})
    parts = [getattr(their_decoder.self_attn, name) for name in ("q_proj", "k_proj", "v_proj")]
    with torch.no_grad():
        decoder.among.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        decoder.among.in_proj_bias.copy_(torch.cat([part.bias.normal_() for part in parts]))
    content, position, box = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4)
    expected = their_decoder(
        content, position, reference_points=maps.in_levels(box), encoder_hidden_states=maps.tokens_BPD, **levels
    )
    pairs.append((decoder(content, position, box, maps), expected))
    parity("rlipv2", "encoder and decoder layer", "layers of Deformable DETR of transformers", pairs, tolerance=2e-6)


def test_positions_of_real_places_do_not_depend_on_padding() -> None:
    mask = torch.zeros(1, 6, 9, dtype=torch.bool)
    mask[:, :4, :5] = True
    for centred in (False, True):
        whole = map_sine(mask, 8, centred=centred).unflatten(1, (6, 9))[:, :4, :5]
        alone = map_sine(torch.ones(1, 4, 5, dtype=torch.bool), 8, centred=centred).unflatten(1, (4, 5))
        torch.testing.assert_close(whole, alone)
        shift = 0.5 if centred else 0.0
        y, x = (1 + 1 - shift) / (4 + 1e-6), (2 + 1 - shift) / (5 + 1e-6)
        expected = [f(2 * math.pi * v / 10_000 ** (2 * i / 4)) for v in (y, x) for i in (0, 1) for f in (math.sin, math.cos)]
        torch.testing.assert_close(alone[0, 1, 2], torch.tensor(expected))


def test_box_positions_come_as_y_x_w_h() -> None:
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(box_sine(box, 8), torch.cat([sine(box[i], 4) for i in (1, 0, 2, 3)]))


def test_levels_are_added_until_there_are_enough() -> None:
    module = FeaturePyramid((8, 12), WIDTH, levels=4)
    maps = [torch.randn(2, 8, 8, 12), torch.randn(2, 12, 4, 6)]
    pixels = torch.zeros(2, 64, 96, dtype=torch.bool)
    pixels[0], pixels[1, :32, :48] = True, True
    result = module(maps, pixels)
    assert result.shapes == ((8, 12), (4, 6), (2, 3), (1, 2))
    torch.testing.assert_close(result.valid_BL2[1], torch.tensor([[0.5, 0.5], [0.5, 0.5], [2 / 3, 0.5], [0.5, 1.0]]))
    assert result.mask_BP[1].sum() == 4 * 6 + 2 * 3 + 1 * 2 + 1
    assert module(maps).mask_BP is None
    torch.testing.assert_close(module(maps).tokens_BPD, result.tokens_BPD)
    assert FeaturePyramid((8, 12), WIDTH, levels=1)(maps).shapes == ((4, 6),)


def test_multi_branch_fusion_is_a_sum_over_branches(parity: Any) -> None:
    torch.manual_seed(1)
    module = MultiBranchFusion(12, branches=3)
    nn.init.normal_(module.first.bias)
    x, y = torch.randn(5, 12), torch.randn(5, 12)
    total = module.out.bias.clone()
    for branch in range(3):
        part = slice(4 * branch, 4 * branch + 4)
        first = x @ module.first.weight[part].T + module.first.bias[part]
        second = y @ module.second.weight[part].T + module.second.bias[part]
        total = total + (first * second).relu() @ module.out.weight[:, part].T
    parity("rlipv2", "multi-branch fusion", "a sum over branches by hand", [(module(x, y), total.relu())], tolerance=1e-6)


def test_boxes_refine_the_reference_and_stop_its_gradient() -> None:
    torch.manual_seed(2)
    decoder, queries, maps = EntityDecoder(layers(2), WIDTH, anchors=True), AnchorQueries(3, WIDTH), pyramid()
    decoder.reset_boxes()
    _, box_BSQ4 = decoder(queries(2), maps)
    first = (queries.anchor_Q4 + torch.tensor([0.0, 0.0, -2.0, -2.0])).sigmoid()
    torch.testing.assert_close(box_BSQ4[0, 0], first)
    torch.testing.assert_close(box_BSQ4[0, 1], first)  # zero change
    nn.init.normal_(decoder.subject_box[1].last.weight)
    _, box_BSQ4 = decoder(queries(2), maps)
    (grad,) = torch.autograd.grad(box_BSQ4[:, 1].sum(), decoder.subject_box[0].last.bias, retain_graph=True)
    assert not grad.any()
    assert (box_BSQ4[0, 1, :3] != first[:3]).any()
    torch.testing.assert_close(box_BSQ4[0, 1, 3:], first[3:])  # objects have heads of their own


def test_points_become_boxes_round_them() -> None:
    torch.manual_seed(3)
    decoder, queries = EntityDecoder(layers(1), WIDTH, anchors=False), PointQueries(3, WIDTH)(2)
    decoder.reset_boxes()
    _, box_BSQ4 = decoder(queries, pyramid())
    torch.testing.assert_close(box_BSQ4[:, 0, :, :2], queries.reference_BQC)
    torch.testing.assert_close(box_BSQ4[:, 0, :, 2:], torch.tensor(-2.0).sigmoid().expand(2, 6, 2))


def test_relations_look_at_the_mean_box_and_send_no_gradient_into_boxes() -> None:
    torch.manual_seed(4)
    decoder, maps = RelationDecoder(layers(1), WIDTH, 3, position="box", branches=4), pyramid()
    seen = []
    decoder.layers[0].image.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    entity, box = torch.randn(2, 6, WIDTH, requires_grad=True), torch.rand(2, 6, 4, requires_grad=True)
    out = decoder(entity, box, maps)
    (out * torch.randn_like(out)).sum().backward()  # behind a norm a plain sum has no gradient but rounding
    torch.testing.assert_close(seen[0][:, :, 0], (box[:, :3] + box[:, 3:]) / 2)
    assert box.grad is None
    assert entity.grad.abs().sum() > 1e-2


def test_relations_start_from_the_fused_pair_or_from_its_slots_or_both() -> None:
    """What the first layer is given, of fewer pairs than there are slots."""
    torch.manual_seed(5)
    subject, object_ = torch.randn(2, 2, 2, WIDTH).unbind()
    entity, box = torch.cat((subject, object_), 1), torch.rand(2, 4, 4)
    for start, position in (
        ("fused", "learned"),
        ("slots", "entities"),
        ("both", "learned"),
        ("slots", "box"),
        ("zero", "entities"),
    ):
        decoder = RelationDecoder(layers(1), WIDTH, 3, position=position, start=start, branches=4)  # type: ignore[arg-type]
        given: list[torch.Tensor] = []
        decoder.layers[0].register_forward_pre_hook(lambda module, args, given=given: given.extend(args[:2]))
        decoder(entity, box, pyramid())
        expected = torch.zeros(2, 2, WIDTH)
        if start in ("fused", "both"):
            expected = expected + decoder.fuse(subject, object_)
        if start in ("slots", "both"):
            expected = expected + decoder.content_QD[:2] + decoder.content_QD[3:5]
        torch.testing.assert_close(given[0], expected)
        if position == "entities":
            torch.testing.assert_close(given[1], subject + object_)
        elif position == "learned":
            assert torch.equal(given[1][0], decoder.position_ND[:2])
        assert decoder.slots == (None if start == "zero" else 3)


def test_given_queries_hide_twins_and_padding_but_never_themselves() -> None:
    box = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]])
    given = RegionPairs(
        box[[0, 1, 0]][None],
        box[[1, 0, 0]][None],
        torch.tensor([[0, 1, 0]]),
        torch.tensor([[1, 0, 0]]),
        torch.tensor([[True, True, False]]),
    )
    text = torch.randn(1, 3, WIDTH, requires_grad=True)
    queries = GivenQueries(WIDTH)(given, text)
    assert queries.position_BQD is None
    assert not queries.content_BQD.requires_grad
    torch.testing.assert_close(queries.content_BQD[0], text[0, [0, 1, 0, 1, 0, 0]])
    torch.testing.assert_close(queries.reference_BQC[0], box[[0, 1, 0, 1, 0, 0]])
    hidden = queries.hidden_BQQ[0]
    assert not hidden.diagonal().any()
    assert hidden[0].tolist() == [False, False, True, False, True, True]  # twin at 4; padding at 2 and 5
    assert hidden[1].tolist() == [False, False, True, True, False, True]
    for rule, training, twins_hide in (("training", True, True), ("training", False, False), ("never", True, False)):
        hidden = GivenQueries(WIDTH, hide_twins=rule).train(training)(given, text).hidden_BQQ[0]
        assert hidden[0].tolist() == [False, False, True, False, twins_hide, True]
        assert hidden[1].tolist() == [False, False, True, twins_hide, False, True]
    released = GivenQueries(WIDTH, point=True)(given, text)
    assert (released.reference_BQC.shape, released.position_BQD.shape) == ((1, 6, 2), (1, 6, WIDTH))
