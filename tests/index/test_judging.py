"""Judged queries: measures against scikit-learn and by hand, settings that are chosen on one half and reported on the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index import judging
from diptych.index.judging import apply_settings, judge, ndcg, read_judgements, recall, tune
from diptych.index.kinds.hybrid import HybridIndex


class Misleading:
    """Text and picture embeddings that have nothing to do with each other."""

    name, fingerprint = "misleading", "ab" * 8

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        return self._rows([int(image.pixels_HWC[0, 0, 0]) for image in images])

    def embed_texts(self, texts: Any, *, batch_size: int = 64) -> np.ndarray:
        return self._rows([sum(map(ord, text)) for text in texts])

    @staticmethod
    def _rows(seeds: list[int]) -> np.ndarray:
        rows = np.stack([np.random.default_rng(seed).normal(size=16) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


NAMES = [f"{colour} {thing}" for colour in ("red", "green", "blue", "pale") for thing in ("pizza", "cup", "house", "tree", "bus")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    samples = [
        Sample(f"i{n:02}", ArrayImage(np.full((4, 4, 3), n, np.uint8)), (Text(f"an icon of {name}"), Text(f"word{n}")))
        for n, name in enumerate(NAMES)
    ]
    folder = tmp_path_factory.mktemp("judged") / "index"
    return HybridIndex.build(Misleading(), Pool.from_samples(samples), folder, progress=False, exact_first=False)


JUDGED = {name: {f"i{n:02}": 1.0} for n, name in enumerate(NAMES)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=14), st.integers(1, 10), st.integers(0, 99))
def test_ndcg_is_that_of_scikit_learn(grades: list[int], k: int, seed: int) -> None:
    from sklearn.metrics import ndcg_score

    if not any(grades):
        return
    order = np.random.default_rng(seed).permutation(len(grades))
    scores = np.empty(len(grades))
    scores[order] = -np.arange(len(grades))
    gains = 2.0 ** np.array(grades) - 1
    uids = [f"u{n}" for n in order]
    mine = ndcg(uids, {f"u{n}": float(grade) for n, grade in enumerate(grades)}, k)
    assert mine == pytest.approx(ndcg_score(gains[None], scores[None], k=k))
    relevant = {f"u{n}" for n, grade in enumerate(grades) if grade}
    share = recall(uids, {f"u{n}": float(grade) for n, grade in enumerate(grades)}, k)
    assert share == len(relevant & set(uids[:k])) / min(k, len(relevant))


def test_the_halves_of_a_hybrid_index(index: HybridIndex) -> None:
    both, dense, lexical = judge(index, JUDGED, k=3)
    assert (both.name, dense.name, lexical.name) == ("hybrid", "hybrid, dense", "hybrid, lexical")
    assert lexical.ndcg == 1.0
    assert lexical.failed == ()
    assert dense.ndcg < both.ndcg < 1.0
    assert dense.ndcg_interval[0] < dense.ndcg < dense.ndcg_interval[1]
    assert set(dense.failed) <= set(JUDGED)
    assert dense.failed


def test_items_with_every_word_come_first(index: HybridIndex) -> None:
    before = index.collection.facts.options
    index.collection.facts.options = {**before, "exact_first": True}
    try:
        for n, name in enumerate(NAMES):
            hits = index.search_text(name, 20)
            assert hits[0].uid == f"i{n:02}"
            assert hits[0].score > 1 > hits[1].score
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert index.search_text("word3", 5)[0].uid == "i03", "of any of its texts"
        unknown = index.search_text("red unheard", 5)
        assert max(hit.score for hit in unknown) < 1, "a word that is in no text: nothing has all of them"
        assert {hit.uid for hit in index.search_text("icon", 20) if hit.score > 1} == {f"i{n:02}" for n in range(20)}
    finally:
        index.collection.facts.options = before


def test_settings_are_chosen_on_one_half(index: HybridIndex) -> None:
    made = tune(index, JUDGED, k=5)
    assert made.options["exact_first"] or made.options["lexical"] == 1.0
    assert (made.chosen_on, made.before.queries, made.after.queries) == (10, 10, 10)
    assert made.after.ndcg == 1.0 > made.before.ndcg
    assert made.better == pytest.approx(made.after.ndcg - made.before.ndcg)
    assert made.better_interval[0] > 0
    assert index.collection.facts.options["exact_first"] is False, "the index keeps its settings"
    with pytest.raises(ConfigError, match="expected 10 or more"):
        tune(index, dict(list(JUDGED.items())[:4]))


def test_words_that_mislead_get_no_weight(index: HybridIndex) -> None:
    """Relevant is what the embeddings find first."""
    judged = {name: {index.search_text(name, 1, half="dense")[0].uid: 1.0} for name in NAMES}
    made = tune(index, judged, k=5)
    assert (made.options["lexical"], made.options["exact_first"]) == (0.0, False)
    assert made.after.ndcg == 1.0 > made.before.ndcg


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [Sample(f"i{n:02}", None, (Text(name),)) for n, name in enumerate(NAMES)]
    dp.index("words", Pool.from_samples(samples), tmp_path / "index", kind="lexical", progress=False).close()
    (tmp_path / "q.csv").write_text("query,uid,grade\nred pizza,i00,2\nred pizza,i01,1\ngreen sea,i99,1\n")
    assert main(["index", "judge", str(tmp_path / "index"), str(tmp_path / "q.csv"), "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["searches"]
    assert made["failed"] == ["green sea"]
    assert main(["index", "tune", str(tmp_path / "index"), str(tmp_path / "q.csv")]) != 0
    assert "expected kind hybrid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("query,uid\n", "no judgement"), ("query,uid,grade\na,,1\n", "no uid"), ("query,uid,grade\na,b,x\n", "grade"),
     ("query,uid,grade\na,b,0\n", "no relevant item"), ("a,b\n1,2\n", "no query")],
)  # fmt: skip
def test_a_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_judgements(tmp_path / "q.csv")


@pytest.fixture(scope="module")
def with_fields(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    """Texts name the colour alone; the column `thing` the thing, and `noise` words that mislead."""
    samples = [
        Sample(
            f"i{n:02}",
            ArrayImage(np.full((4, 4, 3), n, np.uint8)),
            (Text(f"an icon of {name.split()[0]}"),),
            extras={"thing": [name.split()[1]], "noise": NAMES[-1 - n]},
        )
        for n, name in enumerate(NAMES)
    ]
    folder = tmp_path_factory.mktemp("fields") / "index"
    return HybridIndex.build(Misleading(), Pool.from_samples(samples), folder, progress=False, fields=("thing", "noise"))


def test_words_of_fields_are_searched(with_fields: HybridIndex) -> None:
    with judging._settings(with_fields, {"search_fields": ["thing"]}):
        for n, name in enumerate(NAMES):
            hits = with_fields.search_text(name, 20)
            assert hits[0].uid == f"i{n:02}"
            assert hits[0].score > 1 > hits[1].score, "one word in the text, the other in the field"
        assert {hit.uid for hit in with_fields.search_words("cups", 20)} == {"i01", "i06", "i11", "i16"}
    with judging._settings(with_fields, {"search_fields": []}):
        assert with_fields.search_words("cup", 20) == []


def test_fields_are_chosen_on_judged_queries(with_fields: HybridIndex) -> None:
    assert tune(with_fields, JUDGED, k=5).options["search_fields"] == ["thing"]


def test_the_first_items_are_ranked_again(index: HybridIndex) -> None:
    dense = {hit.uid: hit.score for hit in index.search_text("red pizza", 20, half="dense")}
    before = index.search_text("red pizza", 20)
    with judging._settings(index, {"rerank": 8}):
        after = index.search_text("red pizza", 20)
    first = [hit.uid for hit in before[:8]]
    assert [hit.uid for hit in after[:8]] == sorted(first, key=lambda uid: -dense[uid]) != first
    assert [hit.uid for hit in after[8:]] == [hit.uid for hit in before[8:]]
    assert [hit.score for hit in after] == pytest.approx([hit.score for hit in before], abs=1e-7)


def test_fields_that_cannot_be(tmp_path: Path) -> None:
    pool = Pool.from_samples([Sample("a", ArrayImage(np.zeros((4, 4, 3), np.uint8)), (Text("a cup"),), extras={"size": 3})])
    for options, message in (
        ({"fields": ("size",)}, "no sample has words in the column size"),
        ({"fields": ("size",), "what": "texts"}, "expected none"),
        ({"rerank": -1}, "rerank is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            HybridIndex.build(Misleading(), pool, tmp_path / "index", progress=False, **options)


def test_chosen_settings_are_written(index: HybridIndex) -> None:
    before = index.collection.facts.options
    apply_settings(index, {"lexical": 0.75, "exact_first": True})
    folder = index.folder
    index.close()
    with HybridIndex.open(folder, Misleading()) as opened:
        assert opened.info.options["lexical"] == 0.75
        assert opened.search_text("blue cup", 1)[0].score > 1
        opened.collection.facts.options = before
