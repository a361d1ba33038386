"""Hostile and broken input through the commands: one line each in the quarantine or the removal table, nothing else lost, exit code 0."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.columns import read_table
from diptych.data.quarantine import read_quarantine


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def bomb() -> bytes:
    """A sound PNG but for its header, which declares 100,000 x 100,000 pixels."""
    data = bytearray(png(0))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Four good samples; a bomb, a cut image, a caption that is not UTF-8, a member that climbs out, and a link."""
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:

        def add(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            tar.addfile(info, io.BytesIO(data))

        for n in range(4):
            add(f"good{n}.png", png(n))
            add(f"good{n}.txt", f"a good text {n}".encode())
        add("bomb.png", bomb())
        add("bomb.txt", b"declares too much")
        add("cut.png", png(9)[:200])
        add("cut.txt", b"ends early")
        add("latin.png", png(10))
        add("latin.txt", b"caf\xe9")
        add("../../outside.png", png(11))
        add("../../outside.txt", b"climbs out")
        add("link.png", b"", tarfile.SYMTYPE, "/etc/passwd")
    return folder


def test_each_costs_itself_and_has_one_line(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "exact_duplicates", str(tars), str(tmp_path / "out"), "--pixels", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    removed = {row["uid"]: row["reason"] for row in read_table(tmp_path / "out", "removed").table.to_pylist()}
    quarantined = read_quarantine(tmp_path / "out")
    assert removed.keys() == {"bomb", "cut"}
    assert all(reason.startswith("unreadable: ") and "\n" not in reason for reason in removed.values())
    assert "10,000,000,000 pixels" in removed["bomb"]
    assert facts["unread"] == len(quarantined)
    said = " | ".join(f"{bad.file} {bad.reason}" for bad in quarantined)
    assert "outside" in said
    assert "latin" in said
    assert "link" in said
    assert all("\n" not in bad.reason for bad in quarantined)
    assert facts["after"] == facts["before"] - 2
    kept = {"good0", "good1", "good2", "good3"}
    assert facts["after"] in (4, 5), "the image of the odd caption may stay, without it"
    assert not kept & (removed.keys() | {bad.uid for bad in quarantined})
    assert not (tmp_path / "outside.png").exists()
    assert not (tmp_path.parent / "outside.png").exists()


def test_what_is_left_can_be_built_and_nothing_is_counted_twice(tars: Path, tmp_path: Path) -> None:
    assert main(["data", "build", str(tars), str(tmp_path / "built")]) == 0
    reasons = {bad.uid: bad.reason for bad in read_quarantine(tmp_path / "built")}
    assert {"bomb", "cut"} <= reasons.keys()
    assert main(["curate", "near_duplicates", str(tmp_path / "built"), str(tmp_path / "out")]) == 0
    assert main(["data", "verify", str(tmp_path / "built")]) == 0


def test_exit_codes(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "exact_duplicates", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert main(["curate", "exact_duplicate", str(tars), str(tmp_path / "out")]) == 2
    assert main(["curate", "exact_duplicates", str(tars)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 3
    assert "did you mean 'exact_duplicates'" in errors[1]
