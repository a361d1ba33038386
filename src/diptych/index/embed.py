"""Embed a data set block by block: failures cost their own sample and are named, a NaN stops everything.

Letters: N items, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.core.errors import DataError, DecodeError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample

NORM_TOLERANCE = 0.02  # rows that were normalised in bfloat16 are off by up to half a per cent


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that was left out, and why."""

    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """Some samples in the order of the data, their image embeddings, and those that could not be read."""

    samples: tuple[Sample, ...]
    vectors_ND: Unit
    unreadable: tuple[Unreadable, ...] = ()


def image_blocks(model: Embedder, data: Dataset, *, block: int = 512, batch_size: int = 64) -> Iterator[Block]:
    """Every sample that has an image, embedded. Samples without one are passed over.

    An image that cannot be decoded is left out and reported in the block; the block is embedded again in halves around it, so
    a bad file costs a little time and nothing else.
    """
    for start in range(0, len(data), block):
        samples = [sample for row in range(start, min(start + block, len(data))) if (sample := data[row]).image is not None]
        if not samples:
            continue
        good, rows_ND, unreadable = _readable(model, samples, batch_size)
        yield Block(tuple(good), checked(rows_ND, [s.uid for s in good], "image"), unreadable)


def embed_texts(model: Embedder, strings: Sequence[str], names: Sequence[str], *, batch_size: int = 256) -> Unit:
    """The texts' embeddings; equal strings are embedded once, so that they tie exactly. `names` is for messages."""
    distinct = list(dict.fromkeys(strings))
    position = {string: row for row, string in enumerate(distinct)}
    first_name = dict(zip(reversed(strings), reversed(names), strict=True))
    vectors_ND = model.embed_texts(distinct, batch_size=batch_size)
    checked(vectors_ND, [f"{first_name[s]} ({s!r})" for s in distinct], "text")
    return np.asarray(vectors_ND, np.float32)[[position[s] for s in strings]]


def checked(vectors_ND: Unit, names: Sequence[str], what: str) -> Unit:
    """The same rows, if there is one finite unit row a name; otherwise an error that names the first bad one."""
    vectors_ND = np.asarray(vectors_ND, np.float32)
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(names):
        raise ShapeError(f"the model answered {list(vectors_ND.shape)} for {len(names)} {what}s (expected [{len(names)}, D])")
    bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DataError(f"the embedding of the {what} of {names[bad[0]]}{more} is not finite", expected="finite numbers")
    norm_N = np.linalg.norm(vectors_ND, axis=1)
    if len(long := np.flatnonzero(np.abs(norm_N - 1) > NORM_TOLERANCE)):
        length = f"{norm_N[long[0]]:.3g}"
        raise DataError(f"the embedding of the {what} of {names[long[0]]} has length {length}", expected="rows of length 1")
    return vectors_ND


def count_truncated(model: Embedder, strings: Sequence[str]) -> int | None:
    """How many texts are longer than the model's context; None when the model does not tell."""
    tokenizer, length = getattr(model, "tokenizer", None), getattr(model, "text_length", None)
    if tokenizer is None or not hasattr(tokenizer, "encode") or not isinstance(length, int):
        return None
    truncated = getattr(tokenizer.encode(list(strings), length), "truncated", None)
    return None if truncated is None else int(truncated)


def _readable(model: Embedder, samples: Sequence[Sample], batch_size: int) -> tuple[list[Sample], Unit, tuple[Unreadable, ...]]:
    """The samples whose images can be decoded, their rows, and the others: halves until the bad ones stand alone."""
    try:
        return list(samples), model.embed_images(_images(samples), batch_size=batch_size), ()
    except DecodeError as error:
        if len(samples) == 1:
            return [], np.zeros((0, 1), np.float32), (Unreadable(samples[0].uid, str(error)),)
    middle = len(samples) // 2
    left, right = (_readable(model, half, batch_size) for half in (samples[:middle], samples[middle:]))
    rows = [rows_ND for _, rows_ND, _ in (left, right) if len(rows_ND)]
    rows_ND = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
    return left[0] + right[0], rows_ND, left[2] + right[2]


def _images(samples: Sequence[Sample]) -> list[ImageSource]:
    return [sample.image for sample in samples if sample.image is not None]
