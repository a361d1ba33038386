"""Embedding a data set: what is left out, what is refused, how often the model is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import DataError, ShapeError
from diptych.core.image import BytesImage
from diptych.data.dataset import Pool
from diptych.index.embed import check_rows, count_truncated, embed_texts, embedded_images, image_blocks


@settings(max_examples=15, deadline=None)
@given(broken=st.sets(st.integers(0, 29)), block=st.sampled_from([1, 7, 30, 64]))
def test_broken_images_are_named_and_cost_nothing_else(kit: Any, broken: set[int], block: int) -> None:
    samples = [replace(s, image=BytesImage(b"", f"broken {s.uid}")) if i in broken else s for i, s in enumerate(kit.pool(0, 30))]
    blocks = list(image_blocks(kit.model(), Pool.from_samples(samples), block=block))
    good = [sample.uid for part in blocks for sample in part.samples]
    assert good == [f"u{i}" for i in range(30) if i not in broken]
    assert [u.uid for part in blocks for u in part.unreadable] == [f"u{i}" for i in sorted(broken)]
    for part in blocks:
        for sample, row in zip(part.samples, part.vectors_ND, strict=True):
            np.testing.assert_array_equal(row, kit.vector(sample.uid, 16))


def test_a_whole_block_of_broken_images_leaves_the_rest_in_place(kit: Any) -> None:
    """Vectors of a block without a good image have no width: they are not joined to the others."""
    samples = [replace(s, image=BytesImage(b"", f"broken {s.uid}")) if i < 512 else s for i, s in enumerate(kit.pool(0, 515))]
    found = embedded_images(kit.model(), Pool.from_samples(samples))
    assert [sample.uid for sample in found.samples] == ["u512", "u513", "u514"]
    np.testing.assert_array_equal(found.vectors_ND, np.stack([kit.vector(f"u{n}", 16) for n in (512, 513, 514)]))
    assert [one.uid for one in found.unreadable] == [f"u{n}" for n in range(512)]
    with pytest.raises(DataError, match=r"field 'image': 'samples' has no image that can be read \(expected pictures of cats\)"):
        embedded_images(kit.model(), Pool.from_samples(samples[:3]), wanted="pictures of cats")


@pytest.mark.parametrize("bare", [range(4), range(4, 8), range(2, 9)])
def test_a_block_without_pictures_does_not_end_the_data(kit: Any, bare: range) -> None:
    """Samples without an image fill a block of four, at the start or in the middle: what comes behind it is embedded all the same."""
    samples = [replace(s, image=None) if i in bare else s for i, s in enumerate(kit.pool(0, 14))]
    blocks = list(image_blocks(kit.model(), Pool.from_samples(samples), block=4))
    embedded = [sample.uid for part in blocks for sample in part.samples]
    assert embedded == [f"u{i}" for i in range(14) if i not in bare]
    vectors_ND = np.concatenate([part.vectors_ND for part in blocks])
    np.testing.assert_array_equal(vectors_ND, np.stack([kit.vector(uid, 16) for uid in embedded]))


def test_equal_texts_are_embedded_once(kit: Any) -> None:
    asked: list[str] = []

    class Counting(kit.model):  # type: ignore[misc]
        def embed_texts(self, texts: Any, *, batch_size: int = 256) -> Any:
            asked.extend(texts)
            return super().embed_texts(texts)

    rows = embed_texts(Counting(), ["a", "b", "a"], ["1", "2", "3"])
    assert asked == ["a", "b"]
    np.testing.assert_array_equal(rows, np.stack([kit.vector(text, 16) for text in "aba"]))


def test_refused() -> None:
    good = np.eye(3, dtype=np.float32)
    assert check_rows(good, ["a", "b", "c"], "image") is good
    with pytest.raises(ShapeError, match=r"answered \[3, 3\] for 2 images"):
        check_rows(good, ["a", "b"], "image")
    with pytest.raises(DataError, match="image of b and 1 more is not finite"):
        check_rows(np.diag([1, np.nan, np.inf]).astype(np.float32), ["a", "b", "c"], "image")
    with pytest.raises(DataError, match="text of c has length 2"):
        check_rows(np.diag([1, 1, 2]).astype(np.float32), ["a", "b", "c"], "text")


def test_truncation_is_unknown_for_a_model_that_does_not_tell(kit: Any) -> None:
    assert count_truncated(kit.model(), ["a"]) is None
