"""DenseCLIP's Mask R-CNN against mmdetection 2.17, on which it is released, and against naive loops."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.masks import box_of
from diptych.models.denseclip.built import dense_detector, dense_mask_detector
from diptych.models.denseclip.released import NAMES, _renamed, from_released, load_released, released_settings
from diptych.models.denseclip.semantic_fpn import FeaturePyramidNeck
from diptych.models.detection.anchor_boxes import LARGEST, AnchorConfig, decode_boxes
from diptych.models.detection.mask_rcnn import MaskRCNN, MaskRCNNConfig, paste_mask
from diptych.models.towers.attention_pool import MeanQueryPool
from diptych.models.towers.dense_tap import dense_pool
from diptych.objectives.boxes.anchors import BACKGROUND, IGNORED
from diptych.objectives.boxes.sampling import BoxSampling, sample_regions, sample_rows
from diptych.objectives.boxes.two_stage import mask_loss, mask_targets, proposal_losses, region_losses
from diptych.recipes._shared.texts.vocabulary import tokenizer_of
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.recipes.adaptation.denseclip_boxes import DenseCLIPBoxes
from diptych.recipes.adaptation.denseclip_masks import DenseCLIPMasks

FIXTURES = Path(__file__).parent / "fixtures"
RELEASED = json.loads((FIXTURES / "denseclip_masks_released.json").read_text())
SIZES = [(60, 90), (33, 64)]
BOXES = [
    torch.tensor([[1.5, 6.2, 41.0, 33.9], [20.0, 8.0, 88.0, 58.0], [60.0, 30.0, 89.5, 59.5]]),
    torch.tensor([[10.0, 0.0, 31.0, 21.0]]),
]
LABELS = [torch.tensor([0, 2, 1]), torch.tensor([1])]
EVERY = 100_000


def filled(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
    """Numbers that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * scale
    return torch.from_numpy(np.asarray(value)).float()


def probe(tensor: Tensor) -> Tensor:
    """What the fixture holds of a tensor: its mean, a product with fixed numbers, its first six; or all of it where it is small."""
    row = tensor.detach().double()
    if row.numel() < 6:
        return row.flatten()
    wave = torch.arange(1, row.numel() + 1, dtype=torch.float64).reshape(row.shape).sin()
    return torch.stack([row.mean(), (row * wave).sum(), *row.flatten()[:6]])


def doubled(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class Small(torch.nn.Module):
    """The pyramid and the heads, filled by the names of the release."""

    def __init__(self) -> None:
        super().__init__()
        shape = MaskRCNNConfig(
            considered=40, learns_considered=60, proposals=30, region_width=12, mask_width=6, mask_layers=2, detections=12
        )
        self.neck, self.heads = FeaturePyramidNeck([4, 5, 6, 10], 8), MaskRCNN(shape, 8, 3, (4, 8, 16, 32))
        held = self.state_dict()
        read = {}
        for name, size in RELEASED["names"].items():
            weak = "fc_cls" in name or "rpn_cls" in name
            read[_renamed(name, 4)] = filled(name, tuple(size), 0.1 if weak else 0.3)
        assert read.keys() == held.keys()
        self.load_state_dict(read)

    def levels(self) -> list[Tensor]:
        channels = zip((4, 5, 6, 10), (4, 8, 16, 32), strict=True)
        maps = [filled(f"map{n}", (2, count, 64 // s, 96 // s), 1.0) for n, (count, s) in enumerate(channels)]
        levels = self.neck(maps)
        return [*levels, torch.nn.functional.max_pool2d(levels[-1], 1, stride=2)]


def masks() -> list[Tensor]:
    return [
        torch.stack([filled(f"mask{n}{m}", (64, 96), 1.0) > -0.5 for m in range(len(box_M4))]) for n, box_M4 in enumerate(BOXES)
    ]


def real(anchor_A4: Tensor) -> Tensor:
    middle_A2 = ((anchor_A4[:, :2] + anchor_A4[:, 2:]) / 2).round()
    padded = torch.tensor([[96, 64], [64, 64]])
    return (middle_A2[None] < padded[:, None]).all(2)


def sampling(high: float, low: float, positive: float) -> BoxSampling:
    return BoxSampling(high=high, low=low, least=low, count=EVERY, positive=positive)


def test_pyramid_proposals_and_losses_are_those_of_mmdetection(parity: Any) -> None:
    """Every matched box is learned from, so that nothing is drawn. In float32, where many anchors overlap a box equally."""
    net = Small()
    levels = net.levels()
    pairs = [(probe(level), doubled(wanted)) for level, wanted in zip(levels, RELEASED["neck"], strict=True)]
    things, moves = net.heads.objectness(levels)
    anchors = net.heads.anchors(levels)
    anchor_A4 = torch.cat(anchors)
    first = proposal_losses(torch.cat(things, 1), torch.cat(moves, 1), anchor_A4, BOXES, sampling(0.7, 0.3, 0.5), real(anchor_A4))
    proposals = net.heads.proposals(things, moves, anchors, SIZES)
    assert [len(box_N4) for box_N4 in proposals] == [found["n"] for found in RELEASED["proposals"]]
    pairs += [(probe(box_N4), doubled(found["p"])) for box_N4, found in zip(proposals, RELEASED["proposals"], strict=True)]
    regions = sample_regions(proposals, BOXES, sampling(0.5, 0.5, 0.25))
    logit_SC, change_SK4 = net.heads.regions(levels, [box_S4 for box_S4, _ in regions])
    second = region_losses(logit_SC, change_SK4, regions, BOXES, LABELS)
    mask_PKHW = net.heads.masks(levels, [box_S4[: len(place_P)] for box_S4, place_P in regions])
    third = mask_loss(mask_PKHW, regions, masks(), LABELS)
    for ours, theirs in (("proposals", "rpn_cls"), ("proposal_boxes", "rpn_bbox")):
        pairs.append((first[ours], doubled(RELEASED[theirs])))
    for ours, theirs in (("classes", "loss_cls"), ("boxes", "loss_bbox")):
        pairs.append((second[ours], doubled(RELEASED[theirs])))
    pairs.append((third["masks"], doubled(RELEASED["loss_mask"])))
    parity("denseclip", "proposals and losses of Mask R-CNN", "mmdetection 2.17", pairs, tolerance=2e-4)


def test_what_is_found_is_what_mmdetection_finds(parity: Any) -> None:
    net = Small().eval()
    net.heads.shape = MaskRCNNConfig(**{**_plain(net.heads.shape), "proposals": 25})
    levels = net.levels()
    things, moves = net.heads.objectness(levels)
    proposals = net.heads.proposals(things, moves, net.heads.anchors(levels), SIZES)
    assert [len(box_N4) for box_N4 in proposals] == [found["n"] for found in RELEASED["test_proposals"]]
    pairs = [(probe(box_N4), doubled(found["p"])) for box_N4, found in zip(proposals, RELEASED["test_proposals"], strict=True)]
    counts = [len(box_N4) for box_N4 in proposals]
    boxes = proposals
    logits, changes = (value.split(counts) for value in net.heads.regions(levels, boxes))
    kept = []
    for row, size in enumerate(SIZES):
        box_N4, label_N, score_N = net.heads.postprocess_detections(logits[row], changes[row], boxes[row], size, top=300)
        wanted = RELEASED["found"][row]
        assert label_N.tolist() == wanted["label"]
        pairs += [(probe(box_N4 * 2), doubled(wanted["box"])), (probe(score_N), doubled(wanted["score"]))]
        kept.append((box_N4, label_N))
    logit_NKHW = net.heads.masks(levels, [box_N4 for box_N4, _ in kept])
    share_N = logit_NKHW[torch.arange(len(logit_NKHW)), torch.cat([label_N for _, label_N in kept])].sigmoid()
    parts = share_N.split([len(box_N4) for box_N4, _ in kept])
    whole = []
    per_pixel = doubled([1, 1e-3, 1, 1, 1, 1, 1, 1])  # the second is a sum over thousands
    for (high, wide), (box_N4, _), part, wanted, areas in zip(
        SIZES, kept, parts, RELEASED["laid"], RELEASED["masks"], strict=True
    ):
        for share_HW, box_4, place, area in zip(part, box_N4 * 2, wanted, areas, strict=True):
            # Not of boxes without area, whose places are no numbers there, nor of those thinner than two pixels: on another
            # processor a last digit of their sides moves what they show by more than the tolerance.
            if place is not None and min(box_4[2:] - box_4[:2]) >= 2:
                out_HW = paste_mask(share_HW, box_4.tolist(), (2 * high, 2 * wide))
                whole.append((probe(out_HW) * per_pixel, doubled(place) * per_pixel))
                assert abs(int((out_HW >= 0.5).sum()) - area) <= 2, "pixels on the edge of .5"
    assert len(whole) == 8
    parity("denseclip", "masks laid into their images", "mmdetection 2.17", whole, tolerance=1e-4)
    parity("denseclip", "boxes that are kept of Mask R-CNN", "mmdetection 2.17", pairs, tolerance=2e-4)


def _plain(shape: MaskRCNNConfig) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in shape.__dataclass_fields__}


# ---------------------------------------------------------------- the parts against loops


def test_matching_and_drawing() -> None:
    rule = BoxSampling(high=0.7, low=0.3, least=0.3, count=10, positive=0.5)
    true_M4 = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50], [80, 0, 90, 90]])
    box_A4 = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [40, 40, 46, 46], [80, 0, 90, 20], [60, 60, 70, 70]])
    # .8 is high; .5 is between; .2 is low; .36 is the best of the second box; .22 is the best of the third, but too little.
    assert rule.matched(box_A4, true_M4).tolist() == [0, IGNORED, BACKGROUND, 1, BACKGROUND, BACKGROUND]
    place_A = torch.tensor([0] * 20 + [BACKGROUND] * 30 + [IGNORED] * 5)
    seen: set[int] = set()
    for seed in range(20):
        torch.manual_seed(seed)
        true_P, rest_S = sample_rows(place_A, rule)
        assert (len(true_P), len(rest_S)) == (5, 5)
        assert len(set(true_P.tolist())) == 5
        assert (place_A[true_P] == 0).all()
        assert (place_A[rest_S] == BACKGROUND).all()
        seen |= set(true_P.tolist())
    assert seen == set(range(20)), "every box can be drawn"
    few, rest = sample_rows(torch.tensor([2, BACKGROUND, BACKGROUND, IGNORED]), rule)
    assert (few.tolist(), rest.tolist()) == ([0], [1, 2])
    assert len(sample_rows(torch.full((40,), BACKGROUND), rule)[1]) == 10


def test_true_boxes_stand_among_the_proposals() -> None:
    rule = BoxSampling(high=0.5, low=0.5, least=0.5, count=8, positive=0.5)
    proposals = [torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60]]), torch.zeros(0, 4)]
    boxes = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 7, 7]])]
    (box_S4, place_P), (only_S4, only_P) = sample_regions(proposals, boxes, rule)
    assert box_S4.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]
    assert place_P.tolist() == [0, 0]
    assert only_S4.tolist() == [[5, 5, 7, 7]]
    assert only_P.tolist() == [0]
    (nothing_S4, nothing_P) = sample_regions(proposals[:1], [torch.zeros(0, 4)], rule)[0]
    assert (len(nothing_S4), len(nothing_P)) == (2, 0)


def test_losses_of_regions_are_sums_over_all_of_them() -> None:
    torch.manual_seed(0)
    boxes, labels = [torch.tensor([[0.0, 0, 10, 10]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.zeros(0).long()]
    regions = [
        (torch.tensor([[0.0, 0, 10, 8], [30, 30, 40, 40]]), torch.tensor([0])),
        (torch.tensor([[1.0, 1, 5, 5]]), torch.zeros(0).long()),
    ]
    logit_SC, change_SK4 = torch.randn(3, 4), torch.randn(3, 3, 4)
    found = region_losses(logit_SC, change_SK4, regions, boxes, labels)
    wrong = -sum(float(logit_SC[s].log_softmax(0)[k]) for s, k in enumerate((1, 3, 3)))
    wanted = torch.tensor([0.0, 1 / 8 / 0.1, 0.0, math.log(10 / 8) / 0.2])
    assert float(found["classes"]) == pytest.approx(wrong / 3, rel=1e-5)
    assert float(found["boxes"]) == pytest.approx(float((change_SK4[0, 1] - wanted).abs().sum()) / 3, rel=1e-5)
    anchor_A4 = torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60], [70, 70, 80, 80]])
    rule = BoxSampling(high=0.7, low=0.3, least=0.3, count=256, positive=0.5)
    logit_NA, change_NA4 = torch.randn(2, 3), torch.randn(2, 3, 4)
    real_NA = torch.tensor([[True, True, False], [True, True, True]])
    first = proposal_losses(logit_NA, change_NA4, anchor_A4, boxes, rule, real_NA)
    # one thing and one place of background, then three of background and one that is counted for a thing
    terms = [-logit_NA[0, 0].sigmoid().log(), *(-(1 - value.sigmoid()).log() for value in (logit_NA[0, 1], *logit_NA[1]))]
    assert float(first["proposals"]) == pytest.approx(float(sum(terms)) / 6, rel=1e-5)
    wanted = torch.tensor([0.0, 0.5 / 9, 0.0, math.log(10 / 9)])
    assert float(first["proposal_boxes"]) == pytest.approx(float((change_NA4[0, 0] - wanted).abs().sum()) / 6, rel=1e-5)
    nothing = mask_loss(
        torch.zeros(0, 3, 4, 4), [(regions[1][0], regions[1][1])], [torch.zeros(0, 8, 8, dtype=torch.bool)], [labels[1]]
    )
    assert nothing["masks"] == 0


def naive_target(mask_HW: Tensor, box: list[float], side: int) -> Tensor:
    """Means of points read between pixels, as many points a place as pixels lie in it."""
    x0, y0, x1, y1 = box
    height, width = mask_HW.shape
    out = torch.zeros(side, side)
    wide, high = (x1 - x0) / side, (y1 - y0) / side
    nx, ny = math.ceil(wide), math.ceil(high)

    def read(y: float, x: float) -> float:
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = max(y, 0.0), max(x, 0.0)
        low_y, low_x = min(int(y), height - 1), min(int(x), width - 1)
        top_y, top_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
        dy, dx = (y - low_y if low_y < height - 1 else 0.0), (x - low_x if low_x < width - 1 else 0.0)
        value = (mask_HW[low_y, low_x] * (1 - dx) + mask_HW[low_y, top_x] * dx) * (1 - dy)
        return float(value + (mask_HW[top_y, low_x] * (1 - dx) + mask_HW[top_y, top_x] * dx) * dy)

    for i in range(side):
        for j in range(side):
            points = [
                read(y0 - 0.5 + (i + (a + 0.5) / ny) * high, x0 - 0.5 + (j + (b + 0.5) / nx) * wide)
                for a in range(ny)
                for b in range(nx)
            ]
            out[i, j] = float(sum(points) / len(points) >= 0.5)
    return out


def test_targets_of_masks_are_cut_and_resized() -> None:
    rng = np.random.default_rng(3)
    mask_MHW = torch.from_numpy(rng.random((2, 24, 30)) < 0.5)
    boxes = [[2.3, 1.1, 17.9, 20.2], [5.0, 6.0, 12.0, 13.0], [-3.0, 4.0, 35.0, 23.0]]
    place_P = torch.tensor([1, 0, 1])
    found = mask_targets([(torch.tensor([*boxes, [0.0, 0, 5, 5]]), place_P)], [mask_MHW], 7)
    assert found.shape == (3, 7, 7)
    for row, box in enumerate(boxes):
        cut = [max(box[0], 0.0), max(box[1], 0.0), min(box[2], 30.0), min(box[3], 24.0)]
        assert found[row].tolist() == naive_target(mask_MHW[place_P[row]].float(), cut, 7).tolist()
    whole = mask_targets([(torch.tensor([[0.0, 0, 30, 24]]), torch.tensor([0]))], [torch.ones(1, 24, 30, dtype=torch.bool)], 28)
    assert whole.all()


def test_a_mask_laid_into_its_image_is_the_mask_again() -> None:
    mask_HW = torch.zeros(40, 50)
    mask_HW[8:31, 10:33] = 1
    mask_HW[12:20, 15:25] = 0
    for box in ([4.0, 6.0, 36.0, 38.0], [10.0, 8.0, 33.0, 31.0]):
        (target_HW,) = mask_targets([(torch.tensor([box]), torch.tensor([0]))], [mask_HW[None].bool()], 56)
        back_HW = paste_mask(target_HW, box, (40, 50)) >= 0.5
        assert (back_HW != mask_HW.bool()).sum() <= 40, "but for the rounding of its edges"
        assert not back_HW[: int(box[1]) - 1].any()
    assert not paste_mask(torch.ones(4, 4), [3.0, 3.0, 3.0, 9.0], (10, 10)).any()
    solid_HW = paste_mask(torch.ones(4, 4), [2.0, 3.0, 6.0, 9.0], (10, 10)) >= 0.5
    assert box_of(solid_HW.numpy()) == (2, 3, 6, 9)


def test_boxes_shrink_and_grow_within_bounds() -> None:
    box_A4 = torch.tensor([[0.0, 0, 100, 100]])
    for value in (50.0, -50.0):
        side = decode_boxes(box_A4, torch.tensor([[0.0, 0, value, value]]))
        assert float(side[0, 2] - side[0, 0]) == pytest.approx(100 * math.exp(math.copysign(LARGEST, value)), rel=1e-4)


# ---------------------------------------------------------------- the release


def test_positions_of_other_images_are_cut_as_released(parity: Any) -> None:
    pool = MeanQueryPool(16, 2, positions=16, out=6).double()
    theirs = {"position_PD": "positional_embedding", "out": "c_proj", "q": "q_proj", "k": "k_proj", "v": "v_proj"}
    for name, parameter in pool.named_parameters():
        part, _, rest = name.partition(".")
        full = f"pool.{theirs[part]}" + (f".{rest}" if rest else "")
        parameter.data = filled(full, tuple(parameter.shape), 0.1).double()
    last_BCHW = filled("last", (2, 16, 2, 3), 0.1).double()
    whole_BD, dense_BDHW = dense_pool(pool, last_BCHW, "cut")
    pairs = [(probe(whole_BD), doubled(RELEASED["cut"][0])), (probe(dense_BDHW), doubled(RELEASED["cut"][1]))]
    parity("denseclip", "dense pool of the detectors, positions cut", "released code", pairs, tolerance=1e-6)
    assert not torch.allclose(dense_pool(pool, last_BCHW)[1], dense_BDHW)
    with pytest.raises(ShapeError, match="an image has 192 x 96 pixels"):
        dense_pool(pool, last_BCHW[:1].repeat(1, 1, 3, 1), "cut")


def released(which: str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint of the release, by the names and sizes that its modules have; without numbers."""
    found = {}
    for stem, size, rows in json.loads((FIXTURES / "denseclip_detector_names.json").read_text())[which]:
        for row in rows:
            name = stem
            for number in filter(None, row.split(",")):
                name = name.replace("#", number, 1)
            found[name] = torch.empty(size, device="meta")
    return found


@pytest.mark.parametrize(("which", "count"), [("mask_rcnn_50", 606), ("retinanet_101", 906)])
def test_every_tensor_of_a_released_checkpoint_has_its_place(which: str, count: int) -> None:
    tensors = released(which)
    assert len(tensors) == count
    classes = tuple(f"thing {number}" for number in range(80))
    settings, words = released_settings(tensors, classes), tokenizer_of("clip", "")
    with torch.device("meta"):
        if "roi_head.bbox_head.fc_cls.weight" in tensors:
            model: Any = dense_mask_detector(settings, MaskRCNNConfig(), 0.07, words)
        else:
            model = dense_detector(settings, AnchorConfig(), 0.07, words)
    held = model.state_dict()
    read = from_released(tensors)
    assert read.keys() == held.keys()
    assert {name: tensor.shape for name, tensor in read.items()} == {name: tensor.shape for name, tensor in held.items()}
    load_released(model, tensors)
    lost = dict(tensors)
    del lost["neck.fpn_convs.1.conv.bias"]
    with pytest.raises(ConfigError, match=r"not in the file: neck\.smooth\.1\.bias"):
        load_released(model, lost)
    with pytest.raises(ConfigError, match=r"not of DenseCLIP's detectors: decode_head\.conv"):
        from_released({**tensors, "decode_head.conv": torch.zeros(1)})
    with pytest.raises(ConfigError, match="names 79 classes, its head has 80"):
        released_settings(tensors, classes[1:])


def test_no_two_tensors_of_the_release_take_one_place() -> None:
    assert len({ours for _, ours in NAMES}) == len(NAMES)


@pytest.mark.parametrize("kind", [DenseCLIP, DenseCLIPBoxes, DenseCLIPMasks])
def test_pyramid_and_heads_start_as_released(kind: Any) -> None:
    """Nobody calls OpenMMLab's initialisation: its `ConvModule`s start by He's rule by themselves, other layers as PyTorch makes them."""
    names = ("a", "b", "c")
    changes: dict[str, Any] = {"named": names, "heads_start": "released", "tokenizer": "clip"}
    torch.manual_seed(0)
    model = replace(kind.tiny(), **changes).model()
    modules = dict(model.named_modules())
    he = [
        name
        for name in modules
        if re.fullmatch(r"neck\.(sides|smooth)\.\d|coarser\.steps\.\d|head\.scales\.\d\.\d|head\.\w+_head\.conv\.\d\.0", name)
    ]
    he = [name for name in he if isinstance(modules[name], torch.nn.Conv2d)]
    assert he
    for name in he:
        weight = modules[name].weight
        spread = (2 / (weight.shape[0] * weight[0, 0].numel())) ** 0.5
        assert abs(float(weight.detach().std()) / spread - 1) < 0.06, name
        assert modules[name].bias is None or not modules[name].bias.any()
    last = [
        name
        for name in modules
        if re.fullmatch(
            r"head\.classify|head\.\w+\.(cls_logits|bbox_reg)|heads\.(classify|correct)|heads\.mask\.\w+|heads\.proposer\..*(cls_logits|bbox_pred)",
            name,
        )
    ]
    last = [name for name in last if hasattr(modules[name], "weight")]
    assert len(last) == {DenseCLIP: 1, DenseCLIPBoxes: 2, DenseCLIPMasks: 6}[kind]
    for name in last:
        weight, bias = modules[name].weight, modules[name].bias
        limit = torch.nn.init._calculate_fan_in_and_fan_out(weight)[0] ** -0.5
        assert weight.abs().max() <= limit + 1e-6
        assert abs(float(weight.detach().std()) * 3**0.5 / limit - 1) < 0.15, name
        assert 0 < bias.abs().max() <= limit + 1e-6, name
    usual = replace(kind.tiny(), **{**changes, "heads_start": "usual"}).model()
    if kind is DenseCLIPBoxes:
        assert torch.allclose(usual.head.classification_head.cls_logits.bias, torch.tensor(-math.log(99.0)))
    with pytest.raises(ConfigError, match="heads_start is 'other'"):
        replace(kind.tiny(), **{**changes, "heads_start": "other"}).model()


def test_pictures_are_shown_as_openmmlab_shows_them() -> None:
    """mmcv.imrescale to (1333, 800): 480 x 640 becomes 800 x 1067, whose boxes grow by the sides' own factors; a long one is bounded."""
    from diptych.core.scene_graph import Region, SceneGraph
    from diptych.data.media.opencv import bilinear

    image_HWC = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    recipe = replace(DenseCLIPBoxes.paper(), image_side=80, longest=133, mirror=0.0)
    shown_HWC, graph = recipe.views.draw(
        (image_HWC, SceneGraph((Region((8.0, 12.0, 32.0, 24.0), "a"),))), np.random.default_rng(0)
    )
    assert shown_HWC.shape == (80, 107, 3)
    assert np.array_equal(shown_HWC, bilinear(image_HWC, 80, 107))
    assert graph.regions[0].box == pytest.approx((8 * 107 / 64, 20.0, 32 * 107 / 64, 40.0))
    assert np.array_equal(recipe.images.resize(image_HWC), shown_HWC)
    assert recipe.images.resize(np.zeros((10, 200, 3), np.uint8)).shape == (7, 133, 3)
    assert recipe.images == replace(recipe.images, smooth=False)
    assert DenseCLIPBoxes.tiny().images.smooth
