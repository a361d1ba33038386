"""The released models: their size, and that every tensor of a released checkpoint has its place, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.rlipv2.published import BACKBONES, ROBERTA, build, from_released, to_released


def released_names(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released state dict, written down from the released modules and the libraries that they build on."""
    import torchvision
    import transformers

    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int = 256) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def deformable(name: str) -> None:
        for part, out in (("sampling_offsets", 256), ("attention_weights", 128), ("value_proj", 256), ("output_proj", 256)):
            linear(f"{name}.{part}", out, 256)

    t = "transformer"
    for i in range(6):
        deformable(f"{t}.encoder.layers.{i}.self_attn")
        linear(f"{t}.encoder.layers.{i}.linear1", 2048, 256), linear(f"{t}.encoder.layers.{i}.linear2", 256, 2048)
        norm(f"{t}.encoder.layers.{i}.norm1"), norm(f"{t}.encoder.layers.{i}.norm2")
    with torch.device("meta"):
        roberta = transformers.RobertaModel(transformers.RobertaConfig(**ROBERTA))
        resnet = torchvision.models.resnet50()
    for k in range(3):
        for name, value in roberta.encoder.layer[0].state_dict().items():
            shapes[f"{t}.encoder.roberta_layers.{k}.{name}"] = tuple(value.shape)
        b = f"{t}.encoder.VLFuse_layers.{k}.b_attn"
        norm(f"{b}.layer_norm_v"), norm(f"{b}.layer_norm_l", 768)
        for side, width in (("v", 256), ("l", 768)):
            linear(f"{b}.attn.{side}_proj", 2048, width)
            linear(f"{b}.attn.values_{side}_proj", 2048, width)
            linear(f"{b}.attn.out_{side}_proj", width, 2048)
            shapes[f"{b}.gamma_{side}"] = (width,)
    for name, value in roberta.state_dict().items():
        shapes[f"{t}.text_encoder.{name}"] = tuple(value.shape)
    shapes[f"{t}.text_encoder.embeddings.position_ids"] = (1, 514)
    for decoder in ("ho_decoder", "verb_decoder"):
        for i in range(3):
            layer = f"{t}.{decoder}.layers.{i}"
            deformable(f"{layer}.cross_attn")
            shapes[f"{layer}.self_attn.in_proj_weight"], shapes[f"{layer}.self_attn.in_proj_bias"] = (768, 256), (768,)
            linear(f"{layer}.self_attn.out_proj", 256, 256)
            linear(f"{layer}.linear1", 2048, 256), linear(f"{layer}.linear2", 256, 2048)
            for n in (1, 2, 3):
                norm(f"{layer}.norm{n}")
        linear(f"{t}.{decoder}.query_scale.layers.0", 256, 256), linear(f"{t}.{decoder}.query_scale.layers.1", 256, 256)
        linear(f"{t}.{decoder}.ref_point_head.layers.0", 256, 512), linear(f"{t}.{decoder}.ref_point_head.layers.1", 256, 256)
    for side in ("sub", "obj"):
        places = [f"{side}_bbox_embed.{i}" for i in range(6)]
        places += [f"{t}.{decoder}.{side}_bbox_embed.{i}" for decoder in ("ho_decoder", "verb_decoder") for i in range(3)]
        for place in places:
            for n, out in ((0, 256), (1, 256), (2, 4)):
                linear(f"{place}.layers.{n}", out, 256)
    for c in range(16):
        linear(f"{t}.verb_tgt_generator.fc_1.{c}", 16, 256), linear(f"{t}.verb_tgt_generator.fc_2.{c}", 16, 256)
        linear(f"{t}.verb_tgt_generator.fc_3.{c}", 256, 16)
    shapes[f"{t}.level_embed"] = (4, 256)
    linear(f"{t}.resizer.fc", 256, 768), norm(f"{t}.resizer.layer_norm")
    shapes |= {"tgt_embed.weight": (200, 256), "verb_tgt_embed.weight": (200, 256), "refpoint_embed.weight": (200, 4)}
    shapes |= {"bias_obj_a": (256,), "bias_pred_a": (256,)}
    linear("projection_text", 256, 256)

    channels = {"resnet50": (512, 1024, 2048), "swin_tiny": (192, 384, 768), "swin_large": (384, 768, 1536)}[backbone]
    for level, count in enumerate((*channels, channels[-1])):
        kernel = 3 if level == 3 else 1
        shapes[f"input_proj.{level}.0.weight"], shapes[f"input_proj.{level}.0.bias"] = (256, count, kernel, kernel), (256,)
        norm(f"input_proj.{level}.1")
    body = "backbone.0.body"
    if backbone == "resnet50":
        for name, value in resnet.state_dict().items():
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
                shapes[f"{body}.{name}"] = tuple(value.shape)
        return shapes
    first, window, depths = (96, 7, (2, 2, 6, 2)) if backbone == "swin_tiny" else (192, 7, (2, 2, 18, 2))
    shapes[f"{body}.patch_embed.proj.weight"], shapes[f"{body}.patch_embed.proj.bias"] = (first, 3, 4, 4), (first,)
    norm(f"{body}.patch_embed.norm", first)
    for stage, depth in enumerate(depths):
        width = first * 2**stage
        for i in range(depth):
            block = f"{body}.layers.{stage}.blocks.{i}"
            norm(f"{block}.norm1", width), norm(f"{block}.norm2", width)
            heads = width // 32
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            shapes[f"{block}.attn.relative_position_index"] = (window**2, window**2)
            linear(f"{block}.attn.qkv", 3 * width, width), linear(f"{block}.attn.proj", width, width)
            linear(f"{block}.mlp.fc1", 4 * width, width), linear(f"{block}.mlp.fc2", width, 4 * width)
        if stage < 3:
            norm(f"{body}.layers.{stage}.downsample.norm", 4 * width)
            shapes[f"{body}.layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            norm(f"{body}.norm{stage + 1}", 2 * width)
    return shapes


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_no_name_and_no_shape_is_left_over_on_either_side(backbone: str) -> None:
    with torch.device("meta"):
        ours = build(backbone).state_dict()
        expected = released_names(backbone)
        written = {name: tuple(tensor.shape) for name, tensor in to_released(ours).items()}
        assert written == expected
        read = from_released({name: torch.empty(shape) for name, shape in expected.items()})
    assert {name: tensor.shape for name, tensor in read.items()} == {name: tensor.shape for name, tensor in ours.items()}


@pytest.mark.parametrize(
    ("backbone", "count"), [("resnet50", 213_693_718), ("swin_tiny", 214_236_752), ("swin_large", 383_827_562)]
)
def test_published_architectures_have_their_size(backbone: str, count: int) -> None:
    with torch.device("meta"):
        model = build(backbone)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_values_survive_both_ways() -> None:
    """On a few tensors of every kind that the two sides hold differently."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    ours = {
        "encoder.language.1.0.self_attn.in_proj_weight": values(768 * 3, 4),
        "encoder.language.1.0.norm1.weight": values(768),
        "encoder.fusions.2.label_gate.gate": values(1),
        "relation_decoder.fuse.first.weight": values(256, 256),
        "relation_decoder.fuse.out.weight": values(256, 256),
        "relation_decoder.fuse.out.bias": values(256),
        "entity_decoder.subject_box.1.4.weight": values(4, 256),
        "relation_decoder.subject_box.1.4.weight": values(4, 256),
        "entity_decoder.layers.0.norm_1.weight": values(256),
        "labels.tower.net.embeddings.position_embeddings.weight": values(514, 4),
        "backbone.net.layers_2.downsample.reduction.weight": values(8, 16),
        "backbone.net.layers_2.blocks.0.attn.relative_position_bias_table": values(25, 2),
        "backbone.norms.0.weight": values(8),
    }
    theirs = to_released(ours)
    for name, tensor in from_released(theirs).items():
        torch.testing.assert_close(tensor, ours[name])
    value = "transformer.encoder.roberta_layers.1.attention.self.value.weight"
    assert torch.equal(theirs[value], ours["encoder.language.1.0.self_attn.in_proj_weight"][2 * 768 :])
    assert torch.equal(theirs["transformer.ho_decoder.layers.0.norm2.weight"], ours["entity_decoder.layers.0.norm_1.weight"])
    assert torch.equal(theirs["transformer.verb_tgt_generator.fc_3.5.weight"], ours["relation_decoder.fuse.out.weight"][:, 80:96])
    assert torch.equal(theirs["sub_bbox_embed.4.layers.2.weight"], ours["relation_decoder.subject_box.1.4.weight"])
    assert "backbone.0.body.layers.1.downsample.reduction.weight" in theirs
    with pytest.raises(ConfigError, match=r"'head\.weight' has no place in RLIPv2-ParSeDA"):
        from_released({"head.weight": values(1)})


@pytest.mark.parametrize("kept", ["top", "decoders", "both"])
def test_box_heads_may_stand_under_either_of_their_names(kept: str) -> None:
    """The release shares every head between the top and a decoder; a file that keeps a shared tensor once has one name of the two."""
    ours = {
        f"{decoder}_decoder.{side}_box.{layer}.4.bias": torch.randn(4)
        for decoder in ("entity", "relation")
        for side in ("subject", "object")
        for layer in range(3)
    }
    written = to_released(ours)
    top = {name for name in written if name.startswith(("sub_", "obj_"))}
    assert len(top) == len(ours)
    written = {
        name: value for name, value in written.items() if kept == "both" or "bbox" not in name or (name in top) == (kept == "top")
    }
    read = from_released(written)
    assert all(torch.equal(read[name], value) for name, value in ours.items())


def test_a_model_without_relation_boxes_is_written_with_heads_that_change_nothing() -> None:
    ours = {f"entity_decoder.object_box.0.{row}.bias": torch.randn(4) for row in (2, 4)}
    written = to_released(ours)
    for name in ("obj_bbox_embed.3.layers", "transformer.verb_decoder.obj_bbox_embed.0.layers"):
        assert not written[f"{name}.2.bias"].any()
        assert written[f"{name}.1.bias"].any()


def test_windows_are_numbered_as_swin_numbers_them() -> None:
    from timm.models.swin_transformer import WindowAttention

    table = "backbone.net.layers_0.blocks.0.attn.relative_position_bias_table"
    written = to_released({table: torch.zeros(49, 1)})
    expected = WindowAttention(dim=4, num_heads=1, window_size=4).relative_position_index
    assert torch.equal(written["backbone.0.body.layers.0.blocks.0.attn.relative_position_index"], expected)


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown published backbone 'resnet-50'; did you mean 'resnet50'"):
        build("resnet-50")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_full_size_reads_a_released_state_dict_and_answers(backbone: str) -> None:
    torch.manual_seed(0)
    model = build(backbone).eval()
    image, ids = torch.rand(1, 3, 96, 128), torch.randint(4, 50_000, (7, 6))
    mask = torch.ones(7, 6, dtype=torch.bool)
    with torch.no_grad():
        before = model(image, ids, mask, entities=4)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for parameter in model.parameters():
            parameter.zero_()
        model.load_state_dict(from_released(to_released(state)))
        after = model(image, ids, mask, entities=4)
    assert before.relation_logit_BSQR.shape == (1, 3, 100, 3)
    torch.testing.assert_close(after.subject_logit_BSQC, before.subject_logit_BSQC)
    torch.testing.assert_close(after.relation_logit_BSQR, before.relation_logit_BSQR)
