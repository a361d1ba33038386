"""DenseCLIP with masks of instances: trained, deployed, stopped, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from invariants import stopped_and_resumed

from diptych.api import load
from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.masks import box_of, decode
from diptych.models.denseclip.opened import open_released
from diptych.models.detection.mask_rcnn import MaskRCNNConfig
from diptych.objectives.boxes.sampling import BoxSampling
from diptych.recipes.adaptation.denseclip_masks import DenseCLIPMasks
from diptych.tasks.grounding.open_detection import OpenDetection
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
TERMS = {"proposals", "proposal_boxes", "classes", "boxes", "masks"}


def small(**changes: Any) -> DenseCLIPMasks:
    shape = MaskRCNNConfig(
        size=3.0, considered=100, learns_considered=100, proposals=20, region_width=16, mask_width=8, mask_layers=1
    )
    sizes: dict[str, Any] = {"batch_size": 4, "steps": 4, "inner": 16, "neck": 16, "shape": shape}
    return replace(DenseCLIPMasks.tiny(), **{**sizes, **changes})


def test_the_paper_is_as_published() -> None:
    with torch.device("meta"):
        model = replace(DenseCLIPMasks.paper(), named=tuple(f"thing {number}" for number in range(80))).model()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["neck"] == (256 + 512 + 1024 + 2048 + 80) * 256 + 4 * 256 + 4 * (9 * 256 * 256 + 256)
    proposer = 9 * 256 * 256 + 256 + 257 * 3 + 257 * 12
    regions = (49 * 256 + 1) * 1024 + 1025 * 1024 + 1025 * 81 + 1025 * 320
    masks = 4 * (9 * 256 * 256 + 256) + 4 * 256 * 256 + 256 + 257 * 80
    assert counts["heads"] == proposer + regions + masks
    without_texts = sum(counts.values()) - sum(p.numel() for p in model.guide.text_tower.parameters()) - 512 * 1024
    assert round(without_texts / 1e6) == 67, "as the release's table has it"
    assert model.heads.strides == (4, 8, 16, 32, 64)
    assert model.tap.positions == "cut"
    recipe = DenseCLIPMasks.paper()
    published = (recipe.lr, recipe.weight_decay, recipe.clip_norm, recipe.epochs, recipe.tau, recipe.backbone_rate, recipe.mirror)
    assert published == (2e-4, 1e-4, 0.1, 12, 0.07, 0.1, 0.5)
    assert recipe.anchor_sampling == BoxSampling(high=0.7, low=0.3, least=0.3, count=256, positive=0.5)
    assert recipe.region_sampling == BoxSampling(high=0.5, low=0.5, least=0.5, count=512, positive=0.25)


@pytest.mark.parametrize("changes", [{}, {"language": "none"}, {"backbone": "timm:resnet10t", "language": "score"}])
def test_every_variant_learns_and_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    data = scenes(4)
    recipe = small(**changes).prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    losses = recipe.losses(features, step.batch)
    assert set(losses) == TERMS | ({"score"} if recipe.language != "none" else set())
    assert features.anchor_A4.shape == (3 * (16**2 + 8**2 + 4**2 + 2**2 + 1), 4)
    assert len(features.mask_PKHW) == sum(len(place_P) for _, place_P in features.regions)
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, Detector)
    images = [data[0].image, ArrayImage(data[1].image.pixels_HWC[:40, :], "wide")]
    graphs = deployed.detect(images, objects=recipe.named)
    assert graphs == again.detect(images, objects=recipe.named)
    assert graphs[1].regions
    assert {tuple(region.mask["size"]) for region in graphs[1].regions} == {(40, 64)}
    few = again.detect(images[:1], objects=recipe.named[:1], top=3)[0]
    assert {region.label for region in few.regions} <= {recipe.named[0]}
    assert len(few.regions) <= 3


@pytest.mark.slow
def test_a_few_pictures_are_learned_by_heart() -> None:
    """Boxes, classes and masks: of one batch, the mask AP is high after some steps and near 0 before."""
    data = scenes(4)
    recipe = small(neck=32, shape=replace(DenseCLIPMasks.tiny().shape, proposals=40)).prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    task = OpenDetection(shapes="masks")
    before = task.score(task.predict(recipe.deploy(model), data)).metrics["ap50"].value
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-3)
    first = last = 0.0
    for _ in range(70):
        losses = recipe.losses(recipe.features(model, step.batch), step.batch)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        last = total.item()
        first = first or last
    after = task.score(task.predict(recipe.deploy(model.eval()), data)).metrics["ap50"].value
    assert last < 0.5 * first
    assert before < 0.1
    assert after > 0.3


def test_masks_of_a_batch_lie_in_their_boxes() -> None:
    data = scenes(6)
    recipe = small(mirror=0.5).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    batch = step.batch
    for row in range(len(batch)):
        for place in batch.region_mask_BK[row].nonzero()[:, 0].tolist():
            cx, cy, w, h = (batch.box_BK4[row, place] * 64).tolist()
            assert box_of(batch.masks[row][place].numpy()) == pytest.approx(
                (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), abs=1e-3
            )


def test_a_picture_without_a_box_has_losses_of_background_alone() -> None:
    data = scenes(2)
    crowd = (Region((4.0, 4.0, 30.0, 30.0), "circle", attributes=("crowd",)),)
    bare = Pool.from_samples([replace(data[n], uid=f"bare{n}", regions=crowd, relations=()) for n in range(2)], name="bare")
    recipe = replace(small(batch_size=2), named=("circle", "square")).with_vocabulary(("circle", "square"))
    model = recipe.model()
    (step,) = batches(bare, recipe, seed=0, stop=1)
    losses = recipe.losses(recipe.features(model, step.batch), step.batch)
    assert {name for name, value in losses.items() if value.item() > 0} == {"proposals", "classes"}
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole = fit(small(mirror=0.5), scenes(8), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(small(mirror=0.5), scenes(8), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_what_is_left_out_and_refused(tmp_path: Path) -> None:
    image = ArrayImage(np.zeros((40, 64, 3), np.uint8), "a")
    outline = [[4, 4, 30, 4, 30, 30, 4, 30]]
    regions = (
        Region((4.0, 4.0, 30.0, 30.0), "dog", mask=outline),
        Region((4.0, 4.0, 30.0, 30.0), "cat", attributes=("crowd",)),
        Region((4.0, 4.0, 4.5, 30.0), "cat"),
    )
    data = Pool.from_samples([Sample("a", image=image, regions=regions)], name="few")
    recipe = small(batch_size=1).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    assert step.batch.label_BK.tolist() == [[1]], "crowds and slivers have no mask and need none"
    lost = Pool.from_samples([Sample("a", image=image, regions=(replace(regions[0], mask=None),))], name="lost")
    with pytest.raises(DataError, match="'a' has a region 'dog' without a mask"):
        list(batches(lost, recipe, seed=0, stop=1))
    with pytest.raises(ConfigError, match=r"expected 0 < low <= high"):
        BoxSampling(high=0.3, low=0.5, least=0.3, count=10, positive=0.5)
    with pytest.raises(ConfigError, match=r"expected 0 < low <= high"):
        small(region_low=0.7)
    with pytest.raises(ConfigError, match=r"positions is 'stretched'"):
        small(positions="stretched")
    with pytest.raises(ConfigError, match="does not name a checkpoint"):
        open_released("denseclip:")
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(32, 3, 3, 3)}, "meta": {}}, tmp_path / "some.pth")
    with pytest.raises(ConfigError, match=r"some\.pth: not in the file: backbone\.attnpool"):
        load(f"denseclip:{tmp_path / 'some.pth'}")
    names = ("backbone.attnpool.c_proj.weight", "text_encoder.positional_embedding", "contexts", "backbone.conv1.weight")
    names += ("text_encoder.token_embedding.weight", "decode_head.conv_seg.weight")
    segmenter = {"state_dict": {name: torch.zeros(1, 1) for name in names}, "meta": {"CLASSES": ["wall", "sky"]}}
    torch.save(segmenter, tmp_path / "segmenter.pth")
    with pytest.raises(ConfigError, match=r"segmenter\.pth: not in the file: gamma, context_decoder\.memory_proj"):
        load(f"denseclip:{tmp_path / 'segmenter.pth'}")
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="contains no state_dict"):
        load(f"denseclip:{tmp_path / 'other.pth'}")


def test_a_found_mask_lies_in_its_box() -> None:
    data = scenes(4)
    recipe = small().prepare(data)
    torch.manual_seed(0)
    model = recipe.model().eval()
    graph = recipe.deploy(model).detect([data[0].image], objects=recipe.named)[0]
    drawn = [(region.box, decode(region.mask)) for region in graph.regions]
    assert any(mask_HW.any() for _, mask_HW in drawn)
    for (x0, y0, x1, y1), mask_HW in drawn:
        found = box_of(mask_HW)
        assert found is None or (found[0] >= x0 - 1 and found[1] >= y0 - 1 and found[2] <= x1 + 1 and found[3] <= y1 + 1)
    sure = replace(recipe, shape=replace(recipe.shape, min_score=0.999))
    assert sure.deploy(sure.model().eval()).detect([data[0].image], objects=recipe.named)[0].regions == ()
