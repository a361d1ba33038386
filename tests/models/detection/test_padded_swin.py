"""Swin as published detectors run it, on an image that neither patches nor windows divide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.models.detection.backbone import DetectionBackbone, detection_backbone
from diptych.models.detection.padded_swin import PaddedSwinBlock
from diptych.models.rlipv2.published import from_released, to_released

SWIN_TINY = "timm:swin_tiny_patch4_window7_224"
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "released_swin_tiny.json").read_text())
"""Numbers of the released module (2 x 3 x 101 x 75 pixels in): each map's shape, mean of its absolute values, and channels 0-3 of
the second image at four places."""


def known(backbone: DetectionBackbone) -> DetectionBackbone:
    """Parameters from one numpy stream, in the order of their released names."""
    rng = np.random.RandomState(0)
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    released = to_released(state)
    for name in sorted(name for name in released if not name.endswith("relative_position_index")):
        values = 0.05 * rng.standard_normal(tuple(released[name].shape)) + ("norm" in name and name.endswith("weight"))
        released[name] = torch.from_numpy(values.astype(np.float32))
    backbone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in from_released(released).items()})
    return backbone


def test_maps_are_those_of_the_released_module(parity: Any) -> None:
    backbone = known(detection_backbone(SWIN_TINY)).eval()
    image = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 101, 75)).astype(np.float32))
    with torch.no_grad():
        maps = backbone(image)
    pairs = []
    for map_, recorded in zip(maps, RECORDED, strict=True):
        assert list(map_.shape) == recorded["shape"]
        assert float(map_.double().abs().mean()) == pytest.approx(recorded["size"], rel=1e-6)
        for (row, column), channels in zip(recorded["places"], recorded["values"], strict=True):
            torch.testing.assert_close(map_[1, :4, row, column], torch.tensor(channels), rtol=1e-4, atol=1e-4)
            pairs.append((map_[1, :4, row, column], channels))
    parity("rlipv2", "maps of Swin on a size that windows do not divide", "the released module", pairs, tolerance=1e-4)


def test_where_windows_divide_the_map_nothing_changes() -> None:
    torch.manual_seed(0)
    padded = detection_backbone(SWIN_TINY).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours = padded(image)
        for module in padded.modules():
            if isinstance(module, PaddedSwinBlock):
                module.__class__ = PaddedSwinBlock.__bases__[0]
        theirs = padded(image)
    for mine, timms in zip(ours, theirs, strict=True):
        assert torch.equal(mine, timms)
