"""ULIP-2: texts of the view that is shown, colours that are missing, the released towers, and Uni3D's checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.api import load
from diptych.core.errors import ConfigError, DataError
from diptych.core.media import ArraySource, MediaItem
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.models.points.point_bert import PointBERT
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.released import from_released
from diptych.models.points.uni3d import Uni3DSettings, Uni3DTower
from diptych.models.points.uni3d_released import MODELS, from_uni3d, uni3d_settings
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.points.ulip2 import ULIP2
from diptych.tasks.pairs.zero_shot import class_heads
from diptych.worlds.solids.world import solids

from .test_ulip import RELEASED, SMALL, doubled, filled

UNI3D = json.loads((Path(__file__).parent / "fixtures" / "uni3d_released.json").read_text())
FRESH = replace(ULIP2.tiny(), small_steps=0, batch_size=4, names="views")
DATA = solids(8, points=300, views=3, captions=4)


def test_tower_is_the_released_one(parity: Any) -> None:
    tower = PointBERT(replace(SMALL, in_channels=6)).double().eval()
    own = tower.state_dict()
    for theirs in RELEASED["names6"]:
        ours = next(iter(from_released({f"point_encoder.{theirs}": torch.zeros(1)}))).removeprefix("tower.")
        if not theirs.endswith("num_batches_tracked"):
            own[ours].copy_(filled(f"point_encoder.{theirs}", tuple(own[ours].shape)))
    point_BPF = filled("cloud6", (2, 40, 6)) * 5
    point_BPF[0, 3], point_BPF[1, 5] = 0.0, 0.01
    pairs = [(tower(point_BPF), doubled(RELEASED["tower6"]["eval"]))]
    parity("ulip2", "vectors of the coloured point tower", "released code, salesforce/ULIP", pairs, tolerance=1e-9)


def test_text_of_a_step_is_the_zero_shot_ensemble_of_its_captions(parity: Any) -> None:
    """Views have one to three captions."""

    def fewer(sample: Any, row: int) -> Any:
        kept = [c for k, c in enumerate(sample.extras["view_captions"]) if k % 4 <= (row + c["view"]) % 3]
        return replace(sample, extras={**sample.extras, "view_captions": kept})

    data = Pool.from_samples(fewer(DATA[row], row) for row in range(len(DATA)))
    recipe = FRESH.prepare(data)
    torch.manual_seed(0)
    model = recipe.model().double()
    (step,) = batches(data, recipe, seed=0, stop=1)
    assert step.batch.text_weight_BT is not None
    text_BTL, mask_BTL = step.batch.text_BTL, step.batch.text_mask_BTL
    ours_BD = model.encode_texts(text_BTL, mask_BTL, step.batch.text_weight_BT.double())
    pairs = []
    for row, weight_T in enumerate(step.batch.text_weight_BT):
        count = int(weight_T.sum())
        sentence_TD = model.encode_text(text_BTL[row, :count], mask_BTL[row, :count])
        pairs.append((ours_BD[row], torch.from_numpy(class_heads(sentence_TD[None].numpy())[0])))
    assert len({int(weight_T.sum()) for weight_T in step.batch.text_weight_BT}) > 1
    parity("ulip2", "text of a view", "class vectors of zero-shot evaluation", pairs, tolerance=1e-7)


def test_captions_are_those_of_the_view_that_is_shown() -> None:
    """Ranked by similarity; the drawn one is among the best."""

    def ranked(sample: Any) -> Any:
        rows = [
            {"view": view, "string": f"view {view} rank {rank}", "similarity": 1 - rank / 10}
            for view in range(3)
            for rank in (4, 0, 2, 1, 3)
        ]
        return replace(sample, extras={**sample.extras, "view_captions": rows})

    sample = ranked(DATA[0])
    for anchors in ("both", "text"):
        recipe = replace(FRESH, anchors=anchors, top=2)
        seen = set()
        for seed in range(12):
            rng = np.random.default_rng(seed)
            loaded = recipe.load(sample, rng)
            draw = type("Draw", (), {"sample": sample, "media": loaded, "rng": rng})
            assert recipe.texts(draw) == (f"view {loaded['view']} rank 0", f"view {loaded['view']} rank 1")  # type: ignore[arg-type]
            (drawn,) = replace(recipe, captions="drawn").texts(draw)  # type: ignore[arg-type]
            assert drawn in recipe.texts(draw)  # type: ignore[arg-type]
            seen.add(loaded["view"])
            if anchors == "both":
                shown = sample.media["views"].decode()[loaded["view"]]
                np.testing.assert_array_equal(loaded["pixels"], shown)
        assert seen == {0, 1, 2}
    with pytest.raises(DataError, match="no captions of its views"):
        FRESH.captions_of(solids(1)[0])


def test_missing_colour_is_the_same_constant_in_training_and_at_inference() -> None:
    plain = DATA[0].media["cloud"].decode()[:, :3]
    item = MediaItem("cloud", (ArraySource(plain, "plain"),))
    recipe = replace(FRESH, names="texts").prepare(DATA)
    trained = recipe.load(replace(DATA[0], media={**DATA[0].media, "cloud": item}), np.random.default_rng(0))["cloud"]
    deployed = recipe.deploy(recipe.model().eval())
    np.testing.assert_allclose(trained[:, 3:], 0.4)
    np.testing.assert_allclose(deployed.clouds(plain)[:, 3:], 0.4)
    assert ULIP2.paper().clouds == CloudPreprocess(points=10_000, channels=6, missing=0.4)


def test_paper_has_the_released_sizes() -> None:
    import open_clip

    with torch.device("meta"):
        model = ULIP2.paper().model()
        big = open_clip.model.CLIP(**open_clip.get_model_config("ViT-bigG-14"))
    assert sum(p.numel() for p in model.tower.parameters()) == RELEASED["parameters_colour"]
    assert sum(p.numel() for p in model.anchors.parameters()) == sum(p.numel() for p in big.parameters())
    assert model.projection.weight.shape == (1280, 768)
    assert ULIP2.paper().tower.skip == 1e-3, "pointnet2_ops passes over points this near to the origin"


def uni3d_weights(tower: Uni3DTower, out: int) -> dict[str, torch.Tensor]:
    """Deterministic tensors of the point side under the released names, the image model's unused ones among them."""
    sizes = {"point_encoder.trans2embed.weight": (out, tower.out_width), "point_encoder.trans2embed.bias": (out,)}
    tensors = {f"point_encoder.{name}": filled(f"point_encoder.{name}", tuple(shape)).float() for name, shape in UNI3D["names"]}
    return tensors | {name: filled(name, shape).float() for name, shape in sizes.items()} | {"logit_scale": torch.tensor(2.0)}


def test_uni3d_tower_is_the_released_one(parity: Any) -> None:
    settings = Uni3DSettings(model="eva02_tiny_patch14_224", groups=8, group_size=6, encoder=24)
    tower = Uni3DTower(settings).double().eval()
    read = {name.removeprefix("tower."): value for name, value in from_uni3d(uni3d_weights(tower, 16)).items()}
    outside = {name: read.pop(name).double() for name in ("projection.weight", "projection.bias", "log_scale")}
    assert read.keys() == tower.state_dict().keys()
    for name, shape in UNI3D["names"]:
        ours = next(iter(from_uni3d({f"point_encoder.{name}": torch.zeros(1)})), "")
        if ours.startswith("tower.") and not name.endswith("num_batches_tracked"):
            tower.state_dict()[ours.removeprefix("tower.")].copy_(filled(f"point_encoder.{name}", tuple(shape)))
    weight, bias = (
        filled(f"point_encoder.trans2embed.{part}", tuple(outside[f"projection.{part}"].shape)) for part in ("weight", "bias")
    )
    point_BPF = filled("cloud6", (2, 40, 6)) * 5
    point_BPF[0, 3], point_BPF[1, 5] = 0.0, 0.01
    vector_BD = tower(point_BPF) @ weight.T + bias
    pairs = [(vector_BD, doubled(UNI3D["eval"]))]
    parity("ulip2", "vectors of Uni3D's tower", "released code, baaivision/Uni3D", pairs, tolerance=1e-9)


@pytest.mark.parametrize("model", [MODELS[768, 12], MODELS[1408, 40]])
def test_uni3d_layouts_leave_nothing_over(model: str) -> None:
    """Full sizes on the meta device."""
    import timm

    with torch.device("meta"):
        tower, net = Uni3DTower(Uni3DSettings(model=model)), timm.create_model(model)
        theirs = {f"point_encoder.visual.{name}": tensor for name, tensor in net.state_dict().items()}
        back = {
            "group_encoder.local": "encoder.first_conv",
            "group_encoder.joint": "encoder.second_conv",
            "reduce": "encoder2trans",
        }
        back |= {"class_token_11D": "cls_token", "class_position_11D": "cls_pos", "position": "pos_embed"}
        for name, tensor in tower.state_dict().items():
            if old := next((old for old in back if name.startswith(old)), None):
                theirs[f"point_encoder.{name.replace(old, back[old])}"] = tensor
        width = tower.out_width
        theirs |= {
            "point_encoder.trans2embed.weight": torch.empty(1024, width),
            "point_encoder.trans2embed.bias": torch.empty(1024),
        }
        theirs["logit_scale"] = torch.empty(())
        assert uni3d_settings(theirs) == Uni3DSettings(model=model)
        anchor = CLIP(image_tower="vit_micro", text_tower="text_micro", width=1024, image_size=48, text_length=24).model()
        own = {n: tuple(t.shape) for n, t in PointEncoder(anchor, uni3d_settings(theirs)).state_dict().items()}
        read = {name: tuple(tensor.shape) for name, tensor in from_uni3d(theirs).items()}
    assert read == {name: shape for name, shape in own.items() if not name.startswith("anchors.")}


def test_a_released_uni3d_opens_by_address(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = replace(CLIP.tiny(), tokenizer="data", width=16).prepare(DATA)
    small.deploy(small.model().eval()).save(tmp_path / "anchor")
    tower = Uni3DTower(Uni3DSettings(model="eva02_tiny_patch14_224", encoder=24))
    tensors = uni3d_weights(tower, 16)
    torch.save({"module": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 1}, tmp_path / "uni3d.pt")
    model = load(f"uni3d:{tmp_path / 'uni3d.pt'}#{tmp_path / 'anchor'}")
    assert (model.clouds.points, model.clouds.channels, model.model.settings.group_size) == (10_000, 6, 64)
    model.clouds = replace(model.clouds, points=80)
    model.model.tower.settings = replace(model.model.settings, groups=8)
    cloud = np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32)
    point_1PF = torch.from_numpy(model.clouds(cloud)[None])
    vector_D = model.model.tower(point_1PF)[0] @ tensors["point_encoder.trans2embed.weight"].T
    expected_D = torch.nn.functional.normalize(vector_D + tensors["point_encoder.trans2embed.bias"], dim=-1)
    np.testing.assert_allclose(model.embed_points([cloud])[0], expected_D.detach().numpy(), atol=1e-5)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.model.settings == model.model.settings
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name]), name
    with pytest.raises(ConfigError, match="does not name a dual encoder"):
        load(f"uni3d:{tmp_path / 'uni3d.pt'}")
    with pytest.raises(DataError, match="there is no such file"):
        load("uni3d:nowhere.pt#x")
