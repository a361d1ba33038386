"""Drop exact duplicates: images with the file or the pixels of one that is kept.

Keeps, of equal images, the one whose uid comes first. Cost: a million files need one read each (pixels: one decode each) and
some 100 bytes of memory a row. Never touches rows without an image. Texts of a dropped row that the kept one lacks (home, house) are
added to it as ``text_variants``; the column ``duplicate_of`` says which row a dropped one is a copy of.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.image import ArrayImage, ImageSource
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.images import DIGEST, first_equal, image_facts
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, StringColumn
from diptych.data.media.decode import decode
from diptych.data.ragged import one_chunk
from diptych.data.text.captions.variants import VARIANT, VARIANTS


@dataclass(frozen=True)
class ExactDuplicates:
    """pixels       compare decoded pixels instead of the files' bytes: finds the same picture in two lossless formats
    merge_texts  add the texts of a dropped row to the kept row, if it has no such text (ignoring case and outer white space)"""

    slug: ClassVar[str] = "exact_duplicates"

    pixels: bool = False
    merge_texts: bool = True

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, self._digest, unit="decode" if self.pixels else "read")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from the hashes that an earlier run has read."""
        start = time.perf_counter()
        facts = image_facts(data, parts, lambda image: (self._digest(image),), pa.schema([("digest", DIGEST)]), "hashes")
        uids, first_N = one_chunk(facts["uid"]), first_equal(facts["digest"])
        copy_N = (first_N >= 0) & (first_N != np.arange(len(first_N)))
        broken_N = facts["fault"].is_valid().to_numpy()
        originals = uids.take(pa.array(first_N, mask=~copy_N))
        reasons = pc.coalesce(
            pc.binary_join_element_wise(f"same {'pixels' if self.pixels else 'bytes'} as ", originals, ""),
            pc.binary_join_element_wise("unreadable: ", one_chunk(facts["fault"]), ""),
        )
        gone = pa.array(copy_N | broken_N)
        drops = DropTable.of_step(self.slug, uids.filter(gone), reasons.filter(gone))
        kept = StringColumn(uids.filter(pc.invert(gone)))
        copies = pa.table({"uid": uids, "duplicate_of": originals}).filter(pa.array(copy_N))
        columns: dict[str, Any] = {"duplicate_of": ColumnByUid(copies)} if copies.num_rows else {}
        notes: tuple[str, ...] = ()
        if copies.num_rows and self.merge_texts and (merged := merged_texts(data, columns["duplicate_of"])).num_rows:
            columns[VARIANTS] = merged
            texts = sum(map(len, merged[VARIANTS].to_pylist()))
            notes = (f"{texts:,} texts of dropped rows went to the rows that stay (--merge-texts False leaves them out)",)
        return CurationStepResult(kept, drops, columns, time.perf_counter() - start, notes=notes)

    def _digest(self, image: ImageSource) -> bytes:
        if self.pixels:
            pixels = decode(image, exact=True)
        elif isinstance(image, ArrayImage):
            pixels = image.pixels_HWC
        else:
            return hashlib.sha256(image.read()).digest()
        return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def merged_texts(data: Dataset, original: Mapping[str, str]) -> pa.Table:
    """Texts of dropped rows that the row they are a copy of lacks: a table of uid and `text_variants`, each text with the uid of the row
    that it comes from.

    original  uid of the kept row by uid of the dropped row
    """
    row_of = {uid: row for row, uid in enumerate(data.uids)}
    seen: dict[str, set[str]] = {}
    lists: dict[str, list[dict[str, str]]] = {}
    for uid in sorted(original):
        kept = original[uid]
        if kept not in seen:
            seen[kept] = {_plain(text.string) for text in data[row_of[kept]].texts}
        for text in data[row_of[uid]].positives():
            if _plain(text.string) in seen[kept]:
                continue
            seen[kept].add(_plain(text.string))
            row = {field.name: "" for field in VARIANT} | {
                "string": text.string,
                "language": text.language,
                "origin": text.origin,
            }
            lists.setdefault(kept, []).append(row | {"source": uid, "licence": data[row_of[uid]].licence})
    uids = sorted(lists)
    return pa.table({"uid": pa.array(uids, pa.string()), VARIANTS: pa.array([lists[u] for u in uids], pa.list_(VARIANT))})


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
