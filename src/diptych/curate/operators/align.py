"""ALIGN's frequency-based cleaning of web pairs (Jia et al., 2021, 2102.05918).

A row is dropped by the first rule that it breaks, and its reason begins with the name of that rule:

unreadable       the image cannot be read
short_side       the short side is not above `short_side` pixels
aspect_ratio     long side / short side is not below `aspect_ratio`
texts_of_image   the image (identical bytes, over all rows) has more than `texts_of_image` texts
unsafe           the column `unsafe` exceeds `unsafe_above`; this step does not compute that score
evaluation       a near-duplicate of an evaluation image, by the measure of `near_duplicates`
no_text, length, shared_text, rare_token    no text of the row passes the rules of `alt_text`; the fault of the first text is
                                            given

A row with several texts is kept if any of them passes; the column ``kept_texts`` lists which. Counts are taken over the input,
before any row is dropped. Cost: one read and hash of every image and two passes over the texts; with `evaluation` also one decode
of every image.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ArrayImage, ImageSource, content_untold
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.hamming import HammingIndex
from diptych.curate.duplicates.near import ImageHash, hash_image
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.images import DIGEST, first_equal, image_facts
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import count_distinct
from diptych.curate.engine.verdicts import BLOCK, DROPS, ColumnByUid, DropTable, StringColumn
from diptych.curate.operators.alt_text import TextCounts
from diptych.data.media.decode import probe
from diptych.worlds.address import held_out, open_data

NEAR_BITS, NEAR_COLOUR = 6, 8.0
"""Near-duplicate thresholds of `near_duplicates`: bits of 64, and colour difference of 255."""

Size = tuple[int, int]
KEPT_TEXTS = pa.schema([("uid", pa.string()), ("kept_texts", pa.list_(pa.string()))])
SIZES = pa.schema([("digest", DIGEST), ("width", pa.int32()), ("height", pa.int32())])


@dataclass(frozen=True)
class AlignFilters:
    """short_side      the short side must exceed this number of pixels; 0 is off
    aspect_ratio    long side / short side must be below this; 0 is off
    texts_of_image  images with more texts are dropped; 0 is off
    shared_by       texts that belong to more different images are dropped; 0 is off
    min_words       minimum number of words of a text; 0 is off
    max_words       maximum number of words of a text; 0 is off
    vocabulary      number of the most frequent words and word pairs; texts with another word or pair are dropped; 0 is off
    language        language of the texts to check; texts of unknown language are included; "" checks all
    origins         origins of the texts to check; empty: all except negatives
    evaluation      address of evaluation data: near-duplicates of its held-out images are dropped; "" is off
    unsafe          column with a probability (of a classifier, computed elsewhere); "" is off
    unsafe_above    rows above this probability are dropped
    """

    slug: ClassVar[str] = "align"

    short_side: int = 200
    aspect_ratio: float = 3.0
    texts_of_image: int = 1000
    shared_by: int = 10
    min_words: int = 3
    max_words: int = 20
    vocabulary: int = 100_000_000
    language: str = ""
    origins: tuple[str, ...] = ()
    evaluation: str = ""
    unsafe: str = ""
    unsafe_above: float = 0.5

    def __post_init__(self) -> None:
        for name in ("short_side", "texts_of_image", "shared_by", "min_words", "max_words", "vocabulary"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected 0, which is off, or more)")
        if 0 < self.max_words < self.min_words:
            raise ConfigError(f"words are {self.min_words}..{self.max_words} (expected min_words <= max_words)")
        if self.aspect_ratio != 0 and self.aspect_ratio <= 1:
            raise ConfigError(f"aspect_ratio is {self.aspect_ratio} (expected 0, which is off, or above 1)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        if self.evaluation:
            return estimate_cost(data, lambda image: (_digest_and_size(image), hash_image(image)), unit="read, hash, decode")
        return estimate_cost(data, _digest_and_size, unit="read and hash")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from the hashes and sizes that an earlier run has read."""
        start = time.perf_counter()
        facts = image_facts(data, parts, _digest_and_size, SIZES, "sizes")
        image_N = first_equal(facts["digest"])
        image_N = np.where(image_N < 0, np.arange(len(image_N)), image_N)  # a row without a picture is like no other
        texts_of_images = self._texts_of_images(data, facts["row"], image_N)
        counts = TextCounts.of(texts_of_images, self.vocabulary)
        crowded = self._crowded(texts_of_images)
        del texts_of_images
        near = self._near_evaluation()
        kept: list[pa.Array] = []
        drops: list[pa.Table] = []
        kept_texts: list[pa.Table] = []
        starts = range(0, len(image_N), BLOCK)
        for begin in with_bar(starts, len(starts), "judging rows", least=2):
            block = facts.slice(begin, BLOCK).to_pylist()
            faults: list[str] = []
            passed_by_uid: dict[str, list[str]] = {}
            for number, fact in enumerate(block, begin):
                sample = data[fact["row"]]
                texts = self._texts(sample)
                passed, first_fault = self._passing_texts(texts, counts)
                fault = self._size_fault((fact["width"], fact["height"])) if fact["digest"] is not None else ""
                fault = fault or (f"unreadable: {fact['fault']}" if fact["fault"] is not None else "")
                fault = (
                    fault or crowded.get(int(image_N[number]), "") or self._unsafe(sample) or near(sample.image) or first_fault
                )
                faults.append(fault)
                if not fault and len(passed) < len(texts):
                    passed_by_uid[sample.uid] = passed
            uids, fault_column = facts["uid"].slice(begin, BLOCK).combine_chunks(), pa.array(faults, pa.string())
            gone = pc.not_equal(fault_column, "")
            kept.append(uids.filter(pc.invert(gone)))
            drops.append(DropTable.of_step(self.slug, uids.filter(gone), fault_column.filter(gone)).table)
            kept_texts.append(pa.Table.from_arrays([[*passed_by_uid], [*passed_by_uid.values()]], schema=KEPT_TEXTS))
        dropped = DropTable(pa.concat_tables([DROPS.empty_table(), *drops]))
        some = pa.concat_tables([KEPT_TEXTS.empty_table(), *kept_texts])
        columns = {"kept_texts": ColumnByUid(some)} if some.num_rows else {}
        stays = StringColumn(pa.chunked_array(kept, pa.string()))
        return CurationStepResult(stays, dropped, columns, time.perf_counter() - start)

    def _texts_of_images(self, data: Dataset, row_N: pa.ChunkedArray, image_N: npt.NDArray[np.int64]) -> pa.Table:
        """Table of "image" and "string"."""
        blocks = []
        for begin in range(0, len(image_N), BLOCK):
            lists = [self._texts(data[row]) for row in row_N.slice(begin, BLOCK).to_pylist()]
            images = np.repeat(image_N[begin : begin + BLOCK], [len(texts) for texts in lists])
            strings = pa.array([text for texts in lists for text in texts], pa.large_string())
            blocks.append(pa.table({"image": images, "string": strings}))
        return (
            pa.concat_tables(blocks)
            if blocks
            else pa.table({"image": np.zeros(0, np.int64), "string": pa.array([], pa.string())})
        )

    def _crowded(self, texts: pa.Table) -> dict[int, str]:
        """Fault of each image that has too many texts over all rows."""
        if not self.texts_of_image:
            return {}
        counts = count_distinct(texts, "image", "string")
        many = counts.filter(pc.greater(counts["count"], self.texts_of_image))
        return {
            image: f"texts_of_image: {count:,} texts (expected at most {self.texts_of_image:,})"
            for image, count in zip(many["image"].to_pylist(), many["count"].to_pylist(), strict=True)
        }

    def _texts(self, sample: Sample) -> list[str]:
        texts = sample.positives(self.language)
        return [text.string for text in texts if not self.origins or text.origin in self.origins]

    def _passing_texts(self, texts: Sequence[str], counts: TextCounts) -> tuple[list[str], str]:
        """Texts that pass, and the first one's fault when none does."""
        limits = {"shared_by": self.shared_by, "min_words": self.min_words, "max_words": self.max_words}
        faults = [(text, counts.fault(text, **limits)) for text in texts]
        passed = [text for text, fault in faults if not fault]
        return passed, "" if passed else faults[0][1] if faults else "no_text: none to be judged"

    def _size_fault(self, size: Size) -> str:
        short, long = sorted(size)
        if self.short_side and short <= self.short_side:
            return f"short_side: {short} pixels (expected more than {self.short_side})"
        if self.aspect_ratio and long >= self.aspect_ratio * short:
            return f"aspect_ratio: {long / short:.2f} (expected less than {self.aspect_ratio:g})"
        return ""

    def _unsafe(self, sample: Sample) -> str:
        if not self.unsafe:
            return ""
        value = sample.extras.get(self.unsafe)
        if not isinstance(value, int | float):
            raise DataError(
                f"sample '{sample.uid}' has no number there", field=self.unsafe, expected="a probability in every row (0..1)"
            )
        return f"unsafe: {value:.2f} (expected at most {self.unsafe_above:g})" if value > self.unsafe_above else ""

    def _near_evaluation(self) -> Callable[[ImageSource | None], str]:
        """Function that returns the fault of an image near an evaluation image."""
        if not self.evaluation:
            return lambda image: ""
        evaluation: list[tuple[str, ImageHash]] = []
        index = HammingIndex(NEAR_BITS)
        for part in held_out(open_data(self.evaluation)).values():
            for row in range(len(part)):
                sample = part[row]
                if sample.image is not None:
                    seen = hash_image(sample.image)
                    index.add(len(evaluation), seen.bits)
                    evaluation.append((sample.uid, seen))

        def near(image: ImageSource | None) -> str:
            if image is None:
                return ""
            try:
                mine = hash_image(image)
            except (DecodeError, OSError) as error:
                return f"unreadable: {error}"
            matches = [(_apart(mine, evaluation[key][1]), bits, evaluation[key][0]) for key, bits in index.within(mine.bits)]
            if not matches or min(matches)[0] > NEAR_COLOUR:
                return ""
            colour, bits, uid = min(matches)
            return f"evaluation: near {uid}, {bits} of 64 bits and {colour:.1f} of 255 in colour"

        return near


def _apart(one: ImageHash, other: ImageHash) -> float:
    return float(np.abs(one.colour_HWC.astype(np.int16) - other.colour_HWC).mean())


def _digest_and_size(image: ImageSource) -> tuple[bytes, int, int]:
    """SHA-256 of an image's bytes or pixels, and its width and height from the header."""
    if isinstance(image, ArrayImage):
        pixels = image.pixels_HWC
        shape = repr(pixels.shape).encode()
        return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest(), pixels.shape[1], pixels.shape[0]
    data = image.read()
    with content_untold(image):
        info = probe(data, name=image.name)
    return hashlib.sha256(data).digest(), info.width, info.height
