"""MIR against the released functions, a naive pass through a language model, and sets whose distance is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from diptych.core.contracts import LayerReader, LayerStates
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.tasks._scoring.frechet import frechet, without_outliers
from diptych.tasks.evaluate import evaluate
from diptych.tasks.generation.mir import MIR

RELEASED = json.loads((Path(__file__).parents[2] / "parity/released/mir_released.json").read_text())


def sets(seed: int, layers: int, rows: Sequence[Sequence[int]], width: int) -> list[LayerStates]:
    """What the recorded run had, a row of pictures and words at a time."""
    rng = np.random.default_rng(seed)
    visual: list[list[Any]] = [[] for _ in rows]
    text: list[list[Any]] = [[] for _ in rows]
    for layer in range(layers):
        for found, (k, _) in zip(visual, rows, strict=True):
            drawn = rng.normal(0.3 * layer, 1 + 0.2 * layer, (k, width)).astype(np.float32)
            found.append(drawn * rng.lognormal(0, 0.3, (k, 1)).astype(np.float32))
        for found, (_, t) in zip(text, rows, strict=True):
            found.append(rng.normal(0, 1, (t, width)).astype(np.float32) * rng.lognormal(0, 0.5, (t, 1)).astype(np.float32))
    return [LayerStates(np.stack(v), np.stack(t)) for v, t in zip(visual, text, strict=True)]


class States:
    """A model whose states are given, which counts how often it is asked."""

    name, fingerprint = "states", "s"

    def __init__(self, rows: Sequence[LayerStates]) -> None:
        self.rows, self.depth = rows, len(rows[0].text_ETD)
        self.asked: list[list[int]] = []
        self.texts: list[str] = []

    def read_layers(self, images: Any, texts: Any, *, layers: Any, template: str = "", batch_size: int = 8) -> Iterator[Any]:
        self.asked.append(list(layers))
        self.texts = list(texts)
        places = [layer - 1 for layer in layers]
        for row in self.rows[: len(images)]:
            yield LayerStates(row.visual_EKD[places], row.text_ETD[places])


def pictures(count: int, language: str = "") -> Pool:
    image = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    return Pool.from_samples([Sample(f"u{n}", image, (Text(f"word {n}", language),)) for n in range(count)])


@pytest.mark.parametrize("case", RELEASED["cases"], ids=lambda case: f"seed {case['seed']}")
def test_the_score_is_that_of_the_released_functions(case: dict[str, Any], parity: Any) -> None:
    """In its accurate mode, and in its fast one, which takes no root."""
    model = States(sets(case["seed"], case["layers"], case["rows"], case["width"]))
    task = MIR(samples=len(case["rows"]), words=0)
    records = task.predict(model, pictures(len(case["rows"])))
    result = task.score(records)
    distance = np.array(list(result.notes["layers"].values()))
    rows = records.to_pylist()
    fast = np.array([row["means"] + row["visual"] + row["text"] - 2 * row["product"] for row in rows])
    assert [[row["visual_outliers"], row["text_outliers"]] for row in rows] == case["outliers"]
    pairs = [(distance, np.array(case["accurate"])), (result.value, case["mir_accurate"])]
    few = sum(k for k, _ in case["rows"]) < case["width"]
    off = "distance of every layer and MIR, fewer rows than numbers: its root of a singular matrix in float32 is off"
    what = off if few else "distance of every layer and MIR"
    parity("mir", what, "mir.py of 07070b9, accurate mode", pairs, tolerance=1e-3 if few else 5e-6)
    pairs = [(fast, np.array(case["fast"])), (result.metrics["mir_as_released"].value, case["mir_fast"])]
    if not few:  # else it inverts a singular matrix
        parity("mir", "the same without a root", "mir.py of 07070b9, fast mode", pairs, tolerance=1e-5)


@pytest.mark.parametrize(("rows", "width"), [((40, 60), 6), ((5, 7), 12), ((5, 40), 12)])
def test_the_distance_is_that_of_matrix_roots(rows: tuple[int, int], width: int, parity: Any) -> None:
    """More rows than numbers, fewer, and one of each."""
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) for count in rows)
    found = frechet(torch.from_numpy(one), torch.from_numpy(other + 1))
    first, second = np.cov(one.T), np.cov(other.T)
    eigen = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None)).sum()
    means = ((one.mean(0) - other.mean(0) - 1) ** 2).sum()
    pairs = [(found.root, eigen), (found.distance, means + np.trace(first) + np.trace(second) - 2 * eigen)]
    parity("mir", "Fréchet distance", "eigenvalues of the product of covariances, NumPy", pairs, tolerance=1e-6)
    assert found.product == pytest.approx(np.trace(first @ second))
    if min(rows) > width:
        parity(
            "mir",
            "trace of the root",
            "scipy.linalg.sqrtm",
            [(found.root, np.trace(scipy.linalg.sqrtm(first @ second)).real)],
            tolerance=1e-9,
        )


def test_equal_sets_are_at_no_distance_and_an_offset_adds_its_square() -> None:
    vector_ND = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert frechet(vector_ND, vector_ND).distance == pytest.approx(0, abs=1e-9)
    for offset in (0.5, 1.0, 3.0):
        assert frechet(vector_ND, vector_ND + offset).distance == pytest.approx(5 * offset**2, rel=1e-5)
    with pytest.raises(DataError, match="sets of 1 and 30 vectors"):
        frechet(vector_ND[:1], vector_ND)
    with pytest.raises(DataError, match="with the same D"):
        frechet(vector_ND[:, :4], vector_ND)


def test_outliers_become_the_lower_median() -> None:
    vector_ND = torch.ones(20, 3) * torch.linspace(1, 2, 20)[:, None]
    vector_ND[7] = 100
    kept_ND, count = without_outliers(vector_ND)
    assert count == 1
    torch.testing.assert_close(kept_ND[7], vector_ND.sort(0).values[9])
    keep = torch.arange(20) != 7
    torch.testing.assert_close(kept_ND[keep], vector_ND[keep])


def test_little_memory_changes_nothing_but_how_often_is_read() -> None:
    rows = sets(3, 4, [(9, 9)] * 6, 8)
    whole, small = States(rows), States(rows)
    bytes_a_layer = 6 * 4 * 8 * 18
    all_at_once = MIR(samples=6, words=0).predict(whole, pictures(6))
    some = MIR(samples=6, words=0, memory=2.5 * bytes_a_layer / 2**30).predict(small, pictures(6))
    assert some.to_pylist() == all_at_once.to_pylist()
    assert [asked for asked in small.asked if len(asked) > 1] == [[1, 2], [3, 4]]
    assert whole.asked == [[1], [1, 2, 3, 4]]
    one = States(rows)
    assert MIR(samples=6, words=0, memory=1e-9).predict(one, pictures(6)).to_pylist() == all_at_once.to_pylist()
    assert one.asked == [[1], [2], [3], [4]]


def test_texts_are_those_of_other_pictures_or_of_files(tmp_path: Path) -> None:
    data = pictures(5)
    drawn = {}

    def asked(**options: Any) -> list[str]:
        model = States(sets(0, 1, [(3, 3)] * 5, 4))
        records = MIR(samples=3, **options).predict(model, data)
        drawn["facts"] = records
        return model.texts

    images, texts = MIR(samples=5, words=0)._pairs(data)
    assert sorted(texts) == sorted(f"word {n}" for n in range(5))
    order = [data.uids.index(f"u{text.split()[1]}") for text in texts]
    assert (len(images), len(set(order))) == (5, 5)
    assert all(len(text.split()) == 8 for text in asked(words=7))
    (tmp_path / "stories").mkdir()
    for name, text in (("b", "second story"), ("a", "first story\n\n@highlight\n\nshort"), ("c", " \n")):
        (tmp_path / "stories" / f"{name}.story").write_text(text)
    assert asked(texts=str(tmp_path / "stories"), words=0) == ["first story", "second story", "first story"]
    (tmp_path / "lines.txt").write_text("one\n\ntwo words\n")
    assert asked(texts=str(tmp_path / "lines.txt"), words=3) == ["one two words", "one two words", "one two words"]
    for place, said in (("nowhere", "does not exist"), ("empty", "contains no text")):
        if place == "empty":
            (tmp_path / place).mkdir()
        with pytest.raises(DataError, match=said):
            asked(texts=str(tmp_path / place))


def test_what_cannot_be_scored_says_so() -> None:
    model = States(sets(0, 1, [(1, 1)], 4))
    with pytest.raises(DataError, match="has 1 pictures"):
        evaluate(MIR(), model, pictures(1))
    with pytest.raises(DataError, match="no text in language 'de'"):
        evaluate(MIR(samples=2, language="de"), model, pictures(2, language="en"))
    with pytest.raises(ConfigError, match="samples is 1"):
        MIR(samples=1)
    with pytest.raises(ConfigError, match="needs a model that is a LayerReader"):
        evaluate(MIR(), object(), pictures(2))
    assert isinstance(model, LayerReader)
    same = np.ones((1, 4, 4), np.float32)
    scored = evaluate(MIR(samples=2, words=0), States([LayerStates(same, same)] * 2), pictures(2))
    assert math.isnan(scored.value)  # the logarithm of no distance
