"""Regions by a detector and depth by a model of transformers, in place of what data have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph
from diptych.curate.experts import experts
from diptych.curate.experts.depth import DepthModel
from diptych.curate.operators.provision import DIALOGUES, ProVision
from diptych.data.dataset import Pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A depth model of a few thousand weights, as transformers saves one."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        patch_size=14,
    )
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("depth")
    DepthAnythingForDepthEstimation(config).eval().save_pretrained(out)
    DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(out)
    return out


def picture() -> ArrayImage:
    return ArrayImage(np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8), "noise")


def test_depth_is_that_of_the_model_at_the_size_of_the_image(folder: Path) -> None:
    from transformers import pipeline

    image = picture()
    found = DepthModel(str(folder))(image)
    assert found.shape == (30, 50)
    theirs = pipeline("depth-estimation", model=str(folder))(image.pil())["predicted_depth"]
    resized = torch.nn.functional.interpolate(
        theirs.reshape(1, 1, *theirs.shape[-2:]), size=(30, 50), mode="bicubic", align_corners=False
    )
    assert np.allclose(found, resized[0, 0].numpy(), atol=1e-4)
    pool = Pool.from_samples([Sample("a", image)])
    rows = _rows(ProVision(programs=("closer_point",), depth=str(folder), gap=1, retries=200, shown=0), pool)
    (nearer,) = {row["conversations"][1]["value"] for row in rows}
    (other,) = {text for text in _points(rows[0]["conversations"][0]["value"]) if text != nearer}
    depths = [
        found[round(float(y) * 30), round(float(x) * 50)] for x, y in (text.strip("()").split(", ") for text in (nearer, other))
    ]
    assert depths[0] > depths[1]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        _ = DepthModel(str(tmp_path / "none")).parts
    with pytest.raises(ConfigError, match="expected weights"):
        _ = DepthModel(str(tmp_path)).parts


def test_detections_stand_instead_of_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector:
        def detect(self, images: Any, *, objects: Any, **_: Any) -> list[SceneGraph]:
            return [
                SceneGraph(tuple(Region((4.0 * n, 0, 4.0 * n + 3, 9), name) for n, name in enumerate(objects))) for _ in images
            ]

    monkeypatch.setattr(experts, "open_address", lambda address: Detector())
    monkeypatch.setattr(experts, "require", lambda *given, **named: None)
    pool = Pool.from_samples([Sample("a", picture(), regions=(Region((0, 0, 2, 2), "hat"),))])
    detected = ProVision(
        programs=("exists_object", "leftmost_object"), detector="x", objects=("dog", "cup", "pen"), per_image=0, shown=0
    )
    rows = _rows(detected, pool)
    assert {row["metadata"]["object"][0] for row in rows if row["generator"] == "exists_object"} == {"dog", "cup", "pen"}
    assert [row["conversations"][1]["value"] for row in rows if row["generator"] == "leftmost_object"] == ["dog"]
    with pytest.raises(ConfigError, match="a detector is asked for names"):
        ProVision(detector="x")


def _rows(operator: ProVision, pool: Any) -> list[dict[str, Any]]:
    file = operator(pool).files[DIALOGUES]
    assert isinstance(file, Path)
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def _points(text: str) -> list[str]:
    return [f"({part.split(')')[0]})" for part in text.split("(")[1:]]
