"""DenseCLIP as a detector: the released scores and their loss, anchors, matching and losses against torchvision and naive loops."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from invariants import stopped_and_resumed
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from diptych.api import load
from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.denseclip.dense_detector import ExtraPyramidLevels
from diptych.models.detection.anchor_boxes import AnchorConfig, decode_boxes, top_boxes
from diptych.models.layers.score_map import score_map
from diptych.objectives.boxes.anchors import BACKGROUND, IGNORED, anchor_losses, encode_boxes, matched_anchors
from diptych.objectives.boxes.box_scores import box_score_loss, box_targets
from diptych.recipes.adaptation.denseclip_boxes import DenseCLIPBoxes
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, clip, freeze, learning_rate, schedule
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "denseclip_released.json").read_text())["detector"]
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
BOXES = [[[1.5, 6.2, 41.0, 33.9], [20.0, 8.0, 96.0, 64.0], [90.0, 60.0, 95.9, 63.5]], [[60.0, 0.0, 81.0, 21.0]]]
LABELS = [[0, 2, 1], [1]]


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    return torch.from_numpy(np.asarray(value))


def probe(tensor: Tensor) -> Tensor:
    """What the fixture holds of a tensor: its mean, a product with fixed numbers, its first six."""
    row = tensor.detach().double()
    wave = torch.arange(1, row.numel() + 1, dtype=torch.float64).reshape(row.shape).sin()
    return torch.stack([row.mean(), (row * wave).sum(), *row.flatten()[:6]])


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ---------------------------------------------------------------- scores


def test_scores_of_boxes_and_their_loss_are_those_of_the_released_code(parity: Any) -> None:
    score_BKHW = score_map(filled("places", (2, 5, 2, 3)), filled("texts", (2, 3, 5))) / 0.07
    boxes, labels = [doubled(rows) for rows in BOXES], [torch.tensor(rows) for rows in LABELS]
    target_BKHW, inside_B1HW = box_targets(boxes, labels, 3, 16, 24, released=True)
    loss = box_score_loss(score_BKHW, target_BKHW, inside_B1HW)
    found = ((score_BKHW, "score"), (target_BKHW, "target"), (inside_B1HW, "inside"))
    pairs = [(probe(ours), doubled(RELEASED[name])) for ours, name in found] + [(loss, doubled(RELEASED["loss"]))]
    parity("denseclip", "score maps, targets and auxiliary loss of boxes", "released code", pairs, tolerance=1e-9)


def test_boxes_reach_the_edge_unless_as_released() -> None:
    box, label = [torch.tensor([[88.0, 56.0, 96.0, 64.0]])], [torch.tensor([1])]
    whole, inside = box_targets(box, label, 2, 16, 24)
    assert whole[0, 1].nonzero().tolist() == [[14, 22], [14, 23], [15, 22], [15, 23]]
    assert inside.sum() == 4
    assert box_targets(box, label, 2, 16, 24, released=True)[0].nonzero().tolist() == [[0, 1, 14, 22]]
    nothing = box_targets([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], 2, 4, 4)
    assert box_score_loss(torch.randn(1, 2, 1, 1), *nothing) == 0


# ---------------------------------------------------------------- anchors


def test_anchors_are_those_of_torchvision(parity: Any) -> None:
    """torchvision rounds corners to whole pixels; squares of even sides stay what they are. Other shapes by their area and ratio."""
    maps = [torch.zeros(1, 4, 3, 5), torch.zeros(1, 4, 2, 3)]
    shape = AnchorConfig(size=4, octave=1, ratios=(1.0,))
    theirs = AnchorGenerator(((32,), (64,)), ((1.0,),) * 2)(ImageList(torch.zeros(1, 3, 24, 40), [(24, 40)]), [maps[0]] * 2)
    ours = shape.boxes([maps[0], maps[0]], (8, 16))
    ours_16 = shape.boxes([torch.zeros(1, 4, 2, 3)], (16,))
    theirs_16 = AnchorGenerator(((64,),), ((1.0,),))(ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)]), [maps[1]])
    pairs = [(ours[0], theirs[0][:15]), (ours_16[0], theirs_16[0])]
    parity("denseclip", "anchors", "torchvision's AnchorGenerator", pairs, tolerance=1e-6)
    many = AnchorConfig().boxes([maps[0]], (8,))[0].reshape(15, 9, 4)
    side_92 = many[0, :, 2:] - many[0, :, :2]
    for place, (ratio, size) in enumerate((r, s) for r in (0.5, 1.0, 2.0) for s in (32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3))):
        assert float(side_92[place].prod()) == pytest.approx(size**2, rel=1e-5)
        assert float(side_92[place, 1] / side_92[place, 0]) == pytest.approx(ratio, rel=1e-5)
    middle = (many[:, 0, :2] + many[:, 0, 2:]) / 2
    assert middle.tolist() == [[8.0 * x, 8.0 * y] for y in range(3) for x in range(5)]


def naive_matching(anchor_A4: Tensor, box_M4: Tensor) -> list[int]:
    overlap = box_iou(box_M4, anchor_A4).tolist()
    found = []
    for a in range(len(anchor_A4)):
        best = max(range(len(box_M4)), key=lambda m: overlap[m][a])
        found.append(best if overlap[best][a] >= 0.5 else BACKGROUND if overlap[best][a] < 0.4 else IGNORED)
    for m, row in enumerate(overlap):
        for a, value in enumerate(row):
            if value == max(row) > 0:
                found[a] = m
    return found


def test_every_box_gets_its_best_anchors() -> None:
    anchor_A4 = AnchorConfig(size=2, octave=2).boxes([torch.zeros(1, 4, 8, 8)], (8,))[0]
    torch.manual_seed(0)
    for _ in range(5):
        corner_M2 = torch.rand(4, 2) * 40
        box_M4 = torch.cat((corner_M2, corner_M2 + 4 + torch.rand(4, 2) * 24), 1)
        found_A = matched_anchors(anchor_A4, box_M4)
        assert found_A.tolist() == naive_matching(anchor_A4, box_M4)
        assert set(found_A[found_A >= 0].tolist()) == {0, 1, 2, 3}
    assert (matched_anchors(anchor_A4, torch.zeros(0, 4)) == BACKGROUND).all()
    # Two boxes want one anchor: the later gets it.
    one_A4 = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    box_M4 = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 3.0, 3.0]])
    assert matched_anchors(one_A4, box_M4).tolist() == [1, BACKGROUND]


def test_changes_and_losses_of_one_image_are_those_of_torchvision(parity: Any) -> None:
    """Of one image; several are divided by all their anchors here, each by its own there."""
    torch.manual_seed(0)
    anchor_A4 = AnchorConfig(size=2).boxes([torch.zeros(1, 4, 8, 8)], (8,))[0].double()
    box_M4 = torch.tensor([[4.0, 6.0, 30.0, 25.0], [33.0, 30.0, 60.0, 62.0]]).double()
    label_M = torch.tensor([2, 0])
    logit_NAK, change_NA4 = torch.randn(1, len(anchor_A4), 3).double(), torch.randn(1, len(anchor_A4), 4).double()
    head = RetinaNetHead(8, 9, 3)
    place_A = matched_anchors(anchor_A4, box_M4)
    said = {"cls_logits": logit_NAK, "bbox_regression": change_NA4}
    theirs = head.compute_loss([{"boxes": box_M4, "labels": label_M}], said, [anchor_A4], [place_A])
    ours = anchor_losses(logit_NAK, change_NA4, anchor_A4, [box_M4], [label_M])
    pairs = [(ours["classes"], theirs["classification"]), (ours["boxes"], theirs["bbox_regression"])]
    coder = head.regression_head.box_coder
    taken_A4 = box_M4[place_A.clamp_min(0)]
    move_A4 = (change_NA4[0] * 3).clamp_min(-4.0)  # torchvision bounds growth, mmdetection shrinking, too
    pairs += [
        (encode_boxes(anchor_A4, taken_A4), coder.encode_single(taken_A4, anchor_A4)),
        (decode_boxes(anchor_A4, move_A4), coder.decode_single(move_A4, anchor_A4)),
    ]
    parity("denseclip", "changes of anchors and RetinaNet's losses", "torchvision", pairs, tolerance=1e-9)
    torch.testing.assert_close(decode_boxes(anchor_A4, encode_boxes(anchor_A4, taken_A4)), taken_A4)


def test_losses_are_sums_over_the_batch_and_padding_has_none() -> None:
    torch.manual_seed(0)
    anchor_A4 = AnchorConfig(size=2, octave=1).boxes([torch.zeros(1, 4, 4, 8)], (8,))[0]
    logit_NAK, change_NA4 = torch.randn(2, len(anchor_A4), 2), torch.randn(2, len(anchor_A4), 4)
    boxes, labels = [torch.tensor([[2.0, 2.0, 19.0, 17.0]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.zeros(0).long()]
    real_NA = torch.stack([torch.ones(len(anchor_A4), dtype=torch.bool), (anchor_A4[:, 0] + anchor_A4[:, 2]) / 2 < 32])
    found = anchor_losses(logit_NAK, change_NA4, anchor_A4, boxes, labels, real_NA)
    place_A = matched_anchors(anchor_A4, boxes[0])
    focal = distance = 0.0
    for row in range(2):
        for a in range(len(anchor_A4)):
            place = int(place_A[a]) if row == 0 else BACKGROUND
            if place == IGNORED or not real_NA[row, a]:
                continue
            for k in range(2):
                p = float(logit_NAK[row, a, k].sigmoid())
                yes = place >= 0 and k == 1
                focal += -0.25 * (1 - p) ** 2 * math.log(p) if yes else -0.75 * p**2 * math.log(1 - p)
            if place >= 0:
                distance += float((change_NA4[row, a] - encode_boxes(anchor_A4[a : a + 1], boxes[0])[0]).abs().sum())
    count = int((place_A >= 0).sum()) + 1  # an image without a box counts one
    assert float(found["classes"]) == pytest.approx(focal / count, rel=1e-4)
    assert float(found["boxes"]) == pytest.approx(distance / count, rel=1e-4)
    other = logit_NAK.clone()
    other[1][~real_NA[1]] += 5
    assert anchor_losses(other, change_NA4, anchor_A4, boxes, labels, real_NA)["classes"] == found["classes"]


def test_what_is_kept_is_what_torchvision_keeps(parity: Any) -> None:
    torch.manual_seed(0)
    shape = AnchorConfig(size=2, candidates=40)
    anchors = shape.boxes([torch.zeros(1, 4, 6, 6), torch.zeros(1, 4, 3, 3)], (8, 16))
    logits, moves = ([torch.randn(len(a), n) * s for a in anchors] for n, s in ((4, 1.5), (4, 0.3)))
    plain = torch.nn.Identity()
    plain.out_channels = 8  # type: ignore[assignment]
    net = RetinaNet(
        plain, 4, anchor_generator=AnchorGenerator(((8,),) * 2, ((1.0,) * 9,) * 2), topk_candidates=40, detections_per_img=20
    )
    said = {"cls_logits": [x[None] for x in logits], "bbox_regression": [x[None] for x in moves]}
    (theirs,) = net.postprocess_detections(said, [list(anchors)], [(44, 46)])
    box_N4, label_N, score_N = top_boxes(logits, moves, anchors, (44, 46), shape, top=20)
    assert label_N.tolist() == theirs["labels"].tolist()
    pairs = [(box_N4, theirs["boxes"]), (score_N, theirs["scores"])]
    parity("denseclip", "boxes that are kept", "torchvision's RetinaNet", pairs, tolerance=1e-6)
    only = top_boxes(logits, moves, anchors, (44, 46), shape, class_mask_K=torch.tensor([False, True, False, False]))
    assert set(only[1].tolist()) == {1}


def test_anchors_are_limited_by_their_best_class_as_released() -> None:
    """Of the three surest anchors all classes above the least score are left; a fourth anchor's score is left out, however high."""
    logit_AK = torch.tensor([[2.0, 1.9], [1.8, -9.0], [-9.0, 1.7], [1.6, -9.0]])
    corner_A2 = torch.arange(4.0)[:, None].expand(-1, 2) * 40
    anchor_A4 = torch.cat((corner_A2, corner_A2 + 20), 1)
    kept = {}
    for limits in ("pairs", "anchors"):
        shape = AnchorConfig(candidates=3, limits=limits)  # type: ignore[arg-type]
        box_N4, label_N, score_N = top_boxes([logit_AK], [torch.zeros(4, 4)], [anchor_A4], (200, 200), shape)
        kept[limits] = list(zip((box_N4[:, 0] / 40).int().tolist(), label_N.tolist(), strict=True))
        assert score_N.tolist() == sorted(score_N.tolist(), reverse=True)
    assert kept["pairs"] == [(0, 0), (0, 1), (1, 0)]
    assert kept["anchors"] == [(0, 0), (0, 1), (1, 0), (2, 1)]
    assert DenseCLIPBoxes.paper().anchors.limits == "anchors"


def test_coarser_maps_begin_with_the_backbones() -> None:
    """On the map with its scores, without a ReLU between."""
    coarser = ExtraPyramidLevels(5, 3, 2)
    map_BCHW = torch.randn(1, 5, 6, 6)
    six, seven = coarser(map_BCHW)
    first, second = coarser.steps
    torch.testing.assert_close(six, F.conv2d(map_BCHW, first.weight, first.bias, stride=2, padding=1))
    torch.testing.assert_close(seven, F.conv2d(six, second.weight, second.bias, stride=2, padding=1))
    assert (six < 0).any()


# ---------------------------------------------------------------- trained


def small(**options: Any) -> DenseCLIPBoxes:
    return replace(DenseCLIPBoxes.tiny(), **{"batch_size": 4, "steps": 4, "inner": 16, "neck": 16, **options})


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = replace(DenseCLIPBoxes.paper(), named=tuple(f"thing {number}" for number in range(80))).model()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["tap"] == RELEASED["backbone"], "the released backbone at 1,344 pixels"
    three, width = 256 * 9, 256
    scored = 2048 + 80
    assert counts["neck"] == (512 + 1024 + scored) * width + 3 * width + 3 * (three * width + width)
    assert counts["coarser"] == scored * 9 * width + width + three * width + width
    assert counts["head"] == 8 * (three * width + width) + three * 9 * 80 + 720 + three * 36 + 36
    assert sum(p.numel() for p in model.guide.refiner.parameters()) == 3_948_800 + 1024
    assert model.strides == (8, 16, 32, 64, 128)
    recipe = DenseCLIPBoxes.paper()
    published = (recipe.lr, recipe.weight_decay, recipe.clip_norm, recipe.epochs, recipe.tau, recipe.backbone_rate)
    assert published == (1e-4, 1e-4, 0.1, 12, 0.07, 0.1)


@pytest.mark.parametrize("options", [{}, {"language": "score"}, {"language": "none"}, {"backbone": "timm:resnet10t"}])
def test_every_variant_learns_and_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    data = scenes(8)
    recipe = small(anchors=AnchorConfig(size=1.5, octave=1, extra=1), **options).prepare(data)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=0, stop=1)
    features = recipe.features(model, step.batch)
    losses = recipe.losses(features, step.batch)
    assert set(losses) == {"classes", "boxes"} | ({"score"} if recipe.language != "none" else set())
    assert features.counts == tuple(3 * side**2 for side in (8, 4, 2, 1))
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.fill_(-1)  # above the least score
    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, Detector)
    images = [data[0].image, ArrayImage(data[1].image.pixels_HWC[:40, :], "wide")]
    graphs = deployed.detect(images, objects=recipe.named)
    assert graphs == again.detect(images, objects=recipe.named)
    assert graphs[1].regions
    assert max(region.box[3] for region in graphs[1].regions) <= 40
    few = again.detect(images[:1], objects=recipe.named[:1], top=3)[0]
    assert {region.label for region in few.regions} == {recipe.named[0]}
    assert len(few.regions) <= 3


def test_scores_over_the_temperature_stand_beside_the_features() -> None:
    """Their maps reach the pyramid: the first width of its side convolution is that of the features, the rest the classes'."""
    data = scenes(4)
    recipe = small(language="score").prepare(data)
    torch.manual_seed(0)
    model = recipe.model().eval()
    image_BCHW = recipe.images([data[0].image.pixels_HWC])[0]
    seen = model.tap(image_BCHW)
    found = model(image_BCHW)
    torch.testing.assert_close(found.score_NKHW, model.guide(seen) / 0.07)
    maps = list(seen.maps)
    assert model.tap.level == 1
    maps[1] = torch.cat([maps[1], found.score_NKHW], dim=1)
    said = model.head([*model.neck(maps[1:])])
    torch.testing.assert_close(found.logit_NAK, said["cls_logits"])


@pytest.mark.parametrize("steps_an_epoch", [733, 7330])
def test_rates_of_all_steps_are_the_released_ones(steps_an_epoch: int, parity: Any) -> None:
    """OpenMMLab's step policy: a tenth from epoch 8 and again from 11, warmed up over 500 steps from a thousandth."""
    spec, steps = DenseCLIPBoxes.paper().optimiser(), 12 * steps_an_epoch
    expected = []
    for step in range(steps):
        regular = 1e-4 * 0.1 ** sum(step // steps_an_epoch >= epoch for epoch in (8, 11))
        expected.append(regular * (1 - (1 - step / 500) * (1 - 0.001)) if step < 500 else regular)
    found = np.array([learning_rate(spec, step, steps) for step in range(steps)])
    if steps_an_epoch == 7330:
        pairs = [(found / 1e-4, np.array(expected) / 1e-4)]
        parity("denseclip_boxes", "rates of all steps", "OpenMMLab's step policy by hand", pairs, tolerance=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_gradients_of_the_text_side_count_in_the_clipped_norm_as_released() -> None:
    data = scenes(8)
    recipe = small(text_side="released").prepare(data)
    torch.manual_seed(0)
    model = recipe.model().train()
    spec = recipe.optimiser()
    freeze(model, spec)
    optimiser = build_optimiser(model, spec)
    (step,) = batches(data, recipe, seed=0, stop=1)
    sum(recipe.losses(recipe.features(model, step.batch), step.batch).values()).backward()
    text = [p for part in (model.guide.text_tower, model.guide.projection) for p in part.parameters()]
    assert all(p.grad is not None for p in text)
    others = [p for p in model.parameters() if p.requires_grad and all(p is not one for one in text)]
    assert clip(model, 0.0) > clip(torch.nn.ParameterList(others), 0.0)
    before = [p.clone() for p in text]
    schedule(optimiser, spec, 3, 4)
    optimiser.step()
    assert all(torch.equal(p, old) for p, old in zip(text, before, strict=True)), "a rate of 0 leaves it where it is"
    with pytest.raises(ConfigError, match="text_side is 'free'"):
        small(text_side="free").prepare(data).model()


def test_the_text_side_is_frozen() -> None:
    data = scenes(8)
    recipe = small().prepare(data)
    model = recipe.model().train()
    freeze(model, recipe.optimiser())
    optimiser = build_optimiser(model, recipe.optimiser())
    inside = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert not any(id(p) in inside for p in model.guide.text_tower.parameters())
    assert id(model.guide.bank.context) in inside
    assert not model.guide.text_tower.training


def test_crowds_and_relations_are_left_out_and_other_names_refused() -> None:
    box = (4.0, 4.0, 30.0, 30.0)
    regions = (Region(box, "dog"), Region(box, "cat", attributes=("crowd",)))
    sample = Sample("a", image=ArrayImage(np.zeros((40, 64, 3), np.uint8), "a"), regions=regions)
    data = Pool.from_samples([sample] * 1 + [replace(sample, uid="b")], name="few")
    recipe = small(batch_size=2, square=False, image_side=64, longest=128).prepare(data)
    (step,) = batches(data, recipe, seed=0, stop=1)
    assert recipe.named == ("cat", "dog")
    assert step.batch.label_BK.tolist() == [[1], [1]]
    assert step.batch.size_B2.tolist() == [[64, 102]] * 2
    assert list(step.batch.image_BCHW.shape[2:]) == [64, 128]
    with pytest.raises(DataError, match="has 'dog'"):
        list(batches(data, replace(recipe, named=("cat", "cow")), seed=0, stop=1))
    assert not next(
        iter(batches(data, replace(recipe, named=("cat", "cow"), outside="drop"), seed=0, stop=1))
    ).batch.label_BK.numel()


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole = fit(small(mirror=0.5), scenes(8), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(small(mirror=0.5), scenes(8), tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"tau is 0"):
        small(tau=0.0)
    bare = Pool.from_samples([Sample("a", image=ArrayImage(np.zeros((8, 8, 3), np.uint8), "a"))], name="bare")
    with pytest.raises(DataError, match="'bare' has no labelled box"):
        small().prepare(bare)
    model = small().prepare(scenes(4))
    deployed = model.deploy(model.model().eval())
    with pytest.raises(DataError, match=r"was trained on none of \['giraffe'\]"):
        deployed.detect([scenes(1)[0].image], objects=["giraffe"])
    with pytest.raises(ConfigError, match="does not predict relations"):
        deployed.detect([scenes(1)[0].image], objects=["circle"], relations=["above"])
