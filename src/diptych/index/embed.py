"""Embed a data set block by block: failed samples are skipped and reported, a NaN stops the run.

Letters: N items, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, PointEmbedder, Unit
from diptych.core.errors import ConfigError, DataError, DecodeError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.sample import Sample


class HasUid(Protocol):
    """Item with a uid, by which an error names it when it cannot be read."""

    @property
    def uid(self) -> str: ...


S = TypeVar("S", bound=HasUid)
T = TypeVar("T")

CLOUDS = 16  # point clouds in memory at a time: one may have millions of points
TEXT_BLOCK = 16_384  # texts of which there are Python objects at a time
NORM_TOLERANCE = 0.02  # rows that were normalised in bfloat16 are off by up to half a per cent


@dataclass(frozen=True, slots=True)
class UnreadableSample:
    """A sample that was left out, with the reason."""

    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageEmbeddingBlock:
    """Image embeddings of some samples in the order of the data, and the samples that could not be read."""

    samples: tuple[Sample, ...]
    vectors_ND: Unit
    unreadable: tuple[UnreadableSample, ...] = ()


def image_blocks(model: Embedder, data: Dataset, *, block: int = 512, batch_size: int = 64) -> Iterator[ImageEmbeddingBlock]:
    """Embeddings of all samples with an image, block by block; samples without one are skipped.

    An image that cannot be decoded is left out and reported in the block; the block is embedded again in halves around it, so
    a bad file costs a little time and nothing else.
    """
    for start in range(0, len(data), block):
        samples = [sample for row in range(start, min(start + block, len(data))) if (sample := data[row]).image is not None]
        if not samples:
            continue

        def encode(part: Sequence[Sample]) -> list[Unit]:
            return list(model.embed_images(images_of(part), batch_size=batch_size))

        good, rows, unreadable = readable(encode, samples)
        rows_ND = np.stack(rows) if rows else np.zeros((0, 1), np.float32)
        yield ImageEmbeddingBlock(tuple(good), check_rows(rows_ND, [s.uid for s in good], "image"), unreadable)


def embedded_images(
    model: Embedder, data: Dataset, *, batch_size: int = 64, wanted: str = "samples with images"
) -> ImageEmbeddingBlock:
    """Embeddings of all samples with an image, as one block. Raises DataError when no image is left; `wanted` names the expected data in
    the message.
    """
    blocks = list(image_blocks(model, data, batch_size=batch_size))
    samples = tuple(sample for block in blocks for sample in block.samples)
    unreadable = tuple(one for block in blocks for one in block.unreadable)
    if not samples:
        raise DataError(f"'{data.name}' has no image{' that can be read' * bool(unreadable)}", field="image", expected=wanted)
    return ImageEmbeddingBlock(samples, np.concatenate([block.vectors_ND for block in blocks if block.samples]), unreadable)


def embed_texts(model: Embedder, strings: Sequence[str], names: Sequence[str], *, batch_size: int = 256) -> Unit:
    """Text embeddings; equal strings are embedded once, so that they tie exactly. `names` is for messages."""
    distinct = list(dict.fromkeys(strings))
    position = {string: row for row, string in enumerate(distinct)}
    first_name = dict(zip(reversed(strings), reversed(names), strict=True))
    vectors_ND = model.embed_texts(distinct, batch_size=batch_size)
    check_rows(vectors_ND, [f"{first_name[s]} ({s!r})" for s in distinct], "text")
    return np.asarray(vectors_ND, np.float32)[[position[s] for s in strings]]


def text_blocks(
    model: Embedder, strings: pa.Array, name: Callable[[int], str], *, batch_size: int = 256
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Unit]]:
    """Embeddings of the strings of a column, TEXT_BLOCK different ones at a time, in order of their first appearance.

    Each block: rows [R] of the column, in order of their strings, the number [R] of each row's vector, and the vectors [B, D], each of
    a different string. The batches are those of `embed_texts`. `name` gives that of a row, for messages.
    """
    coded = strings.dictionary_encode()
    code_N = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    order_N = np.argsort(code_N, kind="stable")
    start_D = np.searchsorted(code_N[order_N], np.arange(len(coded.dictionary) + 1))
    block = -(-TEXT_BLOCK // batch_size) * batch_size
    for start in range(0, len(coded.dictionary), block):
        distinct = coded.dictionary.slice(start, block).to_pylist()
        vector_BD = model.embed_texts(distinct, batch_size=batch_size)
        firsts = order_N[start_D[start : start + len(distinct)]].tolist()
        check_rows(vector_BD, [f"{name(row)} ({text!r})" for row, text in zip(firsts, distinct, strict=True)], "text")
        rows = order_N[start_D[start] : start_D[start + len(distinct)]]
        yield rows, code_N[rows] - start, np.asarray(vector_BD, np.float32)


def embed_text_column(model: Embedder, strings: pa.Array, name: Callable[[int], str]) -> Unit:
    """Embeddings of a column of strings, float32 [N, D]: what `embed_texts` gives for a list."""
    out: Unit | None = None
    for row_R, number_R, vector_BD in text_blocks(model, strings, name):
        out = np.zeros((len(strings), vector_BD.shape[1]), np.float32) if out is None else out
        out[row_R] = vector_BD[number_R]
    return out if out is not None else np.zeros((0, 1), np.float32)


def embed_clouds(model: Any, clouds: Sequence[MediaItem]) -> Unit:
    """Embeddings of point clouds, unit-norm [N, D]. Raises DecodeError for a cloud that cannot be read, ConfigError for a model of other
    media.
    """
    if not isinstance(model, PointEmbedder):
        raise ConfigError(
            f"'{getattr(model, 'name', model)}' does not embed point clouds (expected one that does, such as a run of ulip)"
        )
    parts = [clouds[start : start + CLOUDS] for start in range(0, len(clouds), CLOUDS)]
    return np.concatenate([model.embed_points([cloud.decode() for cloud in part]) for part in parts])


def check_rows(vectors_ND: Unit, names: Sequence[str], what: str) -> Unit:
    """The same rows, if there is one finite unit row per name; otherwise an error that names the first bad one."""
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
    """Number of texts longer than the model's context; None for a model without a tokenizer that counts them."""
    tokenizer, length = getattr(model, "tokenizer", None), getattr(model, "text_length", None)
    if tokenizer is None or not hasattr(tokenizer, "encode") or not isinstance(length, int):
        return None
    truncated = getattr(tokenizer.encode(list(strings), length), "truncated", None)
    return None if truncated is None else int(truncated)


def readable(
    answer: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]
) -> tuple[list[S], list[T], tuple[UnreadableSample, ...]]:
    """Answers for the items whose images can be decoded, and the undecodable ones: halves the batch until the bad ones are alone."""
    try:
        return list(items), list(answer(items)), ()
    except DecodeError as error:
        if len(items) == 1:
            return [], [], (UnreadableSample(items[0].uid, str(error)),)
    middle = len(items) // 2
    left, right = readable(answer, items[:middle]), readable(answer, items[middle:])
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def images_of(samples: Sequence[Sample]) -> list[ImageSource]:
    """The images of those samples that have one."""
    return [sample.image for sample in samples if sample.image is not None]


def cloud_of(sample: Sample) -> MediaItem | None:
    """Point cloud of a sample: its medium "cloud", else its first medium of that kind; None without one."""
    clouds = {name: item for name, item in sample.media.items() if item.medium == "cloud"}
    return clouds.get("cloud") or next(iter(clouds.values()), None)


def clouds_of(samples: Sequence[Sample]) -> list[MediaItem]:
    """The point clouds of those samples that have one."""
    return [cloud for sample in samples if (cloud := cloud_of(sample)) is not None]
