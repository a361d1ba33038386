"""PE-Net's detector against its release (VL-Group/PENET 9c9f507): anchors, proposals, losses, what is found, names made anew.

The numbers were made by running that code on made-up maps of two images of different sizes; its samplers took every box, and its compiled
NMS was written again as a loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from diptych.core.errors import ConfigError
from diptych.models.detection.faster_rcnn import FasterRCNN, FasterRCNNConfig, nms_labels
from diptych.models.detection.inclusive_boxes import SIZE, box_losses
from diptych.models.penet.predicate_head import PENetHeadConfig, PredicatePrototypeHead, box_code
from diptych.recipes.relations.penet import PENet

RELEASED = "VL-Group/PENET 9c9f507, RPN and box head"
SIZES = [(52, 76), (60, 64)]


class Backbone(nn.Module):
    strides, channels = (4, 8, 16, 32), (1, 1, 1, 1)


class Said(nn.Module):
    """A part that answers what it was told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_: Any) -> Any:
        return self.answer


class Every:
    """A sampler that takes every box with a label."""

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [(label >= 1).to(torch.uint8) for label in labels], [(label == 0).to(torch.uint8) for label in labels]


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    with np.load(Path(__file__).with_name("penet_detector.npz")) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def detector(stored: dict[str, Tensor], counting: Any = "inclusive") -> FasterRCNN:
    shape = FasterRCNNConfig(
        channels=1, region_width=4, pooled_side=1, anchors=(8, 16, 24, 32, 48), considered=60, proposals=40, min_score=0.2,
        detections=7, counting=counting,
    )  # fmt: skip
    net = FasterRCNN(Backbone(), shape, 4)  # type: ignore[arg-type]
    maps = [[stored[f"map_{kind}_{level}"] for level in range(5)] for kind in ("objectness", "change")]
    net.proposer.head = Said(maps)
    net.proposer.fg_bg_sampler = net.heads.fg_bg_sampler = Every()
    return net


def maps_of(stored: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.zeros(2, 3, 64, 80), {str(n): stored[f"map_objectness_{n}"][:, :1] for n in range(5)}


def test_anchors_and_proposals_are_the_released_ones(stored: dict[str, Tensor], parity: Any) -> None:
    net, (image_BCHW, maps) = detector(stored).eval(), maps_of(stored)
    anchor_A4 = net.proposer.anchor_generator(ImageList(image_BCHW, SIZES), list(maps.values()))[1]
    proposals = net.proposals(image_BCHW, maps, SIZES)
    pairs = [(anchor_A4, stored["anchors"]), *((p, stored[f"proposal_{n}"]) for n, p in enumerate(proposals))]
    parity("penet", "anchors and proposals", RELEASED, pairs, tolerance=1e-4)
    other = detector(stored, "half_open").eval().proposals(image_BCHW, maps, SIZES)
    assert other[0].shape != proposals[0].shape or (other[0] - proposals[0]).abs().max() > 0.5


def test_losses_of_proposals_and_of_boxes_are_the_released_ones(stored: dict[str, Tensor], parity: Any) -> None:
    net, (image_BCHW, maps) = detector(stored).train(), maps_of(stored)
    targets = [{"boxes": stored[f"truth_{n}"], "labels": stored[f"name_{n}"], SIZE: torch.tensor(SIZES[n])} for n in range(2)]
    _, losses = net.proposer(ImageList(image_BCHW, SIZES), maps, targets)
    chosen, _, names, goals = net.heads.select_training_samples([stored[f"proposal_{n}"] for n in range(2)], targets)
    losses |= box_losses(stored["logit2"], stored["change2"], torch.cat(names), torch.cat(goals))
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    pairs = [(value, stored[name]) for name, value in losses.items()]
    pairs += [(box_N4, stored[f"chosen_{n}"]) for n, box_N4 in enumerate(chosen)]
    parity("penet", "losses of the detector", RELEASED, pairs, tolerance=1e-5)


def test_what_is_found_and_named_anew_is_the_released(stored: dict[str, Tensor], parity: Any) -> None:
    net = detector(stored).eval()
    net.heads.box_roi_pool, net.heads.box_head = Said(None), Said(None)
    net.heads.box_predictor = Said((stored["logit"], stored["change"]))
    found = net.predict_regions({}, [stored[f"proposal_{n}"] for n in range(2)], SIZES)
    pairs = []
    for n, one in enumerate(found):
        assert one.label_N.tolist() == stored[f"found_label_{n}"].tolist()
        pairs += [(one.box_NC4, stored[f"found_box_{n}"]), (one.logit_NC, stored[f"found_logit_{n}"])]
        named_N = nms_labels(stored[f"anew_{n}"], one.box_NC4, 0.3, inclusive=True)
        pairs.append((named_N, stored[f"named_{n}"]))
    parity("penet", "boxes that are found, and their names made anew", RELEASED, pairs, tolerance=1e-4)


def test_places_are_read_twice_a_step_as_released() -> None:
    """The released predictor calls its layers for places two times, so that running statistics move twice."""
    box_N4 = torch.rand(7, 4) * 20
    box_N4[:, 2:] += box_N4[:, :2]
    twice, once = (
        PredicatePrototypeHead(
            PENetHeadConfig(width=4, word_width=4, naming_width=4, place_momentum=m), 6, 3, 3
        ).naming.place.train()
        for m in (0.001, PENet.sgdet().relation_head.place_momentum)
    )
    once.load_state_dict(twice.state_dict())
    for _ in range(2):
        twice(box_code(box_N4, (40, 40)))
    once(box_code(box_N4, (40, 40)))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(once[1], name), getattr(twice[1], name), rtol=1e-6, atol=1e-9)


def test_published_presets_count_as_released_and_small_ones_do_not() -> None:
    for preset in ("paper", "sgcls", "sgdet", "detection"):
        made = getattr(PENet, preset)()
        assert (made.detector.counting, made.sampling.last_pixel) == ("inclusive", True)
    assert PENet.tiny().detector.counting == "half_open"
    with pytest.raises(ConfigError, match="counting is 'caffe'"):
        FasterRCNNConfig(counting="caffe")  # type: ignore[arg-type]
