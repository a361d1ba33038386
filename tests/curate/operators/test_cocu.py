"""CoCu: scores of the released code, words and not letters, an image that is no neighbour of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.curate.engine.pool import curate
from diptych.curate.operators import cocu
from diptych.curate.operators.cocu import CoCu, clustered, curated_concepts, nearest_rows
from diptych.curate.text.gallery import Gallery
from diptych.data.columns import read_table
from diptych.data.dataset import Pool

RELEASED = json.loads((Path(__file__).parents[2] / "parity/released/cocu_released.json").read_text())


def test_scores_are_those_of_the_released_code(parity: Any) -> None:
    image_ND, concept_KD = np.array(RELEASED["images"]), np.array(RELEASED["concepts"])
    found = [tuple(filter(None, text.split(", "))) for text in RELEASED["semantics"]]
    row_of = {name: row for row, name in enumerate(RELEASED["names"])}
    pairs = []
    for key, theirs in RELEASED["scores"].items():
        size, anchor = map(int, key.split("/"))
        near = np.argsort(-(image_ND @ image_ND[anchor]), kind="stable")[:size]
        ours = curated_concepts(
            image_ND[anchor], image_ND[near], [found[n] for n in near], concept_KD, row_of, membership="substring"
        )
        assert [name for name, _ in ours] == list(theirs)
        pairs += [(score, theirs[name]) for name, score in ours]
    parity("cocu", "scores of concepts", "xing0047/CoCu 2a15510, rewrite/curation.py", pairs, tolerance=1e-12)


def test_the_formula_by_hand_and_words_against_letters() -> None:
    anchor, near = np.array([0.6, 0.8]), np.array([[1.0, 0.0], [0.0, 1.0]])
    concept = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = [("cat",), ("cattle",)]
    row_of = {"cat": 0, "cattle": 1}
    words = dict(curated_concepts(anchor, near, found, concept, row_of))
    assert words["cat"] == pytest.approx(0.6 / 1.0 + 0.6 / np.mean([1.0, 0.6]))
    assert words["cattle"] == pytest.approx(0.8 / 1.0 + 0.8 / np.mean([1.0, 0.8]))
    letters = dict(curated_concepts(anchor, near, found, concept, row_of, membership="substring"))
    assert letters["cat"] == pytest.approx(0.6 / 1.0 + 0.6 / np.mean([1.0, 0.0, 0.6])), "'cat' is found in 'cattle'"
    assert letters["cattle"] == words["cattle"]
    assert curated_concepts(anchor, near, [(), ()], concept, row_of) == []


def test_scores_where_nothing_points_anywhere() -> None:
    """Vectors at right angles, and such as cancel out: no division by zero."""
    axis = np.eye(3)
    concept_KD, row_of = axis[:2], {"cat": 0, "dog": 1}
    assert curated_concepts(axis[2], axis[2:], [["cat", "dog"]], concept_KD, row_of) == [("cat", 0.0), ("dog", 0.0)]
    ((name, score),) = curated_concepts(axis[0], -axis[:1], [["cat"]], concept_KD, row_of)
    assert (name, score) == ("cat", 1.0)
    assert curated_concepts(axis[0], axis[:1], [[]], concept_KD, row_of) == []


def test_captions_are_cut_as_the_release_cuts_them_where_it_is_asked() -> None:
    gallery, caption = Gallery.of(["dog", "cat"]), "A dog's bowl. It is a cat/bird"
    assert (gallery.concepts_in(caption), gallery.concepts_in(caption, "treebank")) == (("cat",), ("dog",))
    assert CoCu.paper().words == "treebank"
    with pytest.raises(ConfigError, match="words is 'x'"):
        CoCu(words="x")  # type: ignore[arg-type]


def test_concepts_of_a_caption_are_words_in_either_number() -> None:
    gallery = Gallery.of(["Cat", "fire truck", "bus", "a very long name of many words", "cat"])
    assert gallery.names == ("cat", "fire truck", "bus", "cats", "fire trucks", "buses")
    assert gallery.concepts_in("Two cats, a cattle fire-truck; FIRE TRUCKS and a bus. A cat") == (
        "cats",
        "fire trucks",
        "bus",
        "cat",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"), [("a.json", "{", "readable"), ("a.json", '{"x": [1]}', "else"), ("a.txt", "\n", "a concept")]
)
def test_galleries_that_are_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Gallery.load(tmp_path / name)


class Nouns:
    """Embeds a picture as the three nouns that its first pixels count, and a text as the nouns that it names."""

    fingerprint = "nouns"
    names = ("cat", "dog", "bus")

    def embed_images(self, images: Any, **_: Any) -> Any:
        return self._unit(np.stack([image.pixels_HWC[0, 0] for image in images]))

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return self._unit(np.array([[float(name in text) for name in self.names] for text in texts]))

    def _unit(self, x: Any) -> Any:
        x = x.astype(np.float64) + 0.05
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def pool(shown: list[tuple[int, int, int]], captions: list[str]) -> Pool:
    samples = []
    for n, (counts, caption) in enumerate(zip(shown, captions, strict=True)):
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[0, 0] = counts
        samples.append(Sample(f"s{n}", ArrayImage(pixels), (Text(caption, "en", "alt"),)))
    return Pool.from_samples(samples, name="nouns")


@pytest.fixture
def nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cocu, "open_embedder", lambda address: Nouns())


def test_it_finds_what_a_caption_leaves_out(tmp_path: Path, nouns: None) -> None:
    data = pool([(1, 1, 0), (1, 1, 0), (0, 0, 1), (0, 1, 1)], ["a cat", "a dog", "buses", "a bus and a dog"])
    (tmp_path / "gallery.txt").write_text("cat\ndog\nbus\n")
    step = CoCu(model="nouns", gallery=str(tmp_path / "gallery.txt"), neighbours=2)
    done = curate(data, [step], tmp_path / "out")
    found = {row["uid"]: row["concepts"] for row in read_table(tmp_path / "out", "concepts").table.to_pylist()}
    assert found["s0"][0] == "dog", "its neighbour's, not its own caption's"
    assert "cat" not in found["s0"], "an image lends itself nothing"
    assert found["s1"][0] == "cat"
    assert "3 concepts" not in done.lines()[0]
    scores = {row["uid"]: row["concept_scores"] for row in read_table(tmp_path / "out", "concept_scores").table.to_pylist()}
    assert all(list(some) == sorted(some, reverse=True) for some in scores.values())
    turned = step(data.select([3, 1, 0, 2]))
    assert turned.columns["concepts"].equals(step(data).columns["concepts"])
    itself = CoCu(model="nouns", gallery=str(tmp_path / "gallery.txt"), neighbours=2, itself=True)(data)
    assert "cat" in itself.columns["concepts"].to_pylist()[0]["concepts"]
    assert done.kept[0].extras == {} or "concepts" not in done.kept[0].extras


def test_a_gallery_that_does_not_match_says_so(tmp_path: Path, nouns: None) -> None:
    data = pool([(1, 0, 0), (0, 1, 0)], ["a cat", "a dog"])
    (tmp_path / "gallery.json").write_text('{"concept": ["zebra"]}')
    with pytest.raises(DataError, match=r"no caption near an image of 'nouns' has a concept of the gallery \(2 names\)"):
        CoCu(model="nouns", gallery=str(tmp_path / "gallery.json"))(data)
    with pytest.raises(DataError, match=r"of the gallery \(1 names\)"):
        CoCu(model="nouns", gallery=str(tmp_path / "gallery.json"), plurals=False)(data)
    with pytest.raises(DataError, match=r"has no labels.*--gallery FILE"):
        CoCu(model="nouns")(data)


def test_labels_are_the_gallery_where_there_is_none(nouns: None) -> None:
    data = pool([(1, 1, 0), (1, 1, 0)], ["a cat", "a dog"])
    regions = (Region((0, 0, 2, 2), "cat"), Region((0, 0, 2, 2), "dog"))
    from dataclasses import replace

    labelled = Pool.from_samples((replace(sample, regions=regions) for sample in data), name="labelled")
    found = CoCu(model="nouns")(labelled).columns["concepts"].to_pylist()
    assert [row["concepts"] for row in found] == [["dog"], ["cat"]]


def test_broken_images_leave_and_clusters_are_half_as_many(nouns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    assert len(set(clustered(vectors))) == 4
    assert clustered(vectors[:2]) == [0, 1]
    broken = Sample("b", BytesImage(b"none", "b.png"), (Text("a cat", "en", "alt"),))

    class Reads(Nouns):
        def embed_images(self, images: Any, **_: Any) -> Any:
            from diptych.data.media.decode import decode

            for image in images:
                decode(image)
            return super().embed_images(images)

    monkeypatch.setattr(cocu, "open_embedder", lambda address: Reads())
    data = pool([(1, 1, 0), (1, 1, 0)], ["a cat", "a dog"])
    with_broken = Pool.from_samples([*data, broken], name="x")
    with pytest.raises(DataError):
        CoCu(model="nouns")(with_broken)
    monkeypatch.setattr(CoCu, "_gallery", lambda self, data: Gallery.of(["cat", "dog"]))
    found = CoCu(model="nouns")(with_broken)
    assert [drop.uid for drop in found.dropped] == ["b"]
    assert found.kept == ("s0", "s1")


def test_neighbours_over_blocks_of_the_pool_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cocu, "POOL_BLOCK", 7)
    pool_MD = np.random.default_rng(0).integers(-2, 3, (40, 3)).astype(np.float32)  # many equal cosines
    itself_B = np.array([3, -1, 39, 12, 7])
    found = nearest_rows(pool_MD[:5], pool_MD, 6, itself_B)
    for own_D, near, itself in zip(pool_MD[:5], found, itself_B.tolist(), strict=True):
        score_M = pool_MD @ own_D
        order = sorted((row for row in range(40) if row != itself), key=lambda row: (-score_M[row], row))
        assert near.tolist() == order[:6]
    assert [len(near) for near in nearest_rows(pool_MD[:1], pool_MD[:4], 6, np.array([0]))] == [3]


def test_neighbours_in_clusters_are_those_of_all_where_all_are_searched(tmp_path: Path, nouns: None) -> None:
    rng = np.random.default_rng(0)
    shown = [tuple(row) for row in rng.integers(0, 200, (60, 3)).tolist()]
    data = pool(shown, [("a cat", "a dog", "buses", "a bus and a dog")[n % 4] for n in range(60)])
    (tmp_path / "gallery.txt").write_text("cat\ndog\nbus\n")
    options = {"model": "nouns", "gallery": str(tmp_path / "gallery.txt"), "neighbours": 3}
    exact = CoCu(**options)(data).columns["concept_scores"]
    assert CoCu(**options, max_cluster_size=5, probes=60)(data).columns["concept_scores"].equals(exact)
    few = CoCu(**options, max_cluster_size=5, probes=1)(data).columns["concept_scores"]
    assert not few.equals(exact)
    assert few.num_rows == 60


def test_refused() -> None:
    with pytest.raises(ConfigError, match="max_cluster_size is 5, probes 0"):
        CoCu(max_cluster_size=5, probes=0)
    with pytest.raises(ConfigError, match="neighbours 0"):
        CoCu(neighbours=0)
    with pytest.raises(ConfigError, match="needs a model"):
        CoCu()(pool([(1, 0, 0)], ["a cat"]))
