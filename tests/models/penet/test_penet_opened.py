"""Released PE-Net checkpoints: every tensor has its place, and what is folded into weights computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import diptych as dp
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.models.detection.backbone import detection_backbone
from diptych.models.penet.opened import (
    BACKBONE,
    MEAN,
    PREDICTOR,
    RELEASED,
    STD,
    flattened,
    from_released,
    is_nested,
    load_released,
)
from diptych.models.penet.predicate_head import PENetHeadConfig, PredicatePrototypeHead
from diptych.models.penet.scene_graph_network import SceneGraphNetwork
from diptych.recipes.relations.penet import PENet
from diptych.worlds.links.world import links

NAMES = Path(__file__).parents[1] / "fixtures" / "penet_release_names.txt"
"""Names and sizes of the tensors of the released class, ResNeXt-101, VG150."""


def released_tensors() -> dict[str, Tensor]:
    tensors = {}
    for line in NAMES.read_text().splitlines():
        name, _, sizes = line.partition(" ")
        tensors[name] = torch.empty([int(size) for size in sizes.split("x") if size], device="meta")
    return tensors


@pytest.fixture(scope="module")
def network() -> SceneGraphNetwork:
    with torch.device("meta"):
        return SceneGraphNetwork(detection_backbone(**BACKBONE), RELEASED, 150, 50)  # type: ignore[arg-type]


def test_every_released_tensor_has_its_place(network: SceneGraphNetwork) -> None:
    tensors = released_tensors()
    load_released(network, tensors)
    read = from_released(tensors)
    assert read.keys() == network.state_dict().keys()
    unread = {name for name in tensors if not from_released({name: tensors[name]})}
    assert len(unread) == 5 + 2
    assert len(read) + len(unread) == len(tensors)


PAIRS = (
    "down_samp",
    "vis2sem",
    "gate_pred",
    "W_pred",
    "norm_rel_rep",
    "linear_rel_rep",
    "project_head",
    "logit_scale",
    "rel_embed",
)
"""Parts that stay in the predictor of SGG-Benchmark's PE-Net; the others lie in its `context_layer`."""


def test_every_tensor_of_sgg_benchmarks_pe_net_has_its_place(parity: Any) -> None:
    """predictors/regularized_predictors.py and models/model_penet.py: two maps of visual features in the place of one."""
    tensors = {}
    for name, tensor in released_tensors().items():
        part = name.removeprefix(PREDICTOR)
        if name.startswith(PREDICTOR) and part.partition(".")[0] not in PAIRS:
            name = f"{PREDICTOR}context_layer.{part}"
        tensors[name] = tensor
        if name.startswith(f"{PREDICTOR}vis2sem."):
            tensors[f"{PREDICTOR}context_layer.{part}"] = torch.empty_like(tensor)
    assert is_nested(tensors)
    with torch.device("meta"):
        shape = replace(RELEASED, head=replace(RELEASED.head, pair_map="own"))
        network = SceneGraphNetwork(detection_backbone(**BACKBONE), shape, 150, 50)  # type: ignore[arg-type]
    read = from_released(flattened(tensors))
    assert read.keys() == network.state_dict().keys()
    load_released(network, flattened(tensors))
    parity("penet", "tensors of SGG-Benchmark's layout without a place", "none", [(len(read.keys() ^ network.state_dict().keys()), 0)],
           tolerance=0)  # fmt: skip


def test_pairs_may_have_a_map_of_their_own() -> None:
    torch.manual_seed(0)
    head = PredicatePrototypeHead(
        PENetHeadConfig(width=8, word_width=4, naming_width=4, dropout=0.0, pair_map="own"), 6, 5, 4
    ).eval()
    shared = PredicatePrototypeHead(PENetHeadConfig(width=8, word_width=4, naming_width=4, dropout=0.0), 6, 5, 4).eval()
    state = head.state_dict()
    shared.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("pair_visual")})
    given = torch.randn(3, 6), torch.tensor([1, 2, 3]), torch.tensor([[0, 1], [2, 0]]), torch.randn(2, 6)
    assert not torch.allclose(head(*given).logit_PK, shared(*given).logit_PK)
    head.pair_visual.load_state_dict(head.visual.state_dict())
    torch.testing.assert_close(head(*given).logit_PK, shared(*given).logit_PK)
    with pytest.raises(ConfigError, match="pair_map is 'both'"):
        PENetHeadConfig(pair_map="both")  # type: ignore[arg-type]


def test_it_is_the_published_preset(network: SceneGraphNetwork) -> None:
    with torch.device("meta"):
        preset = PENet.paper().prepare(links(8)).model()
    assert preset.shape == network.shape
    assert preset.detector.backbone.spec == BACKBONE


def test_the_first_layers_compute_what_the_release_does() -> None:
    """BGR from 0 to 255 less Caffe's mean, a fixed BatchNorm without epsilon: by hand, against RGB through timm's."""
    torch.manual_seed(0)
    stem = "backbone.body.stem."
    tensors = {
        f"{stem}conv1.weight": torch.randn(64, 3, 7, 7) * 0.01,
        f"{stem}bn1.weight": torch.rand(64) + 0.5,
        f"{stem}bn1.bias": torch.randn(64),
        f"{stem}bn1.running_mean": torch.randn(64),
        f"{stem}bn1.running_var": torch.rand(64) * 2e-3 + 1e-4,
    }
    pixel_HWC = torch.randint(0, 256, (32, 40, 3))
    bgr_1CHW = (pixel_HWC.flip(2).float() - torch.tensor([102.9801, 115.9465, 122.7717])).permute(2, 0, 1)[None]
    seen = F.conv2d(bgr_1CHW, tensors[f"{stem}conv1.weight"], stride=2, padding=3)
    scale = tensors[f"{stem}bn1.weight"] * tensors[f"{stem}bn1.running_var"].rsqrt()
    bias = tensors[f"{stem}bn1.bias"] - tensors[f"{stem}bn1.running_mean"] * scale
    wanted = seen * scale[:, None, None] + bias[:, None, None]

    read = {name.removeprefix("detector.backbone."): tensor for name, tensor in from_released(tensors).items()}
    backbone = detection_backbone("timm:resnet18", strides=(4, 8, 16, 32), frozen_norm=True)
    backbone.load_state_dict(read, strict=False)
    rgb_1CHW = ((pixel_HWC / 255.0 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    got = backbone.net.bn1(backbone.net.conv1(rgb_1CHW))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def test_a_run_that_starts_from_one_keeps_its_pixels() -> None:
    recipe = PENet.tiny().prepare(links(8))
    relater = recipe.deploy(recipe.model())
    relater.images = replace(relater.images, mean=MEAN, std=STD)
    started = PENet.tiny().started(relater)
    assert (started.images.mean, started.images.std) == (MEAN, STD)
    assert recipe.images.mean != MEAN


def test_what_is_no_checkpoint_is_refused_with_one_line(tmp_path: Path, network: SceneGraphNetwork) -> None:
    with pytest.raises(ConfigError, match="does not name a checkpoint and a setting"):
        dp.load("penet:model_final.pth")
    with pytest.raises(UnknownName, match="predcls"):
        dp.load(f"penet:{tmp_path / 'a.pth'}#predcl")
    with pytest.raises(DataError, match="no such file"):
        dp.load(f"penet:{tmp_path / 'a.pth'}#predcls")
    other = tmp_path / "other.pth"
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, other)
    with pytest.raises(ConfigError, match="0 objects and 0 predicates are not a known vocabulary"):
        dp.load(f"penet:{other}#predcls")
    tensors = released_tensors()
    name = next(iter(tensors))
    with pytest.raises(ConfigError, match=r"not in the file: detector\.backbone\.net\.conv1\.weight$"):
        load_released(network, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(ConfigError, match=r"and 629 more$"):
        load_released(network, {name: tensors[name]})
    with pytest.raises(ConfigError, match=r"not of PE-Net: roi_heads\.attribute\.fc\.weight"):
        from_released(tensors | {"roi_heads.attribute.fc.weight": torch.zeros(1)})
