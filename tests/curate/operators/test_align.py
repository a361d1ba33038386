"""ALIGN's rules: one planted case each, with counts before and after; the order of rows changes nothing; twice is once."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.registry import OPERATORS
from diptych.core.sample import Sample, Text
from diptych.curate.operators.align import AlignFilters
from diptych.curate.operators.alt_text import TextCounts, tokens_of, words_of
from diptych.data.columns import read_table
from diptych.data.dataset import Pool

GOOD = "a small dog on the grass"


def picture(number: int, width: int = 300, height: int = 300) -> ArrayImage:
    small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return ArrayImage(np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)), str(number))


def sample(uid: str, *texts: str, number: int | None = None, width: int = 300, height: int = 300, **extras: Any) -> Sample:
    image = picture(zlib.crc32(uid.encode()) if number is None else number, width, height)
    return Sample(uid, image, tuple(Text(text, "en", "alt") for text in texts or (GOOD + " " + uid,)), extras=extras)


def judged(samples: list[Sample], **options: Any) -> tuple[list[str], dict[str, str]]:
    found = AlignFilters(**options)(Pool.from_samples(samples))
    return sorted(found.kept), {drop.uid: drop.reason for drop in found.dropped}


def test_short_side_and_aspect_ratio() -> None:
    sizes = {"a": (200, 500), "b": (201, 500), "c": (300, 900), "d": (300, 899), "e": (899, 300)}
    kept, reasons = judged([sample(uid, width=w, height=h) for uid, (w, h) in sizes.items()])
    assert kept == ["b", "d", "e"]
    assert reasons["a"] == "short_side: 200 pixels (expected more than 200)"
    assert reasons["c"] == "aspect_ratio: 3.00 (expected less than 3)"
    assert judged([sample(uid, width=w, height=h) for uid, (w, h) in sizes.items()], short_side=0, aspect_ratio=0)[1] == {}


def test_an_image_with_too_many_texts_goes_in_all_its_rows() -> None:
    rows = [sample(f"m{n}", f"{GOOD} number {n}", number=5) for n in range(4)] + [sample("other")]
    kept, reasons = judged(rows, texts_of_image=3)
    assert kept == ["other"]
    assert Counter(reasons.values()) == {"texts_of_image: 4 texts (expected at most 3)": 4}
    assert len(judged(rows, texts_of_image=4)[0]) == 5
    again = [sample(f"m{n}", GOOD, number=5) for n in range(4)]
    assert len(judged(again, texts_of_image=3)[0]) == 4, "one text in four rows is one text"


def test_a_text_beside_too_many_images_goes() -> None:
    rows = [sample(f"s{n:02}", "Click  here to enlarge") for n in range(10)] + [sample("s10", "click here to enlarge")]
    kept, reasons = judged([*rows, sample("fine")])
    assert kept == ["fine"]
    assert reasons["s10"] == "shared_text: 'click here to enlarge' stands beside 11 images (expected at most 10)"
    assert len(judged(rows[:10])[0]) == 10
    one_image = [sample(f"s{n:02}", "click here to enlarge", number=1) for n in range(12)]
    assert len(judged(one_image)[0]) == 12, "copies of one image are one image"


@pytest.mark.parametrize(("count", "stays"), [(2, False), (3, True), (20, True), (21, False)])
def test_length_in_words(count: int, stays: bool) -> None:
    kept, reasons = judged([sample("a", " ".join(f"w{n}" for n in range(count)))])
    assert kept == ["a"] * stays
    assert stays or reasons["a"] == f"length: {count} words (expected 3..20)"


def test_a_rare_token_or_pair_is_named() -> None:
    rows = [sample(f"r{n}", "the red bus") for n in range(5)]
    rows += [sample("word", "the red qzx7"), sample("pair", "red the bus")]
    kept, reasons = judged(rows, vocabulary=5)
    assert kept == [f"r{n}" for n in range(5)]
    assert reasons["word"] == "rare_token: 'qzx7' is not among the 5 most frequent words and pairs"
    assert reasons["pair"].startswith("rare_token: 'red the'")
    assert len(judged(rows, vocabulary=100)[0]) == 7


def test_words_and_tokens() -> None:
    assert words_of("IMG_0421.jpg, Größe: 3×4") == ["img_0421", "jpg", "grösse", "3", "4"]
    assert list(tokens_of("one")) == ["one"]
    counts = TextCounts.of(pa.table({"image": [0, 1], "string": ["b a", "a b"]}), vocabulary=3)
    assert counts.common == {"a", "b", "a b"}, "equally frequent: the alphabetically first stay"


def test_near_duplicates_of_held_out_images_go(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for n in range(3):
            path = tmp_path / split / f"{n}.png"
            path.parent.mkdir(exist_ok=True)
            number = n + 10 if split == "test" else n
            Image.fromarray(picture(number).pixels_HWC).resize((240, 240)).save(path)
            path.with_suffix(".txt").write_text(GOOD)
    pool = [sample("seen", number=11), sample("train", number=1), sample("new", number=77)]
    kept, reasons = judged(pool, evaluation=str(tmp_path / "test"))
    assert kept == ["new", "train"]
    assert reasons["seen"].startswith("evaluation: near ")


def test_a_probability_from_elsewhere() -> None:
    rows = [sample("bad", punsafe=0.9), sample("good", punsafe=0.1)]
    kept, reasons = judged(rows, unsafe="punsafe")
    assert (kept, reasons) == (["good"], {"bad": "unsafe: 0.90 (expected at most 0.5)"})
    with pytest.raises(DataError, match="'none' has no number there"):
        judged([sample("none")], unsafe="punsafe")


def test_broken_images_and_rows_without_texts_are_named() -> None:
    rows = [
        Sample("broken", BytesImage(b"not an image"), (Text(GOOD),)),
        Sample("mute", picture(1)),
        Sample("plain", None, (Text(GOOD),)),
    ]
    kept, reasons = judged(rows)
    assert kept == ["plain"]
    assert reasons["broken"].startswith("unreadable: ")
    assert reasons["mute"] == "no_text: none to be judged"


def test_a_row_stays_with_the_texts_that_pass() -> None:
    found = AlignFilters()(Pool.from_samples([sample("two", "too short", GOOD), sample("one", GOOD + " too")]))
    assert sorted(found.kept) == ["one", "two"]
    assert found.columns == {"kept_texts": {"two": [GOOD]}}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a b c", "d e f", "a b", "x y z w", "q"]), st.integers(0, 4)), max_size=12), st.randoms()
)
def test_idempotent_and_free_of_order(drawn: list[tuple[str, int]], chance: Any) -> None:
    samples = [sample(f"u{n:02}", text, number=number, width=210, height=210) for n, (text, number) in enumerate(drawn)]
    operator = AlignFilters(shared_by=2, texts_of_image=2, vocabulary=9)
    first = operator(Pool.from_samples(samples))
    shuffled = list(samples)
    chance.shuffle(shuffled)
    assert replace(operator(Pool.from_samples(shuffled)), seconds=0.0) == replace(first, seconds=0.0)
    assert {*first.kept, *(drop.uid for drop in first.dropped)} == {s.uid for s in samples}
    again = operator(Pool.from_samples([s for s in samples if s.uid in first.kept]))
    assert again.kept == first.kept
    assert not again.dropped


def test_options_that_cannot_work() -> None:
    for options, words in (
        ({"min_words": 5, "max_words": 4}, "words are 5..4"),
        ({"aspect_ratio": 0.5}, "aspect_ratio is 0.5"),
        ({"shared_by": -1}, "shared_by is -1"),
    ):
        with pytest.raises(ConfigError, match=words):
            AlignFilters(**options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, width, text in (("good", 300, GOOD), ("tiny", 100, GOOD), ("mute", 300, "dog")):
        buffer = io.BytesIO()
        Image.fromarray(picture(len(name) + width, width).pixels_HWC).save(buffer, "PNG")
        (folder / f"{name}.png").write_bytes(buffer.getvalue())
        (folder / f"{name}.txt").write_text(text)
    assert OPERATORS.load("align") is AlignFilters
    assert main(["curate", "align", str(folder), str(tmp_path / "out"), "--plan"]) == 0
    assert "read and hash" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["curate", "align", str(folder), str(tmp_path / "out")]) == 0
    assert "align 3 -> 1" in capsys.readouterr().out
    removed = read_table(tmp_path / "out", "removed").table.to_pylist()
    assert sorted(row["reason"].split(":")[0] for row in removed) == ["length", "short_side"]
