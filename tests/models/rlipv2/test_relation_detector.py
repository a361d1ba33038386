"""The assembled detector: order of labels, lists of any length, every variant, the sizes of the published ones."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError, UnknownName
from diptych.data.graphs.pairs import RegionPairs
from diptych.models.detection.backbone import detection_backbone
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

SMALL: dict[str, Any] = {
    "in_padded": False,
    "relation_boxes": False,
    "pairs": 5,
    "width": 32,
    "heads": 4,
    "mlp_width": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "levels": 2,
    "branches": 4,
    "fusion_before": (0, 1),
    "fusion_width": 32,
    "fusion_dropout": 0.0,
    "language_heads": 4,
    "language_mlp": 48,
    "text_scale": 2.0,
}


def detector(*, seed: int = 0, labels: dict[str, Any] | None = None, **changes: Any) -> RelationDetector:
    torch.manual_seed(seed)
    encoder = label_encoder(**(labels or {"name": "vectors", "width": 24}))
    return RelationDetector(
        detection_backbone("conv_tiny", widths=(8, 16, 16)), encoder, RelationDetectorConfig(**SMALL | changes)
    )


def objective(said: PairSet) -> Tensor:
    parts = [getattr(said, field.name) for field in fields(said) if field.name != "relation_text_RD"]
    return sum((part.square().mean() + part.mean() for part in parts), torch.zeros(()))


def given_pairs() -> RegionPairs:
    box = torch.rand(2, 4, 4) * 0.4 + 0.2
    label = torch.randint(0, 3, (2, 4))
    return RegionPairs(box[:, :3], box[:, 1:], label[:, :3], label[:, 1:], torch.tensor([[True] * 3, [True, False, False]]))


@pytest.mark.parametrize("fusion", ["alif", "late", "none"])
def test_permuted_labels_give_permuted_logits(fusion: str, parity: Any) -> None:
    model = detector(fusion=fusion).double().eval()
    image, text = torch.rand(2, 3, 40, 56).double(), torch.randn(9, 24).double()
    entities, order, verbs = 5, torch.tensor([3, 0, 2, 1, 4]), torch.tensor([2, 3, 1, 0])
    plain = model(image, text, entities=entities)
    moved = model(image, text[torch.cat((order, entities + verbs))], entities=entities)
    exact = {"atol": 1e-12, "rtol": 0}
    for name in ("subject_box_BSQ4", "object_box_BSQ4"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), **exact)
    for name in ("subject_logit_BSQC", "object_logit_BSQC"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name)[..., order], **exact)
    torch.testing.assert_close(moved.relation_logit_BSQR, plain.relation_logit_BSQR[..., verbs], **exact)
    pairs = [(getattr(moved, name), getattr(plain, name)) for name in ("subject_box_BSQ4", "object_box_BSQ4")]
    pairs += [(getattr(moved, name), getattr(plain, name)[..., order]) for name in ("subject_logit_BSQC", "object_logit_BSQC")]
    pairs.append((moved.relation_logit_BSQR, plain.relation_logit_BSQR[..., verbs]))
    parity("rlipv2", "logits and boxes under permuted labels", "the same, permuted", pairs, tolerance=1e-12)


@pytest.mark.parametrize(("fusion", "boxes", "logits"), [("none", True, True), ("late", True, False), ("alif", False, False)])
def test_what_further_texts_can_change(fusion: str, boxes: bool, logits: bool) -> None:
    """Further relations: nothing without fusion, names alone under late fusion, boxes too under ALIF."""
    model = detector(fusion=fusion).eval()
    for head in (*model.entity_decoder.subject_box, *model.entity_decoder.object_box):
        torch.nn.init.normal_(head.last.weight)
    image, text = torch.rand(1, 3, 40, 40), torch.randn(9, 24)
    few, more = model(image, text[:6], entities=4), model(image, text, entities=4)
    same_boxes = torch.allclose(few.subject_box_BSQ4, more.subject_box_BSQ4, atol=1e-6)
    same_logits = torch.allclose(few.relation_logit_BSQR, more.relation_logit_BSQR[..., :2], atol=1e-5)
    assert (same_boxes, same_logits) == (boxes, logits)


@pytest.mark.parametrize("variant", ["parse", "parsed", "parseda"])
def test_late_fusion_reads_boxes_off_fused_queries_and_references_off_the_decoder(variant: str) -> None:
    model = detector(fusion="late", variant=variant, **({"levels": 1} if variant == "parse" else {})).eval()
    decoder = model.entity_decoder
    for head in (*decoder.subject_box, *decoder.object_box):
        torch.nn.init.normal_(head.last.weight)
    kept: dict[str, Tensor] = {}
    decoder.register_forward_hook(lambda module, args, out: kept.update(queries=args[0].reference_BQC, own=out[1]))
    model.relation_decoder.register_forward_hook(lambda module, args, out: kept.update(asked=args[1]))
    model.late_entities.register_forward_hook(lambda module, args, out: kept.update(fused=out[0]))
    image, text = torch.rand(1, 3, 40, 40), torch.randn(9, 24)
    said = model(image, text, entities=4)
    assert torch.equal(kept["asked"], kept["own"][:, -1])  # relations look where the decoder's own boxes lie
    for layer in range(2):
        for side, slots in (("subject", slice(0, 5)), ("object", slice(5, 10))):
            heads = getattr(decoder, f"{side}_box")
            logit = heads[min(layer, len(heads) - 1)](kept["fused"][:, layer, slots])
            if variant != "parse":
                reference = (kept["queries"] if layer == 0 else kept["own"][:, 0])[:, slots].logit(1e-5)
                logit[..., : reference.shape[-1]] += reference
            torch.testing.assert_close(getattr(said, f"{side}_box_BSQ4")[:, layer], logit.sigmoid())
    text[0] += 1.0
    assert (model(image, text, entities=4).subject_box_BSQ4 - said.subject_box_BSQ4).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["parsed", "parseda"])
def test_fresh_relation_boxes_change_nothing_and_learn_nothing(variant: str) -> None:
    with_boxes, without = (detector(variant=variant, relation_boxes=boxes) for boxes in (True, False))
    added = dict(with_boxes.named_parameters()).keys() - dict(without.named_parameters()).keys()
    assert len(added) == 2 * 2 * 6
    image, text = torch.rand(1, 3, 40, 40), torch.randn(7, 24)
    said = with_boxes(image, text, entities=4)
    torch.testing.assert_close(said.relation_logit_BSQR, without(image, text, entities=4).relation_logit_BSQR)
    objective(said).backward()
    assert all(with_boxes.get_parameter(name).grad is None for name in added)
    for head in (*with_boxes.relation_decoder.subject_box, *with_boxes.relation_decoder.object_box):
        torch.nn.init.constant_(head.last.bias, 1.0)
    moved = with_boxes(image, text, entities=4)
    assert torch.equal(moved.relation_logit_BSQR[:, 0], said.relation_logit_BSQR[:, 0])  # the first layer's reference stays
    assert (moved.relation_logit_BSQR[:, 1] - said.relation_logit_BSQR[:, 1]).abs().max() > 1e-3
    assert torch.equal(moved.subject_box_BSQ4, said.subject_box_BSQ4)


@pytest.mark.parametrize("fusion", ["alif", "late", "none"])
@pytest.mark.parametrize("variant", ["parse", "parsed", "parseda"])
def test_every_variant_reaches_every_parameter(variant: str, fusion: str) -> None:
    model = detector(variant=variant, fusion=fusion, **({"levels": 1} if variant == "parse" else {}))
    pixels = torch.ones(2, 48, 64, dtype=torch.bool)
    pixels[1, :, 40:] = False
    said = model(torch.rand(2, 3, 48, 64), torch.randn(7, 24), entities=4, pixel_BHW=pixels)
    assert said.subject_box_BSQ4.shape == (2, 2, 5, 4)
    assert said.object_logit_BSQC.shape == (2, 2, 5, 4)
    assert said.relation_logit_BSQR.shape == (2, 2, 5, 3)
    objective(said).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "parsed"},
        {"variant": "parsed", "given_point": True},
        {"variant": "parsed", "given_point": True, "relation_start": "slots", "hide_twins": "training"},
        {"variant": "parsed", "given_point": True, "relation_start": "both", "hide_twins": "never"},
        {"variant": "parseda"},
    ],
)
@pytest.mark.parametrize("fusion", ["alif", "late"])
def test_given_pairs_are_related_whatever_stands_in_the_padding(changes: dict[str, Any], fusion: str) -> None:
    model = detector(given=True, fusion=fusion, **changes)
    image, text, given = torch.rand(2, 3, 40, 40), torch.randn(7, 24), given_pairs()
    said = model(image, text, entities=4, given=given)
    objective(said).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    model.eval()
    said = model(image, text, entities=4, given=given)
    alone = RegionPairs(*(getattr(given, name)[1:, :1] for name in RegionPairs.__slots__))
    torch.testing.assert_close(
        model(image[1:], text, entities=4, given=alone).relation_logit_BSQR,
        said.relation_logit_BSQR[1:, :, :1],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("count", [1, 300])
def test_gradients_are_finite_for_one_label_and_for_many(count: int) -> None:
    model = detector()
    said = model(torch.rand(2, 3, 40, 40), torch.randn(count + 1 + count, 24), entities=count + 1)
    objective(said).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert said.relation_logit_BSQR.isfinite().all()


def test_works_without_relation_texts_and_names_images_that_are_too_small() -> None:
    model = detector().eval()
    said = model(torch.rand(1, 3, 16, 16), torch.randn(3, 24), entities=3)
    assert said.relation_logit_BSQR.shape == (1, 2, 5, 0)
    assert said.subject_logit_BSQC.isfinite().all()
    with pytest.raises(ShapeError, match=r"sides of 16 pixels or more, got \[1, 3, 1, 1\]"):
        model(torch.rand(1, 3, 1, 1), torch.randn(3, 24), entities=3)


def test_words_tables_and_vectors_encode_labels() -> None:
    ids, mask = (
        torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 6, 5, 2]]),
        torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 4]),
    )
    torch.manual_seed(0)
    words = label_encoder("text_tiny", vocab_size=9, length=6, width=12, layers=1, heads=2).eval()
    encoded = words(ids, mask)
    assert encoded.shape == (3, 12)
    torch.testing.assert_close(words(ids[1:2, :3], mask[1:2, :3])[0], encoded[1], atol=1e-6, rtol=1e-5)  # each text alone
    assert (encoded[0] - encoded[2]).abs().max() > 1e-3  # words have an order, labels have none
    table = label_encoder("table", labels=4, width=6)
    assert torch.equal(table(torch.tensor([[3], [0]])), table.table.weight[[3, 0]])
    with pytest.raises(ShapeError, match=r"floats \[N, 6\]"):
        label_encoder("vectors", width=6)(ids)


def test_roberta_pools_its_first_token() -> None:
    config = {
        "model_type": "roberta",
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }
    import transformers

    torch.manual_seed(0)
    theirs = transformers.RobertaModel(transformers.RobertaConfig(**config)).eval()
    ours = label_encoder("hf", config=config).eval()
    weights = theirs.state_dict()
    ours.pooler.load_state_dict({name: weights.pop(f"pooler.dense.{name}") for name in ("weight", "bias")})
    ours.tower.net.load_state_dict(weights)
    ids, mask = torch.tensor([[0, 5, 9, 2], [0, 7, 2, 1]]), torch.tensor([[True] * 4, [True] * 3 + [False]])
    torch.testing.assert_close(ours(ids, mask), theirs(ids, mask.long()).pooler_output, atol=1e-6, rtol=0)


def test_layers_are_named_by_the_labels_of_their_own_meeting() -> None:
    model = detector().eval()
    seen: list[Tensor] = []
    model.classifier.project.register_forward_hook(lambda module, args, out: seen.append(out))
    image, text = torch.rand(1, 3, 40, 40), torch.randn(6, 24)
    model(image, text, entities=4)
    with torch.no_grad():
        for parameter in model.encoder.language[1].parameters():
            parameter.add_(torch.randn_like(parameter))
    model(image, text, entities=4)
    assert seen[0].shape == (1, 2, 6, 32)
    assert torch.equal(seen[0][:, 0], seen[1][:, 0])
    assert (seen[0][:, 1] - seen[1][:, 1]).abs().max() > 0.01


def test_wrong_settings_and_lists_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown gate 'open'"):
        detector(gate="open")
    with pytest.raises(ConfigError, match="unknown fusion 'early'"):
        detector(fusion="early")
    with pytest.raises(ConfigError, match="1 meetings for 2 decoder layers"):
        detector(fusion_before=(0,))
    with pytest.raises(ConfigError, match="rising depths"):
        detector(fusion_before=(0, 7))
    with pytest.raises(UnknownName, match="unknown detection backbone 'resnet50'"):
        detection_backbone("resnet50")
    with pytest.raises(ShapeError, match="1 entity texts of 3 texts"):
        detector()(torch.rand(1, 3, 32, 32), torch.randn(3, 24), entities=1)
    with pytest.raises(ConfigError, match="takes no given pairs"):
        detector()(torch.rand(2, 3, 32, 32), torch.randn(5, 24), entities=3, given=given_pairs())
    with pytest.raises(ConfigError, match="relates given regions"):
        detector(given=True)(torch.rand(1, 3, 32, 32), torch.randn(5, 24), entities=3)


@pytest.mark.parametrize(("name", "channels"), [("timm:resnet18", (128, 256, 512)), ("timm:swin_s3_tiny_224", (192, 384, 768))])
def test_timm_backbones_give_maps_of_three_strides(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = detection_backbone(name)
        maps = backbone(torch.zeros(1, 3, 96, 64)) if "resnet" in name else None
    assert (backbone.strides, backbone.channels) == ((8, 16, 32), channels)
    if maps is not None:
        assert [tuple(map_.shape[1:]) for map_ in maps] == [
            (c, 96 // s, 64 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
        ]


def test_frozen_norms_have_no_parameters() -> None:
    with torch.device("meta"):
        free, frozen = (detection_backbone("timm:resnet18", frozen_norm=flag) for flag in (False, True))
    norms = [name for name, _ in free.named_parameters() if "bn" in name]
    assert norms
    assert not {name for name, _ in frozen.named_parameters()} & set(norms)
