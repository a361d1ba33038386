"""An index that another one has open, whose disk is full at the end of an `add`, or whose engine lost the end of a file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import diptych as dp
from diptych.core.errors import RunError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.collection import Collection
from diptych.index.engine.disk import DiskFull


def texts(first: int, last: int) -> Pool:
    return Pool.from_samples([Sample(f"u{n}", None, (Text(f"a red bus number {n}"),)) for n in range(first, last)], name="words")


def test_what_went_in_is_said_and_cut_files_are_named_and_a_search_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "index"
    dp.index("words", texts(0, 4), folder, kind="lexical", progress=False).close()

    def full(_: Collection) -> None:
        raise DiskFull("the disk is full")

    holder = dp.open_index(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "settle", full)
        with pytest.raises(
            DiskFull, match="all 3 items went in and are searched, but could not be put in order: the disk is full"
        ):
            holder.add(texts(4, 7), progress=False)
    threading.Timer(0.4, holder.close).start()
    with dp.open_index(folder) as opened:  # waits for the other one
        assert len(opened) == 7
        with pytest.raises(RunError, match="is open in another process, or twice in this one"):
            dp.open_index(folder)
    cut = next(folder.rglob("status.dat"))
    cut.write_bytes(cut.read_bytes()[:7])
    with pytest.raises(RunError, match=r"status\.dat is cut off: 7 of 16 bytes: build the index again"):
        dp.open_index(folder)
    assert "panicked" not in capfd.readouterr().err
