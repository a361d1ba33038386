"""Steps hold Arrow columns and arrays, and no Python object a row."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.cluster  # noqa: F401  # cocu takes it for images of three concepts or more
import torch
from PIL import Image

from diptych.core.contracts import CurationStepResult, Drop
from diptych.core.environment import installed_version
from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates import near, semantic, text_candidates
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.duplicates.near import NearDuplicates
from diptych.curate.duplicates.semantic import SemanticDuplicates
from diptych.curate.duplicates.text import TextDuplicates
from diptych.curate.engine import agreement, embedding, images, rows, run, verdicts
from diptych.curate.engine.images import first_equal, repeated
from diptych.curate.engine.pool import curate
from diptych.curate.engine.run import count_distinct
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, StringColumn, verdict_result, verdict_table
from diptych.curate.experts.findings import Finding
from diptych.curate.filters import image_heads, personal_data, target_clusters
from diptych.curate.filters.image_heads import ImageScores
from diptych.curate.filters.personal_data import PersonalData
from diptych.curate.filters.target_clusters import TargetClusters
from diptych.curate.operators import align, alt_text, cocu, fusecap, laion, realsyn, tldr
from diptych.curate.operators.align import AlignFilters
from diptych.curate.operators.cocu import CoCu
from diptych.curate.operators.filter_heads import train_aesthetic
from diptych.curate.operators.fusecap import FuseCap
from diptych.curate.operators.laion import LAION
from diptych.curate.operators.metaclip import MetaCLIP
from diptych.curate.operators.realsyn import RealSyn
from diptych.curate.operators.rewrite import Rewrite
from diptych.curate.operators.tldr import TLDR
from diptych.curate.operators.top_fraction import TopFraction
from diptych.curate.text import matching
from diptych.curate.writing import step as writing_step
from diptych.data import fingerprint
from diptych.data.dataset import Pool
from diptych.data.media.images import ImageObjects
from diptych.data.ragged import Ragged
from diptych.data.texts import Texts
from diptych.index import embed, embedding_table

BROKEN = b"none"
SMALL, LARGE, BLOCK, WIDTH = 400, 2_400, 200, 8
"""Rows, rows of which there are Python objects at a time, and dimensions of an embedding."""


@pytest.fixture
def prompt_collector() -> Iterator[None]:
    """Objects in cycles are freed as soon as they are outside tests."""
    kept = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*kept)


BLOCKED = (verdicts, rows, fingerprint, align, alt_text, laion, text_candidates, personal_data, tldr, cocu, fusecap, agreement)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch, prompt_collector: None) -> None:
    for module in BLOCKED:
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(images, "PART_ROWS", BLOCK)
    monkeypatch.setattr(run, "BATCH_ROWS", BLOCK)
    monkeypatch.setattr(matching, "CHUNK", BLOCK)
    monkeypatch.setattr(near, "BLOCK", BLOCK)
    monkeypatch.setattr(embedding, "PART_ROWS", BLOCK)
    monkeypatch.setattr(realsyn, "TEXTS_AT_ONCE", BLOCK)
    monkeypatch.setattr(cocu, "POOL_BLOCK", BLOCK)
    monkeypatch.setattr(tldr, "WHITENED_FROM", BLOCK)
    monkeypatch.setattr(tldr, "WHITENED_VALUES", BLOCK * 64)
    monkeypatch.setattr(writing_step, "PART_ROWS", BLOCK)
    monkeypatch.setattr(embed, "TEXT_BLOCK", 256)
    monkeypatch.setattr(tldr, "open_address", lambda address: DrawnCodes())
    monkeypatch.setattr(fusecap, "ObjectExpert", lambda address, names: DrawnFindings())
    for module in (semantic, target_clusters, image_heads, laion, tldr, cocu, realsyn, agreement):
        monkeypatch.setattr(module, "open_embedder", lambda address: DrawnVectors())
    monkeypatch.setattr(target_clusters, "open_data", lambda address: links(20, True))
    monkeypatch.setattr(embedding_table, "BLOCK", BLOCK)
    monkeypatch.setattr(embedding_table, "PART_ROWS", BLOCK)
    monkeypatch.setattr(text_candidates, "CACHED", BLOCK)


class DrawnVectors:
    """Embedder whose vectors are drawn by the bytes of a picture."""

    name, fingerprint = "drawn", "drawn"

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        return np.eye(WIDTH, dtype=np.float32)[[len(text) % WIDTH for text in texts]]

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        if any(image.read() == BROKEN for image in images):
            raise DecodeError("is no picture", file=images[0].name)
        rows = [np.random.default_rng(list(image.read()[-16:])).standard_normal(WIDTH) for image in images]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32).reshape(-1, WIDTH)


class DrawnCodes:
    """Codebook captioner with four codes by the bytes of a picture."""

    name, fingerprint = "codes", "codes"
    model = SimpleNamespace(codebook=SimpleNamespace(code_KD=torch.eye(16)))

    def codes(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        return np.array([list(image.read()[-20:-16]) for image in images]) % 16

    def generate(self, images: Any, prompts: Any, **options: Any) -> list[str]:
        return [f"picture {image.read()[-20:-16].hex()}" for image in images]


class DrawnFindings:
    """One finding by the bytes of a picture."""

    def __call__(self, image: Any) -> list[Finding]:
        return [Finding("dog", score=image.read()[-17] / 255, box=(0.0, 0.0, 2.0, 2.0), by="drawn")]


def links(rows: int, pictures: bool | str = False, second: str = "") -> Pool:
    """Rows with an address, a score and a text of ten words out of 5,000; one text in ten is that of the row before with a full stop.

    pictures  give each row a picture of 4 x 4 random pixels; "half": every second row; "broken": seven in eight cannot be read
    second    a second text of every row
    """
    words = [f"{number:05x}" for number in range(5_000)]
    texts = [" ".join(words[n] for n in drawn) for drawn in np.random.default_rng(0).integers(0, 5_000, (rows, 10)).tolist()]
    for row in range(10, rows, 10):
        texts[row] = f"{texts[row - 1]}."
    uids = pa.array([f"{row:08d}" for row in range(rows)])
    columns = {"uid": uids, "url": pa.array([f"https://example.org/{row}.jpg" for row in range(rows)])}
    columns["score"] = pa.array(np.random.default_rng(1).random(rows))
    owners = np.repeat(np.arange(rows), 2 if second else 1)
    texts = [text for one in texts for text in (one, second) if text]
    table = pa.table(
        {"string": pa.array(texts, pa.large_string()), "language": [""] * len(texts), "origin": ["alt"] * len(texts)}
    )
    images = tuple(BytesImage(picture(row)) if pictures is True or (pictures and row % 2) else None for row in range(rows))
    if pictures == "broken":
        images = tuple(BytesImage(BROKEN if row % 8 else picture(row), f"{row}.png") for row in range(rows))
    return Pool("links", columns, Texts(Ragged.by_row(table, owners, rows)), ImageObjects(images))


@cache
def picture(seed: int) -> bytes:
    """A PNG file of 4 x 4 random pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def peak_bytes(data: Pool, step: Any, out: Path, embeddings: Path | None = None) -> int:
    """Peak of what Python and numpy allocate while a step runs."""
    installed_version.cache_clear()  # each run reads what the first one of a process reads
    usual = gc.get_threshold()
    gc.collect()
    gc.set_threshold(500, 2, 2)  # circles that nobody holds are no memory of the step
    tracemalloc.start()
    try:
        curate(data, [step], out, embeddings=embeddings)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.set_threshold(*usual)


def growth(measured: Callable[[int, int], int], small: int, large: int, most: int) -> float:
    """Bytes a row between two numbers of rows. A peak differs by half a megabyte from run to run, as what threads hold for a moment meets
    it or not: where the growth is not below `most`, both are measured five times in all, and the median peaks count."""
    few, many = [measured(small, 0)], [measured(large, 0)]
    if many[0] - few[0] >= most * (large - small):
        few += [measured(small, attempt) for attempt in range(1, 5)]
        many += [measured(large, attempt) for attempt in range(1, 5)]
    return (median(many) - median(few)) / (large - small)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("step", "pictures", "bytes_a_row"),
    [
        (ExactDuplicates(), False, 80),
        (AlignFilters(short_side=0, min_words=0, max_words=0), False, 80),
        pytest.param(TextDuplicates(), False, 250, marks=pytest.mark.slow),
        pytest.param(LAION(min_bytes=0), False, 80, marks=pytest.mark.slow),
        pytest.param(LAION(min_bytes=0, model="drawn", similarity=-1, similarity_other=-1), True, 300, marks=pytest.mark.slow),
        (PersonalData(), False, 60),
        (TopFraction("score"), False, 100),
        pytest.param(MetaCLIP(entries="entries.txt"), False, 100, marks=pytest.mark.slow),
        pytest.param(NearDuplicates(), True, 600, marks=pytest.mark.slow),
        pytest.param(SemanticDuplicates("drawn", clusters=8), True, 150, marks=pytest.mark.slow),
        (SemanticDuplicates("drawn", clusters=8, cosine=0.5), True, 45),  # nearly all rows are dropped
        (SemanticDuplicates("drawn", clusters=8), "broken", 50),
        (NearDuplicates(), "broken", 140),
        (TargetClusters("drawn", "target", clusters=8), True, 200),
        pytest.param(ImageScores("head", "drawn"), True, 150, marks=pytest.mark.slow),
        pytest.param(TLDR(captioner="drawn", match="drawn", clusters=8, keep=0.5), True, 450, marks=pytest.mark.slow),
        pytest.param(CoCu(model="drawn", gallery="gallery.txt", language="", neighbours=2), True, 300, marks=pytest.mark.slow),
        pytest.param(FuseCap(detector="drawn", objects=("dog",), language=""), True, 300, marks=pytest.mark.slow),
        pytest.param(RealSyn(model="drawn", short_side=0, sentence_clusters=8), "half", 400, marks=pytest.mark.slow),
        pytest.param(RealSyn(model="drawn", short_side=0, sentence_clusters=8, alike=0.5), "half", 270, marks=pytest.mark.slow),
        pytest.param(Rewrite(styles=("framed",), check="none", copies=True, match="drawn"), True, 400, marks=pytest.mark.slow),
    ],
)
def test_memory_of_python_and_numpy_by_row(
    step: Any, pictures: bool | str, bytes_a_row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_aesthetic(np.eye(WIDTH, dtype=np.float32), np.arange(WIDTH), fingerprint="drawn").save(Path("head"))
    Path("gallery.txt").write_text("\n".join(f"{number:05x}" for number in range(0, 5_000, 500)))
    Path("entries.txt").write_text("\n".join(f"{number:05x}" for number in range(0, 5_000, 7)))
    list(with_bar(range(2), 2, "imports of the bar", least=1))
    late = isinstance(step, MetaCLIP | LAION) and not pictures  # their words and tags level off late
    small, large = (600, 12_000) if late else (SMALL, LARGE)
    peak_bytes(links(small, pictures), step, tmp_path / "imports and models")

    def measured(rows: int, attempt: int) -> int:
        return peak_bytes(links(rows, pictures), step, tmp_path / f"{rows}-{attempt}")

    grown = growth(measured, small, large, bytes_a_row)
    print(step.slug, round(grown), "bytes a row")
    assert grown < bytes_a_row


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_memory_of_texts_that_align_keeps(tmp_path: Path) -> None:
    step = AlignFilters(short_side=0, shared_by=0, texts_of_image=0, vocabulary=0)

    def measured(rows: int, attempt: int) -> int:
        return peak_bytes(links(rows, second="two words"), step, tmp_path / f"{rows}-{attempt}")

    measured(SMALL, -1)
    grown = growth(measured, SMALL, LARGE, 80)
    print(round(grown), "bytes a row")
    assert grown < 80


@pytest.mark.usefixtures("small_blocks")
def test_memory_of_a_stored_embedding_by_row(tmp_path: Path) -> None:
    step = SemanticDuplicates("drawn", clusters=8)
    list(with_bar(range(2), 2, "imports of the bar", least=1))
    peak_bytes(links(SMALL, True), step, tmp_path / "imports", tmp_path / "imports-e")

    def measured(rows: int, attempt: int) -> int:
        return peak_bytes(links(rows, True), step, tmp_path / f"{rows}-{attempt}", tmp_path / f"{rows}-{attempt}-e")

    grown = growth(measured, SMALL, LARGE, 220)
    print(round(grown), "bytes a row")
    assert grown < 220


def test_arrow_columns_equal_the_sequences_they_stand_for() -> None:
    drops = [Drop("b", "s", "near a"), Drop("d", "s", "")]
    table = verdict_table(CurationStepResult(("c", "a"), drops))
    assert table.to_pydict() == {
        "uid": ["a", "b", "c", "d"],
        "kept": [True, False, True, False],
        "reason": ["", "near a", "", ""],
    }
    again = verdict_result(table, "s", {}, 0.0)
    assert again.kept == ("a", "c")
    assert list(again.kept[::-1]) == ["c", "a"]
    assert again.dropped == drops
    assert again.dropped[-1] == drops[-1]
    assert again.dropped != drops[::-1]
    assert verdict_table(again).equals(table)
    assert StringColumn(pa.array(["a"])) != ("b",)
    assert ColumnByUid(pa.table({"uid": ["a", "b"], "n": [1, None]})) == {"a": 1, "b": None}
    assert DropTable.of(again.dropped) is again.dropped


def test_reasons_beyond_a_block_equal_those_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 3)
    given = np.random.default_rng(0).integers(0, 8, 40).tolist()
    reasons = [f"{'odd' if n % 2 else 'even'}: {n}" if n else "" for n in given]
    faults = rows.Faults(41)
    faults.set_each(np.arange(40), reasons)
    faults.set(40, "odd: 1")
    faults.set(40, "")
    uids = pa.array([f"{row:02d}" for row in range(41)])
    kept, drops = faults.verdicts("s", uids)
    assert kept == [f"{row:02d}" for row, reason in enumerate([*reasons, ""]) if not reason]
    assert drops == [Drop(f"{row:02d}", "s", reason) for row, reason in enumerate(reasons) if reason]
    assert faults.kinds() == {kind: sum(reason.startswith(kind) for reason in reasons) for kind in ("even", "odd")}


def test_first_equal_and_repeated_equal_the_loop() -> None:
    values = np.random.default_rng(0).integers(0, 40, 60).tolist()
    column = pa.chunked_array(
        [pa.array([None if v < 5 else str(v) for v in part], pa.string()) for part in (values[:25], values[25:])]
    )
    plain = column.to_pylist()
    assert first_equal(column).tolist() == [-1 if value is None else plain.index(value) for value in plain]
    assert repeated(first_equal(column)).tolist() == [value is not None and plain.count(value) > 1 for value in plain]


def test_distinct_values_are_counted_alike_by_arrow_and_daft(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"text": rng.integers(0, 9, 200).astype(str), "image": rng.integers(0, 12, 200)})
    pairs = set(zip(table["text"].to_pylist(), table["image"].to_pylist(), strict=True))
    expected = sorted((text, sum(other == text for other, _ in pairs)) for text in {text for text, _ in pairs})
    made = []
    for engine in ([], ["ray"]):  # Daft's frame is the same on its local runner, which runs here
        monkeypatch.setattr("diptych.curate.engine.run._CHOSEN", engine)
        made.append(count_distinct(table, "text", "image"))
    for counts in made:
        assert sorted(zip(counts["text"].to_pylist(), counts["count"].to_pylist(), strict=True)) == expected
