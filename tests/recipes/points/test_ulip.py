"""ULIP: the released tower, loss, augmentations and layout; what a step reads; directions of the gradient; clouds that are refused."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.api import load
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.media import ArraySource, MediaItem
from diptych.data.load.stream import batches
from diptych.data.media.cloud_views import CloudAugment, CloudPreprocess, furthest_rows, unit_sphere
from diptych.data.text.prompts.cloud_templates import cloud_templates
from diptych.models.layers.transformer import l2_normalise
from diptych.models.points.point_bert import PointBERT, PointBERTSettings
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.released import from_released, released_anchor, released_settings
from diptych.objectives.pairs.anchored_contrast import anchored_contrast
from diptych.recipes.points.ulip import ULIP, templated
from diptych.worlds.solids.world import solids

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "ulip_released.json").read_text())
SMALL = PointBERTSettings(groups=8, group_size=6, encoder=16, token_width=24, layers=3, heads=2, skip=1e-3)
FRESH = replace(ULIP.tiny(), small_steps=0, batch_size=4)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        value = np.abs(value) + 1
    return torch.from_numpy(np.asarray(value))


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("channels", [3, 6])
def test_tower_is_the_released_one(channels: int, parity: Any) -> None:
    """Also with a point at the origin, which its sampling never chooses."""
    expected, tower = RELEASED[f"tower{channels}"], PointBERT(replace(SMALL, in_channels=channels)).double()
    own = tower.state_dict()
    names = {name: next(iter(from_released({f"point_encoder.{name}": torch.zeros(1)}))) for name in RELEASED[f"names{channels}"]}
    assert {ours.removeprefix("tower.") for ours in names.values()} == set(own)
    for theirs, ours in names.items():
        held = own[ours.removeprefix("tower.")]
        if not theirs.endswith("num_batches_tracked"):
            held.copy_(filled(f"point_encoder.{theirs}", tuple(held.shape)))
    point_BPF = filled(f"cloud{channels}", (2, 40, channels)) * 5
    point_BPF[0, 3], point_BPF[1, 5] = 0.0, 0.01
    pairs = [(tower.eval()(point_BPF), doubled(expected["eval"]))]
    for block in tower.train().blocks:
        block.drop_path1 = block.drop_path2 = torch.nn.Identity()  # type: ignore[union-attr]
    trained = tower(point_BPF)
    shown = [tower.class_position_11D, tower.group_encoder.local[0].weight, tower.blocks[2].attn.qkv.weight]  # type: ignore[union-attr]
    grads = torch.autograd.grad(trained.square().sum(), shown)
    pairs += [(trained, doubled(expected["train"]))]
    pairs += [(grad.flatten()[:12], doubled(theirs)) for grad, theirs in zip(grads, expected["grads"], strict=True)]
    parity("ulip", "vectors of the point tower, and gradients", "released code, salesforce/ULIP", pairs, tolerance=1e-9)


def test_loss_is_the_released_one(parity: Any) -> None:
    raw_ND, scale = filled("point", (5, 8)).requires_grad_(), doubled(14.0).requires_grad_()
    anchors = {name: F.normalize(filled(name, (5, 8)), dim=-1) for name in ("text", "image")}
    terms = anchored_contrast(F.normalize(raw_ND, dim=-1), anchors, scale=scale)
    total = terms["text"] + terms["image"]
    grads = torch.autograd.grad(total, [raw_ND, scale])
    expected = RELEASED["loss"]
    pairs = [(total, doubled(expected["loss"])), (grads[0], doubled(expected["point"])), (grads[1], doubled(expected["scale"]))]
    parity("ulip", "loss and its gradients", "released code, salesforce/ULIP", pairs, tolerance=1e-9)


def test_one_direction_of_gradient_keeps_the_loss() -> None:
    raw_ND = filled("point", (5, 8)).requires_grad_()
    text_ND = F.normalize(filled("text", (5, 8)), dim=-1)
    both = anchored_contrast(F.normalize(raw_ND, dim=-1), {"text": text_ND}, scale=9.0)["text"]
    one = anchored_contrast(F.normalize(raw_ND, dim=-1), {"text": text_ND}, scale=9.0, gradient="from_points")["text"]
    torch.testing.assert_close(one, both)
    logit_NN = 9.0 * F.normalize(raw_ND, dim=-1) @ text_ND.T
    (expected,) = torch.autograd.grad(F.cross_entropy(logit_NN, torch.arange(5)) / 2, raw_ND)
    torch.testing.assert_close(torch.autograd.grad(one, raw_ND)[0], expected)


def test_reading_and_augmentations_are_the_released_ones(parity: Any) -> None:
    expected, rng = RELEASED["read"], np.random.default_rng(7)
    cloud_P3 = filled("augmented", (20, 3)).numpy()
    sampled_P3 = cloud_P3[furthest_rows(cloud_P3, 9, start=4)]
    unit_P3 = unit_sphere(sampled_P3)
    changed_P3 = CloudAugment()(unit_P3, rng)
    pairs = [
        (torch.from_numpy(ours).double(), doubled(expected[name]))
        for ours, name in ((sampled_P3, "sampled"), (unit_P3, "unit"), (changed_P3, "augmented"))
    ]
    parity("ulip", "sampled, centred and augmented points", "released code, salesforce/ULIP", pairs, tolerance=1e-6)


def test_templates_nest_as_released_only_if_asked() -> None:
    assert len(set(cloud_templates())) == 64
    assert templated("cup")[1] == "There is a cup in the scene."
    assert templated("cup", nested=True)[1] == "There is a a point cloud model of cup. in the scene."


def test_a_step_reads_cloud_name_and_view() -> None:
    data = solids(8, points=300)
    recipe = replace(FRESH, templates=True).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    assert step.batch.point_BPF.shape == (4, 256, 3)
    assert step.batch.text_BTL.shape[:2] == (4, 64)
    torch.manual_seed(0)
    model = recipe.model()
    features = recipe.features(model, step.batch)
    one_D = model.encode_text(step.batch.text_BTL[0], step.batch.text_mask_BTL[0])
    torch.testing.assert_close(features.text_ND[0], l2_normalise(one_D.mean(0)), atol=1e-6, rtol=0)
    sum(recipe.losses(features, step.batch).values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if name.startswith("anchors.") and p.grad is not None]
    for anchor, silent in (("text", "image_BCHW"), ("image", "text_BTL")):
        alone = replace(recipe, anchors=anchor)
        (step,) = batches(data, alone, seed=0, stop=1)
        assert getattr(step.batch, silent) is None
        assert list(alone.losses(alone.features(model, step.batch), step.batch)) == [anchor]


def test_scale_of_the_anchor_is_frozen() -> None:
    recipe = replace(FRESH, scale="anchor").prepare(solids(8))
    model = recipe.model()
    assert not model.log_scale.requires_grad
    torch.testing.assert_close(model.log_scale, model.anchors["encoder"].log_scale)


def test_paper_has_the_released_sizes() -> None:
    with torch.device("meta"):
        model = ULIP.paper().model()
    assert sum(p.numel() for p in model.tower.parameters()) == RELEASED["parameters"]
    coloured = PointBERTSettings(in_channels=6, layers=18)
    with torch.device("meta"):
        assert sum(p.numel() for p in PointBERT(coloured).parameters()) == RELEASED["parameters_colour"]
    assert sorted(n for n, p in model.named_parameters() if p.requires_grad and "tower.blocks" not in n)[0] == "log_scale"
    assert ULIP.paper().tower.skip == 1e-3, "pointnet2_ops passes over points this near to the origin"


def slip_file(**sizes: int) -> dict[str, Tensor]:
    """Tensors of SLIP's towers, made of timm's vision transformer and open_clip's text transformer."""
    import open_clip
    import timm

    width, layers = sizes.get("width", 768), sizes.get("layers", 12)
    image = timm.create_model(
        "vit_base_patch16_224",
        num_classes=0,
        embed_dim=width,
        depth=layers,
        num_heads=width // 64,
        img_size=sizes.get("side", 224),
    )
    inner = sizes.get("inner", 512)
    text = open_clip.model.CLIP(
        sizes.get("out", 512),
        vision_cfg={"image_size": 32, "patch_size": 16, "layers": 1, "width": 64},
        text_cfg={"context_length": 77, "width": inner, "heads": inner // 64, "layers": layers},
        quick_gelu=True,
    )
    named = {f"visual.{name}": tensor for name, tensor in image.state_dict().items()}
    named |= {n: t for n, t in text.state_dict().items() if not n.startswith("visual.") and n != "attn_mask"}
    return named | {"image_projection": torch.empty(width, sizes.get("out", 512))}


def released_file(settings: PointBERTSettings, out: int) -> dict[str, Tensor]:
    """Tensors of the point side, under the released names."""
    theirs = {}
    for layer in range(settings.layers):
        for name in RELEASED["names3"]:
            renamed = name.replace("blocks.blocks.0.", f"blocks.blocks.{layer}.")
            if "blocks.blocks." not in name or "blocks.blocks.0." in name:
                theirs[f"point_encoder.{renamed}"] = renamed
    held = PointBERT(settings).state_dict()
    tensors = {name: held[next(iter(from_released({name: torch.zeros(1)}))).removeprefix("tower.")] for name in theirs}
    return tensors | {"pc_projection": torch.empty(2 * settings.token_width, out), "logit_scale": torch.tensor(2.0)}


def test_released_layouts_leave_nothing_over() -> None:
    """Full sizes on the meta device: ULIP's with SLIP, ULIP-2's with ViT-bigG/14."""
    import open_clip

    with torch.device("meta"):
        slip = slip_file() | released_file(PointBERTSettings(), 512)
        big = open_clip.model.CLIP(**open_clip.get_model_config("ViT-bigG-14")).state_dict()
        coloured = released_file(PointBERTSettings(in_channels=6, layers=18), 1280)
        for tensors, channels in ((slip, 3), (coloured | {f"open_clip_model.{n}": t for n, t in big.items()}, 6)):
            settings = released_settings(tensors)
            assert settings == PointBERTSettings(in_channels=channels, layers=12 if channels == 3 else 18, skip=1e-3)
            model = PointEncoder(released_anchor(tensors), settings)
            shapes = {name: tuple(tensor.shape) for name, tensor in from_released(tensors).items()}
            assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_a_released_file_opens_by_address(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = PointBERTSettings(encoder=16, token_width=64, layers=1, heads=1)
    tensors = slip_file(width=64, layers=1, side=32, inner=64, out=32) | released_file(settings, 32)
    tensors = {name: torch.randn(t.shape) * 0.1 if t.is_floating_point() and t.ndim else t for name, t in tensors.items()}
    tensors = {name: t.abs() + 1 if name.endswith("running_var") else t for name, t in tensors.items()}
    saved = {"state_dict": {f"module.{name}": t for name, t in tensors.items()}, "epoch": 3}
    torch.save(saved, tmp_path / "ulip.pt")
    model = load(f"ulip:{tmp_path / 'ulip.pt'}")
    cloud = MediaItem("cloud", (ArraySource(np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)),))
    assert model.clouds.points == 8192
    model.clouds = replace(model.clouds, points=600)
    vector_D = model.embed_points([cloud.decode()])[0]
    point_1PF = torch.from_numpy(model.clouds(cloud.decode())[None])
    expected_D = model.model.tower(point_1PF)[0] @ tensors["pc_projection"]
    np.testing.assert_allclose(vector_D, F.normalize(expected_D, dim=-1).detach().numpy(), atol=1e-5)
    import timm

    image = timm.create_model("vit_base_patch16_224", num_classes=0, embed_dim=64, depth=1, num_heads=1, img_size=32).eval()
    image.load_state_dict({n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")})
    picture = torch.randn(1, 3, 32, 32)
    expected = F.normalize(image(picture) @ tensors["image_projection"], dim=-1)
    torch.testing.assert_close(model.model.encode_image(picture), expected, atol=1e-5, rtol=0)
    del saved["state_dict"]["module.point_encoder.norm.bias"]
    torch.save(saved, tmp_path / "ulip.pt")
    with pytest.raises(ConfigError, match=r"not in the file: tower\.norm\.bias"):
        load(f"ulip:{tmp_path / 'ulip.pt'}")
    with pytest.raises(DataError, match="there is no such file"):
        load("ulip:nowhere.pt")


def test_clouds_that_cannot_be_read_are_refused() -> None:
    read = CloudPreprocess(points=8)
    with pytest.raises(DecodeError, match="not empty"):
        read(np.zeros((0, 3), np.float32))
    with pytest.raises(DecodeError, match="not finite"):
        read(np.array([[0, np.nan, 0]], np.float32))
    assert read(np.eye(3, dtype=np.float32)).shape == (8, 3)
    strict = replace(read, too_few="refuse")
    with pytest.raises(DecodeError, match=r"a\.npy.*3 points.*8 or more, or too_few=repeat"):
        strict(np.eye(3, dtype=np.float32), name="a.npy")
    assert strict(np.eye(8, 3, dtype=np.float32)).shape == (8, 3)
    with pytest.raises(ConfigError, match="too_few is 'some'"):
        CloudPreprocess(too_few="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="up is 'w'"):
        CloudPreprocess(up="w")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="equal channels"):
        replace(FRESH, clouds=CloudPreprocess(points=256, channels=6))
    coloured = CloudPreprocess(points=2, channels=6)
    np.testing.assert_allclose(coloured(np.eye(3, dtype=np.float32)[:2])[:, 3:], 0.4)
    np.testing.assert_allclose(coloured(np.array([[0, 0, 0, 255, 0, 51], [1, 0, 0, 0, 0, 0]], np.float32))[0, 3:], [1, 0, 0.2])
