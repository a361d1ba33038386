"""LAION-5B's judgement of pairs from the web (Schuhmann et al., 2022, 2210.08402): what is there twice, in which language, how well image
and text agree, what is unsafe or watermarked. `diptych data links` and `diptych data download` come before it.

A row leaves for the first rule that it breaks, and its reason begins with the name of the rule:

short_text   no text of at least `min_text` characters
same_url     the address of a kept row (fragment and case of the host aside), with another text or the same
small_file   fewer than `min_bytes` bytes
unreadable   the image cannot be read
same_bytes   the very file of a kept row
language     none of `languages`
similarity   image and text agree less than the threshold of the text's language
unsafe, watermark   by heads that you trained (`filter_heads`)
near         as near as `near` to a kept row, greedily: what leaves is that near to something that stays

Rules about images pass over rows without one, so a table of links can be judged before it is downloaded. Of several texts the one
that agrees best counts. Columns: "language", "language_confidence", "similarity", "punsafe", "pwatermark", "duplicate_of".
Cost: reading and hashing every image; with `model` an embedding of each image and text, which is most of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import ArrayImage, ImageSource
from diptych.curate.duplicates.clusters import greedy_duplicates
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped
from diptych.curate.operators.filter_heads import open_head
from diptych.curate.text.language import LanguageIdentifier
from diptych.curate.text.texts import texts_of
from diptych.index.embed import embed_texts


@dataclass(frozen=True)
class LAION:
    """min_text          characters of a text
    min_bytes         of an image file; 0 is off
    same_url          whether an address that comes twice leaves
    same_bytes        whether a file that comes twice leaves
    language_floor    confidence below which a language is undetermined, ""
    languages         languages that stay, "" among them for undetermined; none named: all (the tag is written in any case)
    model             address of a model that embeds images and texts; "" asks none
    similarity        least cosine of image and English text (published 0.28 with CLIP ViT-B/32; look at your own histogram)
    similarity_other  likewise for other languages and undetermined (published 0.26 with a multilingual model)
    unsafe            folder of a trained safety head; "" is off. Needs `model`
    unsafe_above      published 0.5
    watermark         folder of a trained watermark head; "" is off
    watermark_above   published 0.8
    near              cosine of images from which one is a duplicate; 0 is off (the published explorer 0.94). Needs `model`
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

    def __post_init__(self) -> None:
        if not self.model and (self.unsafe or self.near):
            raise ConfigError("unsafe and near need embeddings (expected --model as well)")
        if self.min_text < 0 or self.min_bytes < 0 or not 0 <= self.language_floor <= 1 or not 0 <= self.near <= 1:
            raise ConfigError("min_text and min_bytes are 0 or more, language_floor and near 0..1")

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
        rows = {uid: row for row, uid in enumerate(data.uids)}
        seen = _FilterState({}, {"language": {}, "language_confidence": {}, "duplicate_of": {}})
        texts = self._texts(data, parts, seen)
        for uid in sorted(rows):
            if fault := self._cheap(data, rows[uid], texts.get(uid, []), seen):
                seen.faults[uid] = fault
        left = data.select([rows[uid] for uid in sorted(rows) if uid not in seen.faults])
        embeddings = self._by_embedding(left, texts, parts, seen) if self.model else None
        if self.watermark:
            self._by_watermark(left, seen)
        if self.near and embeddings is not None:  # last: what leaves is near to something that stays in the end
            there = [row for row, uid in enumerate(embeddings.uids) if uid not in seen.faults]
            for row, (other, alike) in greedy_duplicates(embeddings.vector_ND, there, self.near).items():
                seen.columns["duplicate_of"][embeddings.uids[row]] = embeddings.uids[other]
                seen.faults[embeddings.uids[row]] = f"near {embeddings.uids[other]}: cosine {alike:.3f}"
        kept = tuple(uid for uid in sorted(rows) if uid not in seen.faults)
        dropped = tuple(Drop(uid, self.slug, seen.faults[uid]) for uid in sorted(seen.faults))
        columns = {name: values for name, values in seen.columns.items() if values}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _texts(self, data: Dataset, parts: PartStore, seen: _FilterState) -> dict[str, list[tuple[str, str]]]:
        """(text, language) of each row's texts that are long enough; the tag of the first goes into the columns."""
        table = texts_of(data)
        tagger = LanguageIdentifier(self.language_floor)

        def work(part: pa.Table) -> pa.Table:
            return mapped(part.select(["row", "string"]), ["string"], tagger, "tag").select(["tag"])

        tags = parts.mapped(table, "language", work)["tag"].to_pylist()
        texts: dict[str, list[tuple[str, str]]] = {}
        for uid, string, tag in zip(table["uid"].to_pylist(), table["string"].to_pylist(), tags, strict=True):
            seen.columns["language"].setdefault(uid, tag["language"])
            seen.columns["language_confidence"].setdefault(uid, float(tag["confidence"]))
            if len(string) >= self.min_text:
                texts.setdefault(uid, []).append((string, tag["language"]))
        return texts

    def _cheap(self, data: Dataset, row: int, texts: list[tuple[str, str]], seen: _FilterState) -> str:
        """Fault of a row by the rules that need no model, rows coming in order of uid; "" when it stays."""
        sample = data[row]
        if not texts:
            return f"short_text: none of at least {self.min_text} characters"
        url = sample.extras.get("url")
        key = _address(url) if isinstance(url, str) and url else ""
        if self.same_url and key in seen.urls:
            return self._twice(sample.uid, seen.urls[key], "same_url", seen)
        digest = b""
        if sample.image is not None:
            try:
                digest, size = _digest(sample.image)
            except (DecodeError, OSError) as error:
                return f"unreadable: {error}"
            if size < self.min_bytes:
                return f"small_file: {size:,} bytes (expected at least {self.min_bytes:,})"
            if self.same_bytes and digest in seen.files:
                return self._twice(sample.uid, seen.files[digest], "same_bytes", seen)
        language = texts[0][1]
        if self.languages and language not in self.languages:
            return f"language: {language or 'undetermined'} (expected {', '.join(name or 'undetermined' for name in self.languages)})"
        if key:
            seen.urls.setdefault(key, sample.uid)
        if digest:
            seen.files.setdefault(digest, sample.uid)
        return ""

    def _twice(self, uid: str, first: str, rule: str, seen: _FilterState) -> str:
        seen.columns["duplicate_of"][uid] = first
        return f"{rule}: as {first}"

    def _by_embedding(
        self, left: Dataset, texts: Mapping[str, list[tuple[str, str]]], parts: PartStore, seen: _FilterState
    ) -> ImageEmbeddings:
        model = open_embedder(self.model)
        embeddings = embed_pool(left, model, parts)
        seen.faults |= {uid: f"unreadable: {reason}" for uid, reason in embeddings.unreadable.items()}
        pairs = [(row, text, language) for row, uid in enumerate(embeddings.uids) for text, language in texts[uid]]
        text_MD = embed_texts(model, [text for _, text, _ in pairs], [embeddings.uids[row] for row, _, _ in pairs])
        similarity = seen.columns.setdefault("similarity", {})
        best: dict[int, tuple[float, str]] = {}
        for (row, _, language), vector in zip(pairs, text_MD, strict=True):
            agree = float(embeddings.vector_ND[row] @ vector)
            if row not in best or agree > best[row][0]:
                best[row] = agree, language
        for row, (agree, language) in best.items():
            similarity[embeddings.uids[row]] = agree
            least = self.similarity if language == "en" else self.similarity_other
            if agree < least:
                seen.faults[embeddings.uids[row]] = f"similarity: {agree:.3f} (expected at least {least:g})"
        if self.unsafe:
            chance_N = open_head(Path(self.unsafe)).probability(embeddings.vector_ND, model.fingerprint)
            seen.columns["punsafe"] = {uid: float(p) for uid, p in zip(embeddings.uids, chance_N, strict=True)}
            for uid, p in seen.columns["punsafe"].items():
                if p > self.unsafe_above:
                    seen.faults.setdefault(uid, f"unsafe: {p:.2f} (expected at most {self.unsafe_above:g})")
        return embeddings

    def _by_watermark(self, left: Dataset, seen: _FilterState) -> None:
        head = open_head(Path(self.watermark))
        chances = seen.columns.setdefault("pwatermark", {})
        for row, uid in enumerate(left.uids):
            image = left[row].image
            if uid in seen.faults or image is None:
                continue
            try:
                chances[uid] = p = float(head.probability([image])[0])
            except (DecodeError, OSError) as error:
                seen.faults[uid] = f"unreadable: {error}"
                continue
            if p > self.watermark_above:
                seen.faults[uid] = f"watermark: {p:.2f} (expected at most {self.watermark_above:g})"


@dataclass
class _FilterState:
    """State of the filters: faults by uid, columns by name and uid, and the first row of every address and file."""

    faults: dict[str, str]
    columns: dict[str, dict[str, Any]]
    urls: dict[str, str] = field(default_factory=dict)
    files: dict[bytes, str] = field(default_factory=dict)


def _digest(image: ImageSource) -> tuple[bytes, int]:
    """Hash and size of a file; of pixels without a file, theirs."""
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
