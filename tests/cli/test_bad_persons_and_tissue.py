"""What is wrong with data of persons and tissue is said in one line by the command that meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.media.formats.tiled_tiff import pyramid, tiled_tiff

TINY = ["--preset", "tiny", "--steps", "1", "--workers", "0"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    assert main([*words]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


def slides(folder: Path, spacing: float | None, uid: str) -> Path:
    rng = np.random.default_rng(0)
    pixels = np.full((192, 192, 3), 245, np.uint8)
    pixels[48:144, 48:144] = rng.integers(60, 200, (96, 96, 3), dtype=np.uint8)
    (folder / f"{uid}.tif").write_bytes(tiled_tiff(pyramid(pixels, 1), spacing=spacing))
    table = folder / "slides.jsonl"
    table.write_text(json.dumps({"uid": uid, "slide": f"{uid}.tif", "barcode": uid}) + "\n")
    return table


def test_a_slide_without_micrometres_a_pixel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openslide", reason="needs the extra 'slides'")
    table = slides(tmp_path, None, "one")
    said = refused(capsys, "slides", "cut", str(table), str(tmp_path / "out"), "--size", "48")
    assert "one.tif" in said
    assert "--spacing" in said
    assert main(["slides", "cut", str(table), str(tmp_path / "out"), "--size", "48", "--spacing", "0.5"]) == 0


def test_a_barcode_without_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openslide", reason="needs the extra 'slides'")
    table = slides(tmp_path, 0.5, "slide-7")
    cut = ["slides", "cut", str(table), str(tmp_path / "out"), "--size", "48", "--barcode", "barcode"]
    said = refused(capsys, *cut)
    assert "row 0, field 'barcode': barcode 'slide-7' does not name a patient (expected TCGA-SS-PPPP" in said
    good = slides(tmp_path, 0.5, "TCGA-BP-4161-01Z-00-DX1")
    assert main([*cut[:2], str(good), *cut[3:]]) == 0


def test_an_identity_with_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for at, person in enumerate((1, 1, 2, 2, 3)):
        Image.fromarray(np.full((64, 32, 3), 40 * at, np.uint8)).save(tmp_path / f"{at}.png")
        rows.append({"id": person, "file_path": f"{at}.png", "captions": ["a man in red"], "split": "train"})
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    train = [
        "train",
        "plip_person",
        "--data",
        str(tmp_path / "reid_raw.json"),
        "--out",
        str(tmp_path / "run"),
        *TINY,
        "--batch-size",
        "4",
    ]
    said = refused(capsys, *train, "--members", "2")
    assert "groups of fewer than 2 rows: 1, the first '3' of 1" in said
    assert "--lone repeat or leave" in said


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"a": ["b"], "b": ["a"]}, "concept 'a' lies above itself: a -> b -> a"),
        ({"a": ["gone"], "b": []}, "parent 'gone' of concept 'a'"),
    ],
)
def test_an_ontology_with_a_cycle_or_an_unknown_parent(
    parents: dict[str, list[str]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({key: {"name": key.upper(), "parent": above} for key, above in parents.items()}))
    train = ["train", "keep", "--data", "world:tissue?n=16", "--out", str(tmp_path / "run"), *TINY, "--knowledge", str(file)]
    said = refused(capsys, *train)
    assert message in said
    assert "tree.json" in said
