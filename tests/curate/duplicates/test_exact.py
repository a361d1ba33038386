"""Planted copies are found and named; order and repetition change nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.engine.pool import curate
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.shards.build import build, open_built


def picture(number: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pool_of(images: dict) -> Pool:
    return Pool.from_samples([Sample(uid, image, (Text(f"text of {uid}"),)) for uid, image in images.items()], name="planted")


def test_same_bytes_are_dropped_and_the_first_uid_is_named() -> None:
    one, two = encoded(picture(1)), encoded(picture(2))
    result = ExactDuplicates()(pool_of({"c": BytesImage(one), "a": BytesImage(one), "b": BytesImage(two), "d": None}))
    assert sorted(result.kept) == ["a", "b", "d"]
    assert [(drop.uid, drop.step, drop.reason) for drop in result.dropped] == [("c", "exact_duplicates", "same bytes as a")]
    assert result.columns["duplicate_of"] == {"c": "a"}


def test_texts_of_a_dropped_row_go_to_the_one_that_stays(tmp_path: Path) -> None:
    one, other = encoded(picture(1)), encoded(picture(2))
    samples = [
        Sample("a", BytesImage(one), (Text("home", "en"), Text("wrong", origin="negative"))),
        Sample("b", BytesImage(other), (Text("tree", "en"),)),
        Sample("c", BytesImage(one), (Text("house", "en"), Text(" Home ", "en"), Text("Haus", "de")), licence="MIT"),
        Sample("d", BytesImage(one), (Text("house", "en"), Text("no", origin="negative"), Text("wrong", "en"))),
    ]
    build(Pool.from_samples(samples, name="icons"), tmp_path / "icons")
    result = curate(open_built(tmp_path / "icons"), [ExactDuplicates()], tmp_path / "kept", source=str(tmp_path / "icons"))
    assert "2 texts of dropped rows" in "\n".join(result.lines())
    texts = {sample.uid: [(text.string, text.language) for text in sample.texts] for sample in read(tmp_path / "kept")}
    assert texts == {"a": [("home", "en"), ("wrong", ""), ("house", "en"), ("Haus", "de")], "b": [("tree", "en")]}
    left = curate(open_built(tmp_path / "icons"), [ExactDuplicates(merge_texts=False)], tmp_path / "left")
    assert set(left.columns) == {"duplicate_of"}


def test_the_same_pixels_in_other_files_need_the_option() -> None:
    pixels = picture(3)
    data = pool_of(
        {
            "bmp": BytesImage(encoded(pixels, "BMP")),
            "png": BytesImage(encoded(pixels)),
            "webp": BytesImage(encoded(pixels, "WEBP", lossless=True)),
            "array": ArrayImage(pixels),
            "turned": ArrayImage(np.ascontiguousarray(pixels[::-1])),
        }
    )
    assert len(ExactDuplicates()(data).kept) == 5
    result = ExactDuplicates(pixels=True)(data)
    assert sorted(result.kept) == ["array", "turned"]
    assert {drop.reason for drop in result.dropped} == {"same pixels as array"}


def test_equal_bytes_of_another_shape_are_another_image() -> None:
    pixels = np.zeros((4, 9, 3), np.uint8)
    data = pool_of({"a": ArrayImage(pixels), "b": ArrayImage(pixels.reshape(9, 4, 3))})
    assert len(ExactDuplicates(pixels=True)(data).kept) == 2


def test_what_cannot_be_read_is_dropped_with_its_reason(tmp_path) -> None:
    data = pool_of({"gone": FileImage(tmp_path / "gone.png"), "broken": BytesImage(encoded(picture(1))[:60], "broken.png")})
    result = ExactDuplicates(pixels=True)(data)
    assert result.kept == ()
    assert {drop.uid for drop in result.dropped} == {"gone", "broken"}
    assert all(drop.reason.startswith("unreadable: ") for drop in result.dropped)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.randoms())
def test_order_free_idempotent_and_equal_to_counting_distinct_images(numbers: list[int], random) -> None:
    images = {f"u{place}": ArrayImage(picture(number)) for place, number in enumerate(numbers)}
    data = pool_of(images)
    result = ExactDuplicates()(data)
    assert len(result.kept) == len(set(numbers))
    assert sorted([*result.kept, *(drop.uid for drop in result.dropped)]) == sorted(images)
    order = list(range(len(data)))
    random.shuffle(order)
    again = ExactDuplicates()(data.select(order))
    assert (set(again.kept), set(again.dropped)) == (set(result.kept), set(result.dropped))
    rows = [row for row, uid in enumerate(data.uids) if uid in result.kept]
    assert ExactDuplicates()(data.select(rows)).dropped == ()


def test_plan_counts_without_judging() -> None:
    plan = ExactDuplicates().plan(pool_of({f"u{i}": ArrayImage(picture(i)) for i in range(40)}))
    assert plan["items"] == 40
    assert plan["seconds"] >= 0
