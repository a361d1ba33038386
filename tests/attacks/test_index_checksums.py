"""What changed on disk in an index is found: vectors, columns, the vocabulary, items that are gone; a kill in a change is no fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import RunError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index import checksums
from diptych.index.checksums import FILE, Checksums
from diptych.index.kinds import open_index
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder
from diptych.index.verify import IndexVerification, verify_index

WIDTH = 64


class Drawn:
    """A model without weights whose vectors have no byte pattern in common."""

    name, fingerprint, normalised = "drawn", "f00d", True

    def _rows(self, count: int) -> np.ndarray:
        rows = np.random.default_rng(count).standard_normal((count, WIDTH)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_images(self, images: list[object], *, batch_size: int = 64) -> np.ndarray:
        return self._rows(len(images))

    def embed_texts(self, texts: list[str], *, batch_size: int = 64) -> np.ndarray:
        return self._rows(len(texts))


def texts(first: int, last: int, word: str = "bus") -> Pool:
    extras: list[dict[str, Any]] = [
        {"n": n, "half": n / 2, "big": 2**53 + 1, "sure": True, "tags": ["ä", "b"]} for n in range(last)
    ]
    rows = [Sample(f"u{n}", None, (Text(f"a red {word} {n}"), Text(f"no {n}")), extras=extras[n]) for n in range(first, last)]
    return Pool.from_samples(rows, name="words")


def verified(folder: Path, model: Any = None) -> IndexVerification:
    with open_index(folder, model=model) as opened:
        return verify_index(opened)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    DenseIndex.build(Drawn(), texts(0, 40), tmp_path / "index", what="texts", progress=False).close()
    return tmp_path / "index"


@pytest.fixture
def lexical(tmp_path: Path) -> Path:
    LexicalIndex.build(BM25Encoder(), texts(0, 40), tmp_path / "lexical", what="texts", progress=False).close()
    return tmp_path / "lexical"


@pytest.mark.parametrize("kind", ["dense", "lexical"])
def test_a_sound_index_is_sound_through_every_change(kind: str, request: pytest.FixtureRequest) -> None:
    folder, model = request.getfixturevalue(kind), Drawn() if kind == "dense" else BM25Encoder()
    assert verified(folder).ok
    with open_index(folder, model=model) as opened:
        opened.add(texts(30, 60), progress=False)
        opened.add(Pool.from_samples([Sample("u3", None, (Text("one text now"),))], name="fewer"), progress=False)
        opened.remove(["u1", "u50", "nobody"])
        report = verify_index(opened)
        assert report.lines()[1:] == ["every item is what was written"]
        assert (report.ok, report.items, report.unrecorded) == (True, 58 * 2 - 1, 0)
        opened.compact()
        assert verify_index(opened).ok
    assert verified(folder).ok
    assert (folder / FILE).stat().st_size < 200 * 32


def flip_a_vector(folder: Path, row: np.ndarray, number: int = 7) -> None:
    """One bit of one number, wherever the engine keeps that vector."""
    flipped = 0
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() and "shard" in path.parts else b""
        if (at := data.find(row.tobytes())) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 4 * number)
                old = file.read(1)
                file.seek(at + 4 * number)
                file.write(bytes([old[0] ^ 1]))
            flipped += 1
    assert flipped


def test_one_flipped_bit_of_one_vector_is_found(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_index(dense) as opened:
        (item, *_) = opened.collection.items_of("u17", ("",))
    flip_a_vector(dense, np.asarray(item.vectors[""], np.float32))
    assert main(["index", "verify", str(dense)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "u17: is not what was written: its checksum is another"
    assert main(["index", "verify", str(dense), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["changed"] == [["u17", "is not what was written: its checksum is another"]]
    with open_index(dense, model=Drawn()) as opened:
        opened.compact()  # a copy of a wrong item is still wrong
        assert [uid for uid, _ in verify_index(opened).changed] == ["u17"]
        opened.add(texts(17, 18), progress=False)
        assert verify_index(opened).ok


def test_items_that_are_gone_or_were_put_by_others_are_found(dense: Path) -> None:
    with open_index(dense) as opened:
        items = list(opened.collection.scroll(opened.spaces()))
        opened.collection.engine.delete(_only(items[0].id))
        opened.collection.engine.upsert([type(items[1])(items[1].id, items[2].vectors, items[1].payload)])
        report = verify_index(opened)
    assert report.missing == 1
    assert len(report.changed) == 1


def _only(id: Any) -> Any:
    from diptych.index.engine.store import ItemFilter

    return ItemFilter(ids=[id])


@pytest.mark.parametrize("file", ["words.txt", "index.json"])
def test_changed_files_are_found(lexical: Path, file: str) -> None:
    path = lexical / file
    old, new = ('"red"', '"rod"') if file == "words.txt" else ('"mean_length": ', '"mean_length": 1')
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    report = verified(lexical)
    assert len(report.problems) == 1
    assert file in report.problems[0]


def test_a_kill_between_record_and_engine_is_no_fault(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for place in ("upsert", "delete"):
        with open_index(dense, model=Drawn()) as opened:
            with monkeypatch.context() as patch:
                patch.setattr(opened.collection.engine, place, killed)
                with pytest.raises(Killed):
                    opened.add(texts(35, 45), progress=False)
            with monkeypatch.context() as patch:
                patch.setattr(opened.collection.engine, "delete", killed)
                with pytest.raises(Killed):
                    opened.remove(["u5"])
            assert verify_index(opened).ok
    with open_index(dense, model=Drawn()) as opened:
        opened.add(texts(35, 45), progress=False)
        opened.remove(["u5"])
        report = verify_index(opened)
        assert (report.ok, report.items) == (True, 88)


@pytest.mark.parametrize("cut", [1, 17, 31])
def test_a_record_that_a_kill_cut_is_left_out(dense: Path, cut: int) -> None:
    with (dense / FILE).open("ab") as file:
        file.write(b"\1" * cut)
    assert verified(dense).ok
    with open_index(dense, model=Drawn()) as opened:
        opened.add(texts(0, 45), progress=False)
        assert verify_index(opened).ok


def test_an_index_of_earlier_versions_has_none_and_gets_some(dense: Path) -> None:
    (dense / FILE).unlink()
    report = verified(dense)
    assert (report.ok, report.unrecorded) == (True, 80)
    assert "compact" in report.lines()[-1]
    with open_index(dense) as opened:
        opened.compact()
        assert (verify_index(opened).ok, verify_index(opened).unrecorded) == (True, 0)


@pytest.mark.parametrize("content", [b"", b"nothing of that kind", checksums.MAGIC + b"\x09" * 32])
def test_checksums_that_are_none_are_named(dense: Path, content: bytes) -> None:
    (dense / FILE).write_bytes(content)
    report = verified(dense)
    assert len(report.problems) == 1
    assert FILE in report.problems[0]
    with pytest.raises(RunError):
        Checksums(dense).read()


def test_a_copied_index_is_the_same(dense: Path, tmp_path: Path) -> None:
    assert verified(shutil.copytree(dense, tmp_path / "copy")).ok
    with dp.open_index(tmp_path / "copy", model=Drawn()) as opened, opened.open_to_others(lambda work: work()):
        with dp.open_index(tmp_path / "copy", model=Drawn()) as visitor:
            visitor.add(texts(50, 55), progress=False)
            visitor.remove(["u2"])
            assert verify_index(visitor).ok
        assert verify_index(opened).ok
