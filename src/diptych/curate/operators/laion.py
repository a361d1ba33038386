"""LAION-5B's filters for web pairs (Schuhmann et al., 2022, 2210.08402): duplicates, language, image-text similarity, unsafe and
watermarked images. Run `diptych data links` and `diptych data download` first.

A row is dropped by the first rule that it breaks, and its reason begins with the name of the rule:

short_text   no text of at least `min_text` characters
same_url     the address of a kept row (fragment and case of the host aside), with another text or the same
small_file   fewer than `min_bytes` bytes
unreadable   the image cannot be read
same_bytes   the very file of a kept row
language     none of `languages`
similarity   image and text agree less than the threshold of the text's language
unsafe, watermark   by heads that you trained (`filter_heads`)
near         as near as `near` to a kept row, greedily: what leaves is that near to something that stays

Rules about images skip rows without one, so a table of links can be filtered before it is downloaded. With several texts the most
similar one counts. Columns: "language", "language_confidence", "similarity", "punsafe", "pwatermark", "duplicate_of".
Cost: reading and hashing every image; with `model` an embedding of each image and text, which is most of it.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.cluster_tree import ClusterTree
from diptych.curate.duplicates.clusters import greedy_duplicates
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.images import DIGEST, first_equal, image_facts, repeated
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import Faults
from diptych.curate.engine.run import mapped
from diptych.curate.engine.verdicts import BLOCK, ColumnByUid, StringColumn, column_by_uid, selected
from diptych.curate.operators.filter_heads import open_head
from diptych.curate.text.language import LanguageIdentifier
from diptych.curate.text.texts import texts_of
from diptych.data.ragged import one_chunk
from diptych.data.subset import uid_column
from diptych.index.embed import embed_texts


@dataclass(frozen=True)
class LAION:
    """min_text          minimum number of characters of a text
    min_bytes         minimum number of bytes of an image file; 0 is off
    same_url          drop rows with a repeated image address
    same_bytes        drop rows with a repeated image file
    language_floor    minimum confidence of a detected language; below it the language is undetermined, ""
    languages         languages to keep, "" for undetermined; empty: all (the tag is written in any case)
    model             address of a model that embeds images and texts; "" skips the similarity
    similarity        minimum cosine of image and English text (published 0.28 with CLIP ViT-B/32; choose it from your own histogram)
    similarity_other  the same for other languages and undetermined (published 0.26 with a multilingual model)
    unsafe            folder of a trained safety head; "" is off. Needs `model`
    unsafe_above      published 0.5
    watermark         folder of a trained watermark head; "" is off
    watermark_above   published 0.8
    near              minimum cosine of images that are duplicates; 0 is off (0.94 in the published explorer). Needs `model`
    max_cluster_size  0 compares an image with all kept ones for `near`, which is quadratic; else with those of its two nearest clusters of
                      at most so many images, by hierarchical k-means
    """

    slug: ClassVar[str] = "laion"
    paths: ClassVar[tuple[str, ...]] = ("unsafe", "watermark")

    min_text: int = 5
    min_bytes: int = 5_000
    same_url: bool = True
    same_bytes: bool = True
    language_floor: float = 0.5
    languages: tuple[str, ...] = ()
    model: str = ""
    similarity: float = 0.28
    similarity_other: float = 0.26
    unsafe: str = ""
    unsafe_above: float = 0.5
    watermark: str = ""
    watermark_above: float = 0.8
    near: float = 0.0
    max_cluster_size: int = 0

    def __post_init__(self) -> None:
        if not self.model and (self.unsafe or self.near):
            raise ConfigError("unsafe and near need embeddings (expected --model as well)")
        if self.min_text < 0 or self.min_bytes < 0 or not 0 <= self.language_floor <= 1 or not 0 <= self.near <= 1:
            raise ConfigError("min_text and min_bytes are 0 or more, language_floor and near 0..1")
        if self.max_cluster_size < 0:
            raise ConfigError(f"max_cluster_size is {self.max_cluster_size} (expected 0 or more)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        if not self.model:
            return estimate_cost(data, _digest, unit="read and hash")
        model = open_embedder(self.model)
        return estimate_cost(data, lambda image: model.embed_images([image]), unit="read, hash, embedding (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from languages and embeddings that an earlier run finished."""
        start = time.perf_counter()
        texts = self._texts(data, parts)
        state = _FilterState(one_chunk(texts.uids))
        self._cheap(data, texts, parts, state)
        if self.model or self.watermark:
            rows = pc.sort_indices(uid_column(data)).to_numpy()
            left = selected(data, rows[state.faults.stays()])
            embeddings = self._by_embedding(left, texts, parts, state) if self.model else None
            if self.watermark:
                self._by_watermark(left, state)
            if self.near and embeddings is not None:  # last, so that every dropped row is near to a row that is finally kept
                self._by_nearness(embeddings, state)
        state.columns |= {name: ColumnByUid(table) for name, table in texts.tags().items()}
        columns = {name: values for name, values in (state.duplicates() | state.columns).items() if len(values)}
        kept, drops = state.faults.verdicts(self.slug, state.uids)
        return CurationStepResult(kept, drops, columns, time.perf_counter() - start)

    def _texts(self, data: Dataset, parts: PartStore) -> _TaggedTexts:
        """Texts of the pool with their languages."""
        table = texts_of(data)
        tagger = LanguageIdentifier(self.language_floor)

        def work(part: pa.Table) -> pa.Table:
            return mapped(part.select(["row", "string"]), ["string"], tagger, "tag").select(["tag"])

        tags = one_chunk(parts.mapped(table, "language", work)["tag"])
        uids = uid_column(data)
        uids = uids.take(pc.sort_indices(uids))
        owner_T = pc.index_in(table["uid"].cast(pa.string()), value_set=uids).to_numpy()
        start_N1 = np.searchsorted(owner_T, np.arange(len(uids) + 1))
        return _TaggedTexts(uids, start_N1, one_chunk(table["string"]), tags, self.min_text)

    def _cheap(self, data: Dataset, texts: _TaggedTexts, parts: PartStore, state: _FilterState) -> None:
        """Faults by the rules that need no model, with rows in order of uid."""
        first_N = texts.first_long()
        rows = pc.sort_indices(uid_column(data)).to_numpy()
        judged = np.flatnonzero(first_N >= 0)
        pool = selected(data, rows[judged])
        urls = pa.chunked_array(
            [_addresses(pool, range(start, min(start + BLOCK, len(pool)))) for start in range(0, len(pool), BLOCK)],
            pa.large_string(),
        )
        facts = image_facts(pool, parts, _digest, pa.schema([("digest", DIGEST), ("size", pa.int64())]), "hashes")
        languages = texts.tag.field("language").take(pa.array(first_N[judged]))
        url_M = first_equal(urls) if self.same_url else np.full(len(pool), -1)
        file_M = first_equal(facts["digest"]) if self.same_bytes else np.full(len(pool), -1)
        fault, size = facts["fault"], facts["size"].fill_null(self.min_bytes).to_numpy()
        foreign_M = np.zeros(len(pool), bool)
        if self.languages:
            foreign_M = ~pc.is_in(languages, value_set=pa.array(self.languages, pa.string())).to_numpy(zero_copy_only=False)
        unclear_M = fault.is_valid().to_numpy() | (size < self.min_bytes) | foreign_M | repeated(url_M) | repeated(file_M)
        url_of, file_of = (np.full(len(pool), -1) for _ in range(2))
        state.faults.set(np.flatnonzero(first_N < 0), f"short_text: none of at least {self.min_text} characters")
        for at in np.flatnonzero(unclear_M).tolist():  # all others are kept, and have no duplicates
            row, url, file = int(judged[at]), int(url_M[at]), int(file_M[at])
            if url >= 0 and url_of[url] >= 0:
                state.twice(row, int(url_of[url]), "same_url")
            elif fault[at].is_valid:
                state.faults.set(row, f"unreadable: {fault[at].as_py()}")
            elif size[at] < self.min_bytes:
                state.faults.set(row, f"small_file: {size[at]:,} bytes (expected at least {self.min_bytes:,})")
            elif file >= 0 and file_of[file] >= 0:
                state.twice(row, int(file_of[file]), "same_bytes")
            elif foreign_M[at]:
                expected = ", ".join(name or "undetermined" for name in self.languages)
                state.faults.set(row, f"language: {languages[at].as_py() or 'undetermined'} (expected {expected})")
            else:
                if url >= 0:
                    url_of[url] = row
                if file >= 0:
                    file_of[file] = row

    def _by_embedding(self, left: Dataset, texts: _TaggedTexts, parts: PartStore, state: _FilterState) -> ImageEmbeddings:
        model = open_embedder(self.model)
        embeddings = embed_pool(left, model, parts)
        row_I = state.rows(embeddings.uids)
        bad = embeddings.unreadable.table
        reasons = (f"unreadable: {reason}" for reason in StringColumn(bad["reason"]))
        state.faults.set_each(state.rows(StringColumn(bad["uid"])), reasons)
        agree_I = np.full(len(row_I), -np.inf)
        english_I = np.zeros(len(row_I), bool)
        starts = range(0, len(row_I), BLOCK)
        for start in with_bar(starts, len(starts), "embedding texts"):
            block = enumerate(row_I[start : start + BLOCK].tolist(), start)
            pairs = [(at, text, language) for at, row in block for text, language in texts.of(row)]
            text_MD = embed_texts(model, [text for _, text, _ in pairs], [embeddings.uids[at] for at, _, _ in pairs])
            for (at, _, language), vector in zip(pairs, text_MD, strict=True):
                if (agree := float(embeddings.vector_ND[at] @ vector)) > agree_I[at]:
                    agree_I[at], english_I[at] = agree, language == "en"
        state.columns["similarity"] = column_by_uid("similarity", embeddings.uids, agree_I)
        least_I = np.where(english_I, self.similarity, self.similarity_other)
        apart = np.flatnonzero(agree_I < least_I)
        state.faults.set_each(
            row_I[apart], (f"similarity: {agree_I[at]:.3f} (expected at least {least_I[at]:g})" for at in apart)
        )
        if self.unsafe:
            chance_I = open_head(Path(self.unsafe)).probability(embeddings.vector_ND, model.fingerprint).astype(np.float64)
            state.columns["punsafe"] = column_by_uid("punsafe", embeddings.uids, chance_I)
            above = np.flatnonzero((chance_I > self.unsafe_above) & state.faults.stays()[row_I])
            state.faults.set_each(
                row_I[above], (f"unsafe: {chance_I[at]:.2f} (expected at most {self.unsafe_above:g})" for at in above)
            )
        return embeddings

    def _by_nearness(self, embeddings: ImageEmbeddings, state: _FilterState) -> None:
        row_I = state.rows(embeddings.uids)
        there = np.flatnonzero(state.faults.stays()[row_I])
        near_NP = None
        if self.max_cluster_size:
            near_NP = ClusterTree.fitted(embeddings.vector_ND, self.max_cluster_size).nearest(embeddings.vector_ND, 2)
        near = greedy_duplicates(embeddings.vector_ND, there, self.near, near_NP=near_NP)
        gone_P, kept_P = row_I[near.gone()], row_I[near.kept()]
        state.original_N[gone_P] = kept_P
        alike = zip(StringColumn(state.uids.take(pa.array(kept_P))), near.alike(), strict=True)
        state.faults.set_each(gone_P, (f"near {uid}: cosine {cosine:.3f}" for uid, cosine in alike))

    def _by_watermark(self, left: Dataset, state: _FilterState) -> None:
        head = open_head(Path(self.watermark))
        judged, chances = array("q"), array("d")
        rows = state.rows(left.uids).tolist()
        for at, row in enumerate(with_bar(rows, len(rows), "looking for watermarks", least=100)):
            image = None if state.faults.code_N[row] else left[at].image
            if image is None:
                continue
            try:
                p = float(head.probability([image])[0])
            except (DecodeError, OSError) as error:
                state.faults.set(row, f"unreadable: {error}")
                continue
            judged.append(row)
            chances.append(p)
            if p > self.watermark_above:
                state.faults.set(row, f"watermark: {p:.2f} (expected at most {self.watermark_above:g})")
        uids = StringColumn(state.uids.take(pa.array(judged, pa.int64())))
        state.columns["pwatermark"] = column_by_uid("pwatermark", uids, np.array(chances))


@dataclass(frozen=True)
class _TaggedTexts:
    """Texts of rows in order of uid: those of row i are start_N1[i] to start_N1[i + 1].

    tag       language and confidence of each text
    min_text  minimum number of characters of a text
    """

    uids: pa.Array
    start_N1: npt.NDArray[np.int64]
    string: pa.Array
    tag: pa.Array
    min_text: int

    def of(self, row: int) -> list[tuple[str, str]]:
        """Texts of a row that are long enough, with their languages."""
        begin, end = self.start_N1[row : row + 2].tolist()
        both = zip(self.string[begin:end].to_pylist(), self.tag.field("language")[begin:end].to_pylist(), strict=True)
        return [(text, language) for text, language in both if len(text) >= self.min_text]

    def first_long(self) -> npt.NDArray[np.int64]:
        """The first text of each row that is long enough, [N]; -1 for a row without."""
        long = np.flatnonzero(pc.utf8_length(self.string).to_numpy() >= self.min_text)
        next_N1 = np.searchsorted(long, self.start_N1)
        first_N = np.full(len(self.uids), -1, np.int64)
        some = next_N1[1:] > next_N1[:-1]
        first_N[some] = long[next_N1[:-1][some]]
        return first_N

    def tags(self) -> dict[str, pa.Table]:
        """Columns "language" and "language_confidence": those of the first text of each row that has one."""
        some = np.flatnonzero(np.diff(self.start_N1))
        tags = self.tag.take(pa.array(self.start_N1[some]))
        confidence = tags.field("confidence").cast(pa.float64())
        columns = {"language": tags.field("language"), "language_confidence": confidence}
        return {name: pa.table({"uid": self.uids.take(pa.array(some)), name: values}) for name, values in columns.items()}


@dataclass
class _FilterState:
    """State of the filters: uids in order, faults and the row of the original (-1: none) in that order, and columns by name."""

    uids: pa.Array
    columns: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.faults = Faults(len(self.uids))
        self.original_N = np.full(len(self.uids), -1)

    def duplicates(self) -> dict[str, Mapping[str, Any]]:
        """Column "duplicate_of" by its name."""
        rows = np.flatnonzero(self.original_N >= 0)
        names = self.uids.take(pa.array(self.original_N[rows]))
        return {"duplicate_of": ColumnByUid(pa.table({"uid": self.uids.take(pa.array(rows)), "duplicate_of": names}))}

    def twice(self, row: int, first: int, rule: str) -> None:
        """Marks a row as a duplicate of an earlier one."""
        self.original_N[row] = first
        self.faults.set(row, f"{rule}: as {self.uids[first].as_py()}")

    def rows(self, uids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of some uids, [N]."""
        rows = pc.index_in(pa.array(uids, pa.string()), value_set=self.uids)
        row_N: npt.NDArray[np.int64] = rows.to_numpy(zero_copy_only=False).astype(np.int64)
        return row_N


def _addresses(data: Dataset, rows: range) -> pa.Array:
    """Normalised address of each of some rows; null without one."""
    urls = [data[row].extras.get("url") for row in rows]
    return pa.array([_address(url) or None if isinstance(url, str) else None for url in urls], pa.large_string())


def _digest(image: ImageSource) -> tuple[bytes, int]:
    """Hash and size of an image file, or of the pixels if there is no file."""
    if isinstance(image, ArrayImage):
        pixels = np.ascontiguousarray(image.pixels_HWC)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest(), pixels.nbytes
    data = image.read()
    return hashlib.sha256(data).digest(), len(data)


def _address(url: str) -> str:
    """Normalised address for equality: no fragment, the host in lower case."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower(), fragment="").geturl()
