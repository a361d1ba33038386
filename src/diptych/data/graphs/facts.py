"""Statistics of a pool's scene graphs: counts, names and warnings. The part of `inspect` for regions and relations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.data.dataset import Pool
from diptych.data.regions import RELATION_SCHEMA

SHOWN = 8  # names in a line
RARE = 10  # relations of a predicate below which it is called rare, as HICO-DET does
SMALL = 2.0  # pixels: the shorter side of a box that hardly anything can be seen in


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Regions and relations of a pool.

    without_regions, without_relations  images that have none
    doubled       relations that say again what another one of their image says about the same two regions
    to_itself     relations whose object is their subject ("stand", or an object that is not in the picture)
    small         boxes whose shorter side is below 2 pixels
    """

    images: int
    regions: int
    relations: int
    without_regions: int
    without_relations: int
    doubled: int
    to_itself: int
    small: int
    labels: dict[str, int] = field(default_factory=dict)
    predicates: dict[str, int] = field(default_factory=dict)

    @property
    def rare(self) -> int:
        """Predicates with fewer than 10 relations."""
        return sum(count < RARE for count in self.predicates.values())

    @property
    def warnings(self) -> list[str]:
        warnings = []
        if not self.relations:
            warnings.append("there are regions and no relation: only boxes and labels can be learned")
        if self.doubled:
            warnings.append(f"{self.doubled:,} relations repeat another one between the same two regions")
        if self.small:
            warnings.append(f"{self.small:,} boxes are thinner than {SMALL:g} pixels")
        return warnings

    def lines(self) -> list[str]:
        """The facts, one per line."""
        per_image = self.relations / max(self.images, 1)
        lines = [
            f"scene graphs: {self.regions:,} regions of {len(self.labels):,} labels, {self.relations:,} relations of "
            f"{len(self.predicates):,} predicates ({per_image:.2f} an image)",
            f"images without a region: {self.without_regions:,}; without a relation: {self.without_relations:,}",
            f"labels: {_head(self.labels)}",
        ]
        if self.relations:
            lines.append(f"predicates: {_head(self.predicates)}; with fewer than {RARE} relations: {self.rare:,}")
        if self.to_itself:
            lines.append(f"relations of a region to itself (no object): {self.to_itself:,}")
        return lines


def graph_facts(pool: Pool) -> GraphFacts | None:
    """The facts, or None for a pool without regions."""
    if not pool.has_regions:
        return None
    regions, relations = pool.regions_table(), pool.relations_table()
    assert regions is not None
    relations = RELATION_SCHEMA.empty_table() if relations is None else relations
    x0, y0, x1, y1 = (np.asarray(regions[name].to_numpy(), np.float64) for name in ("x0", "y0", "x1", "y1"))
    different = relations.group_by(["uid", "subject", "predicate", "object"]).aggregate([])
    return GraphFacts(
        images=len(pool),
        regions=len(regions),
        relations=len(relations),
        without_regions=len(pool) - len(pc.unique(regions["uid"])),
        without_relations=len(pool) - len(pc.unique(relations["uid"])),
        doubled=len(relations) - len(different),
        to_itself=int(pc.sum(pc.equal(relations["subject"], relations["object"])).as_py() or 0),
        small=int((np.minimum(x1 - x0, y1 - y0) < SMALL).sum()),
        labels=_counted(regions["label"]),
        predicates=_counted(relations["predicate"]),
    )


def _counted(names: pa.ChunkedArray) -> dict[str, int]:
    """Name -> count, the most frequent first, by name on a tie."""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _head(counts: dict[str, int]) -> str:
    """The most frequent names with their counts, and how many more there are."""
    shown: Iterable[str] = (f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN])
    rest = len(counts) - SHOWN
    return ", ".join(shown) + (f", {rest:,} more" if rest > 0 else "") if counts else "none"
