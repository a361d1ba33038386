"""LAION's judgement: each rule planted and named, agreement with a naive loop, order-free, resumed, and over links without images."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("daft", reason="the extra curate is not installed")
pytest.importorskip("py3langid", reason="the extra curate is not installed")

from diptych.cli import main
from diptych.core.errors import ConfigError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.semantic import SemanticDuplicates
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.curate.operators import laion as module
from diptych.curate.operators.filter_heads import train_safety
from diptych.curate.operators.laion import LAION
from diptych.curate.text.language import LanguageIdentifier
from diptych.curate.text.texts import texts_of
from diptych.data.dataset import Pool
from diptych.data.shards.build import build

ENGLISH = "a photograph of a small dog that is running over the green grass"
GERMAN = "ein kleiner Hund läuft über die grüne Wiese neben dem alten Haus"


def encoded(number: int, side: int = 48) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class Colours:
    """Images and texts as unit vectors: the mean colour, or what a text says in brackets."""

    name, fingerprint = "colours", "0123"
    calls = 0

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        from diptych.data.media.decode import decode

        type(self).calls += len(images)
        return self._unit([decode(image).reshape(-1, 3).mean(0) for image in images])

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return self._unit([[float(v) for v in text.partition("[")[2].rstrip("]").split()] or [1, 1, 1] for text in texts])

    @staticmethod
    def _unit(rows) -> np.ndarray:
        made = np.asarray(rows, np.float64).reshape(len(rows), 3)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def flat(colour: tuple[int, int, int], number: int) -> bytes:
    pixels = np.clip(np.random.default_rng(number).normal(colour, 25, (60, 60, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Colours:
    model = Colours()
    Colours.calls = 0
    monkeypatch.setattr(module, "open_embedder", lambda address: model)
    monkeypatch.setattr("diptych.curate.duplicates.semantic.open_embedder", lambda address: model)
    return model


def row(uid: str, text: str = ENGLISH, *, data: bytes | None = None, number: int = -1, **extras: object) -> Sample:
    number = sum(map(ord, uid)) if number < 0 else number
    return Sample(uid, BytesImage(encoded(number) if data is None else data, uid), (Text(text, origin="alt"),), extras=extras)


def judged(rows: list[Sample], **options) -> dict[str, str]:
    done = LAION(**options)(Pool.from_samples(rows))
    faults = {drop.uid: drop.reason for drop in done.dropped}
    assert set(done.kept) | faults.keys() == {r.uid for r in rows}
    return faults


def test_every_cheap_rule_by_a_planted_case() -> None:
    rows = [
        row("a_fine", url="http://x.example/1.png"),
        row("b_short", "dog"),
        row("c_url", url="HTTP://X.example/1.png#top"),
        row("d_bytes", number=sum(map(ord, "a_fine"))),
        row("e_small", data=encoded(7, side=4)),
        row("f_other_case", url="http://x.example/1.PNG"),
        Sample("g_none", None, (Text(ENGLISH),), extras={"url": "http://x.example/9.png"}),
        Sample("h_textless", BytesImage(encoded(99), "h")),
    ]
    assert judged(rows) == {
        "b_short": "short_text: none of at least 5 characters",
        "c_url": "same_url: as a_fine",
        "d_bytes": "same_bytes: as a_fine",
        "e_small": f"small_file: {len(encoded(7, side=4)):,} bytes (expected at least 5,000)",
        "h_textless": "short_text: none of at least 5 characters",
    }


def test_a_row_that_leaves_takes_no_copy_with_it() -> None:
    same = encoded(3)
    rows = [
        row("a", "dog", data=same, url="http://x/1"),
        row("b", data=same, url="http://x/1"),
        row("c", data=same, url="http://x/2"),
    ]
    assert judged(rows) == {"a": "short_text: none of at least 5 characters", "c": "same_bytes: as b"}


def test_languages_are_tagged_and_chosen() -> None:
    rows = [row("de", GERMAN), row("en", ENGLISH), row("xx", "7 4 1 1 0 3")]
    done = LAION()(Pool.from_samples(rows))
    assert {uid: done.columns["language"][uid] for uid in ("de", "en")} == {"de": "de", "en": "en"}
    assert done.columns["language_confidence"]["en"] > 0.5
    assert judged(rows, languages=("de",))["en"] == "language: en (expected de)"
    assert "xx" not in judged(rows, languages=("en", ""), language_floor=0.99)


def test_the_next_step_reads_the_tags(tmp_path: Path) -> None:
    rows = {"a": [ENGLISH, "more words of a picture"], "b": [GERMAN], "c": ["12345 678"], "d": []}
    samples = [Sample(uid, BytesImage(encoded(n), uid), tuple(Text(t) for t in own)) for n, (uid, own) in enumerate(rows.items())]
    data = Pool.from_samples(samples)
    build(data, tmp_path / "pool")
    curate(open_pool(tmp_path / "pool"), [LAION(min_bytes=0, min_text=0)], tmp_path / "judged", source=str(tmp_path / "pool"))
    judged = open_pool(tmp_path / "judged")
    tags = {
        text: tag for _, text, tag in zip(*(texts_of(judged)[n].to_pylist() for n in ("uid", "string", "language")), strict=True)
    }
    assert tags[ENGLISH] == "en"
    assert tags[GERMAN] == "de"
    assert tags["more words of a picture"] == "", "the tag is that of the first text"
    assert ENGLISH not in texts_of(judged, language="de")["string"].to_pylist()
    assert set(texts_of(data)["language"].to_pylist()) == {""}


def test_the_worker_says_undetermined_below_the_floor() -> None:
    import pyarrow as pa

    texts = pa.array([ENGLISH, "", "zz"])
    assert [tag["language"] for tag in LanguageIdentifier(floor=1.0)(texts).to_pylist()][1:] == ["", ""]
    assert LanguageIdentifier(floor=0.0)(texts).to_pylist()[0]["language"] == "en"


def coloured_pool() -> list[Sample]:
    """Texts name a colour: of half of the rows the image's own."""
    rows = []
    for n in range(24):
        colour = [(200, 60, 60), (60, 200, 60), (60, 60, 200)][n % 3]
        said = colour if n % 2 == 0 else [(60, 200, 60), (60, 60, 200), (200, 60, 60)][n % 3]
        text = f"{ENGLISH} [{said[0]} {said[1]} {said[2]}]"
        rows.append(row(f"u{n:02}", text, data=flat(colour, n)))
    return rows


def test_agreement_is_the_cosine_and_the_threshold_is_that_of_the_language(colours: Colours, parity: Any) -> None:
    rows = coloured_pool()
    done = LAION(model="x", similarity=0.9, similarity_other=0.9)(Pool.from_samples(rows))
    pairs = []
    for sample in rows:
        naive = float(colours.embed_images([sample.image])[0] @ colours.embed_texts([sample.texts[0].string])[0])
        assert done.columns["similarity"][sample.uid] == pytest.approx(naive, abs=1e-6)
        pairs.append((done.columns["similarity"][sample.uid], naive))
    assert list(done.kept) == [f"u{n:02}" for n in range(0, 24, 2)]
    assert all(drop.reason.startswith("similarity: ") for drop in done.dropped)
    assert len(LAION(model="x", similarity=-1.0, similarity_other=1.0)(Pool.from_samples(rows)).kept) == 24, "all are English"
    parity("laion", "agreement of image and text", "the cosine of one pair after the other", pairs, tolerance=1e-6)


def test_near_ones_leave_last_and_greedily(colours: Colours) -> None:
    done = LAION(model="x", similarity=0.9, similarity_other=0.9, near=0.99)(Pool.from_samples(coloured_pool()))
    assert list(done.kept) == ["u00", "u02", "u04"]
    assert done.columns["duplicate_of"]["u06"] == "u00"
    clustered = LAION(model="x", similarity=0.9, similarity_other=0.9, near=0.99, max_cluster_size=12)
    assert clustered(Pool.from_samples(coloured_pool())).kept == done.kept


def test_an_unsafe_head_of_this_model(colours: Colours, tmp_path: Path) -> None:
    rows = coloured_pool()
    vectors = colours.embed_images([sample.image for sample in rows])
    train_safety(vectors, [n % 3 == 0 for n in range(24)], fingerprint="0123", hidden=(16, 8), steps=300, batch_size=16).save(
        tmp_path / "h"
    )
    done = LAION(model="x", similarity=-1, similarity_other=-1, unsafe=str(tmp_path / "h"))(Pool.from_samples(rows))
    assert {drop.uid for drop in done.dropped} == {f"u{n:02}" for n in range(0, 24, 3)}
    assert done.dropped[0].reason.startswith("unsafe: ")
    assert len(done.columns["punsafe"]) == 24


def test_a_broken_image_costs_itself(colours: Colours) -> None:
    broken = encoded(5)[: len(encoded(5)) // 2]
    faults = judged(
        [*coloured_pool()[:4], row("broken", data=broken)], model="x", similarity=-1, similarity_other=-1, min_bytes=0
    )
    assert list(faults) == ["broken"]
    assert faults["broken"].startswith("unreadable: ")
    assert "\n" not in faults["broken"]


def test_order_free_and_a_second_run_is_resumed(colours: Colours, tmp_path: Path) -> None:
    data = Pool.from_samples(coloured_pool())
    step = LAION(model="x", similarity=0.9, near=0.99)
    mixed = data.select(random.Random(0).sample(range(24), 24))
    one, other = step(data), step(mixed)
    assert (one.kept, one.dropped) == (other.kept, other.dropped)
    Colours.calls = 0
    first = curate(data, [step], tmp_path)
    asked = Colours.calls
    again = curate(data, [step], tmp_path)
    assert again.steps[0].resumed
    assert Colours.calls == asked
    assert again.removed == first.removed


def test_links_are_judged_before_they_are_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    pq.write_table(
        pa.table({"url": ["http://x/1", "http://x/1", "http://x/3"], "text": [ENGLISH, GERMAN, "x"]}),
        tmp_path / "in" / "a.parquet",
    )
    assert main(["curate", "laion", str(tmp_path / "in"), str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["before"], facts["after"]) == (3, 1)
    assert facts["reasons"] == {"same_url": 1, "short_text": 1}
    assert main(["curate", "laion", str(tmp_path / "out"), str(tmp_path / "out2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"] == 1, "a curated folder is what was left"


def test_semantic_duplicates_over_a_pool(colours: Colours) -> None:
    data = Pool.from_samples(coloured_pool())
    step = SemanticDuplicates(model="x", cosine=0.99, clusters=2)
    done = step(data)
    assert done.kept == ("u00", "u01", "u02")
    assert done.dropped[0].reason == "near u00: cosine 1.000"
    published = SemanticDuplicates(model="x", cosine=0.99, clusters=1, rule="reference")(data)
    assert len(published.kept) == 3
    assert SemanticDuplicates(model="x", cosine=0.99, max_cluster_size=9)(data).kept == done.kept
    bounded = SemanticDuplicates(model="x", cosine=0.99, max_cluster_size=9, rule="reference")(data)
    assert 3 < len(bounded.kept) < 24, "copies in several clusters are not compared"
    with pytest.raises(ConfigError, match="max_cluster_size is 5 and clusters 2"):
        SemanticDuplicates(max_cluster_size=5, clusters=2)
    assert step.plan(data)["items"] == 24
    with pytest.raises(ConfigError, match="needs a model"):
        SemanticDuplicates()(data)


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="need embeddings"):
        LAION(near=0.9)
    with pytest.raises(ConfigError, match="max_cluster_size is -1"):
        LAION(max_cluster_size=-1)
    with pytest.raises(ConfigError, match="language_floor"):
        LAION(language_floor=2)
