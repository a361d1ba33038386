"""Filters by images: clusters of a target set, heads trained on a column of labels, and personal data in texts."""

from __future__ import annotations

import base64
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.cli import main
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.curate.filters import image_heads, target_clusters
from diptych.curate.filters.image_heads import ImageScores, TrainHead
from diptych.curate.filters.personal_data import PersonalData, personal_data_in
from diptych.curate.filters.target_clusters import TargetClusters
from diptych.curate.operators.filter_heads import open_head, train_aesthetic, train_watermark
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.shards.build import build


class Colours:
    """Unit vectors of the mean colour."""

    name, fingerprint = "colours", "0123"

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        rows = np.array([decode(image).reshape(-1, 3).mean(0) for image in images], np.float64).reshape(-1, 3)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts: Any, *, batch_size: int = 64) -> np.ndarray:
        return np.ones((len(texts), 3), np.float32) / np.sqrt(np.float32(3))


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image_heads, target_clusters):
        monkeypatch.setattr(module, "open_embedder", lambda address: Colours())


def pool(count: int, seed: int = 0, only: int | None = None) -> Pool:
    """Pictures whose main colour is red, green or blue in turn; `only` takes one of the three."""
    rng = np.random.default_rng(seed)
    samples = []
    for row in range(count):
        colour = rng.integers(0, 90, 3)
        main_colour = row % 3 if only is None else only
        colour[main_colour] = rng.integers(180, 256)
        pixels = np.broadcast_to(colour, (8, 8, 3)).astype(np.uint8)
        samples.append(Sample(f"{'rgb'[main_colour]}{row:03d}", ArrayImage(pixels), (Text("a colour"),)))
    return Pool.from_samples(samples, name="colours")


def test_rows_of_clusters_that_a_target_image_names_stay(tmp_path: Path) -> None:
    data = pool(90)
    build(pool(5, seed=9, only=0), tmp_path / "target")
    odd = [Sample("bad", BytesImage(b"nothing", "bad.png")), Sample("none", None, (Text("no picture"),))]
    samples = [data[row] for row in range(len(data))] + odd
    result = curate(Pool.from_samples(samples), [TargetClusters("colours", str(tmp_path / "target"), clusters=3)])
    assert set(result.kept.uids) == {uid for uid in data.uids if uid[0] == "r"}
    kinds = {drop.uid: drop.reason.split(":")[0] for drop in result.removed}
    assert kinds["bad"] == "unreadable"
    assert kinds["none"] == "no image"
    assert kinds["g001"] == "cluster"
    assert len({result.columns["target_cluster"][uid] for uid in result.kept.uids}) == 1
    backwards = Pool.from_samples(samples[::-1])
    again = TargetClusters("colours", str(tmp_path / "target"), clusters=3)(backwards)
    assert again.kept == tuple(sorted(result.kept.uids))
    with pytest.raises(ConfigError, match="needs a model"):
        TargetClusters()(data)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jane.doe+x@mail.example.co.uk today", ["email"]),
        ("call +49 (0) 30 1234567 or 555-867-5309", ["phone"]),
        ("call (212) 555-0187", ["phone"]),
        ("card 4111-1111-1111-1111", ["credit_card"]),
        ("card 4111 1111 1111 1112", []),  # another check digit
        ("IBAN DE89 3704 0044 0532 0130 00 please", ["iban"]),
        ("IBAN DE88 3704 0044 0532 0130 00 please", []),
        ("server 8.8.8.8 is up", ["ip"]),
        ("router 192.168.0.1", []),
        ("version 1.2.3.4.5 of 2021-2022, ISBN 978-3-16-148410-0", []),
        ("IMG_20210304_123456.jpg, 1920x1080, $1,200.50", []),
        ("a user @home at example.com", []),
        ("0000 0000 0000 0000", []),
    ],
)
def test_personal_data_by_its_form(text: str, kinds: list[str]) -> None:
    assert personal_data_in(text) == kinds


def test_rows_with_personal_data_leave_or_are_marked() -> None:
    samples = [Sample("a", None, (Text("a dog"), Text("mail a@b.org"))), Sample("b", None, (Text("a cat"),))]
    data = Pool.from_samples(samples)
    done = PersonalData()(data)
    assert done.kept == ("b",)
    assert done.dropped[0].reason == "email in its text"
    marked = PersonalData(mark_only=True)(data)
    assert marked.kept == ("a", "b")
    assert marked.columns == {"personal_data": {"a": ["email"]}}
    assert PersonalData(kinds=("phone",))(data).kept == ("a", "b")
    with pytest.raises(UnknownName, match="mail"):
        PersonalData(kinds=("mail",))


def labelled(count: int, name: str, values: list[Any]) -> Pool:
    made = pool(count)
    return made.with_table(pa.table({"uid": made.uids, name: values}))


def main_colours(html: str) -> set[int]:
    """Channels that are the highest in the pictures of a page."""
    files = [base64.b64decode(data) for data in re.findall(r"data:image/webp;base64,([\w+/=]+)", html)]
    return {int(decode(BytesImage(file, "thumbnail")).reshape(-1, 3).mean(0).argmax()) for file in files}


@pytest.mark.slow
def test_a_head_is_trained_by_one_command_and_read_by_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(labelled(120, "bad", [None if row % 10 == 9 else row % 3 == 0 for row in range(120)]), tmp_path / "labelled")
    words = ["--kind", "safety", "--label", "bad", "--model", "colours", "--steps", "60"]
    assert main(["curate", "train_head", str(tmp_path / "labelled"), str(tmp_path / "head"), *words]) == 0
    said = capsys.readouterr().out
    assert "of 22 held out: area under the ROC curve 1.000" in said
    page = (tmp_path / "head" / "train_head.html").read_text(encoding="utf-8")
    above, below = page.split('id="just-above"')[1].split('id="just-below"')
    assert main_colours(above) == {0}, "what is labelled, the red ones, lies above the proposed threshold"
    assert main_colours(below) == {1, 2}
    build(pool(30, seed=5), tmp_path / "pairs")
    words = ["--head", str(tmp_path / "head"), "--model", "colours", "--column", "punsafe"]
    assert main(["curate", "image_scores", str(tmp_path / "pairs"), str(tmp_path / "scored"), *words]) == 0
    scored = open_pool(tmp_path / "scored")
    chances = dict(zip(scored.uids, scored.column("punsafe"), strict=True))
    assert all((chance > 0.5) == (uid[0] == "r") for uid, chance in chances.items())
    with pytest.raises(RunError, match="trained on embeddings of 0123"):
        open_head(tmp_path / "head").probability(np.ones((1, 3), np.float32), "other")


def test_an_aesthetic_head_is_ridge_regression(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    data = pool(60)
    vectors = Colours().embed_images([data[row].image for row in range(60)])
    rating = vectors @ [3.0, -1.0, 0.5] + 5
    head = train_aesthetic(vectors, rating, fingerprint="0123", ridge=0.01)
    theirs = Ridge(alpha=0.01 * 60).fit(vectors.astype(np.float64), rating).predict(vectors)
    assert np.allclose(head.rating(vectors, "0123"), theirs, atol=1e-4)
    rated = data.with_table(pa.table({"uid": data.uids, "stars": rating.tolist()}))
    done = curate(rated, [TrainHead("stars", "aesthetic", "colours")], tmp_path / "head")
    assert "correlation 0.99" in done.steps[0].notes[1] or "correlation 1.000" in done.steps[0].notes[1]
    scores = ImageScores(str(tmp_path / "head"), "colours")(data).columns["score"]
    assert np.corrcoef([scores[uid] for uid in data.uids], rating)[0, 1] > 0.99


def test_a_watermark_head_reads_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(train_watermark, net="resnet10t", side=32, batch_size=8)
    monkeypatch.setattr(image_heads, "train_watermark", small)
    data = labelled(12, "marked", [row % 2 for row in range(12)])
    curate(data, [TrainHead("marked", "watermark", steps=2)], tmp_path / "head")
    scores = ImageScores(str(tmp_path / "head"))(data).columns["score"]
    assert set(scores) == set(data.uids)


def test_labels_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnknownName, match="worse"):
        TrainHead("worse", "safety", "colours")(labelled(3, "bad", [True, False, True]))
    with pytest.raises(ConfigError, match=r"is 'yes' \(expected true or false"):
        TrainHead("bad", "safety", "colours")(labelled(3, "bad", ["yes", "no", "no"]))
    with pytest.raises(ConfigError, match="kind is 'ugly'"):
        TrainHead("bad", "ugly")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a model"):
        TrainHead("bad")(labelled(3, "bad", [True, False, True]))


def test_area_and_threshold_by_their_definitions() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 80) / 5
    truth = rng.random(80) < 0.2 + 0.6 * scores
    wins = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    f1_by_cut = {cut: 2 * (truth & (scores >= cut)).sum() / (truth.sum() + (scores >= cut).sum()) for cut in set(scores.tolist())}
    cut = max(f1_by_cut, key=lambda each: f1_by_cut[each])
    said = image_heads._quality("safety", scores, truth.astype(float))
    assert f"curve {np.mean(wins):.3f}; the highest F1, {f1_by_cut[cut]:.3f}, is that of scores from {cut:.3g}" in said
    assert image_heads._quality("safety", scores, np.ones(80)) == "all labels are the same"
