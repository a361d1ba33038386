"""Prediction by a `Relater`: the true boxes are given, with their labels or without, and the model predicts their relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from diptych.core.contracts import Dataset, Relater
from diptych.core.errors import DataError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.graphs.columns import GraphColumns
from diptych.index.embed import UnreadableSample, readable
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.relations.graph_records import one_each, records


def predict(
    model: Relater, data: Dataset, objects: Sequence[str], relations: Sequence[str], *, labels_known: bool, batch_size: int = 8
) -> pa.Table:
    """Records of a relater, as `graph_records.predict` makes them for a detector.

    Without `labels_known` the model sees boxes with the label "" and no attributes. Raises ShapeError when it answers other regions
    than it was given, DataError when no image is left.
    """
    seen: list[_ImageWithRegions] = []
    predicted: list[SceneGraph] = []
    unreadable: list[UnreadableSample] = []

    def related(block: Sequence[_ImageWithRegions]) -> Sequence[SceneGraph]:
        images, regions = [given.image for given in block], [given.regions for given in block]
        graphs = one_each(model.relate(images, regions, objects=objects, relations=relations, labels_known=labels_known), block)
        for given, graph in zip(block, graphs, strict=True):
            _check(given.uid, given.regions, graph, labels_known)
        return graphs

    for start in range(0, len(data), batch_size):
        if block := _given_rows(data, range(start, min(start + batch_size, len(data))), labels_known):
            good, graphs, bad = readable(related, block)
            seen += good
            predicted += graphs
            unreadable += bad
    if not seen:
        raise DataError(f"'{data.name}' has no image", field="image", expected="samples with images")
    rows = [given.row for given in seen]
    truths = GraphColumns.of(data, rows) if isinstance(data, Pool) else [given.truth for given in seen]
    table = records([given.uid for given in seen], truths, predicted, groups=[data.groups[row] for row in rows])
    return with_facts(
        table, objects_asked=list(objects), predicates_asked=list(relations), unreadable=[asdict(u) for u in unreadable]
    )


@dataclass(frozen=True, slots=True)
class _ImageWithRegions:
    """An image of the data set and what the model is given of it. `truth` is read where the data set is no pool: every other sample
    would have to be made twice."""

    row: int
    uid: str
    image: ImageSource
    regions: list[Region]
    truth: SceneGraph


def _given_rows(data: Dataset, rows: range, labels_known: bool) -> list[_ImageWithRegions]:
    """Rows that have an image, with their regions."""
    samples = ((row, data[row]) for row in rows)
    return [
        _ImageWithRegions(
            row, s.uid, s.image, [Region(region.box, region.label if labels_known else "") for region in s.regions], s.graph
        )
        for row, s in samples
        if s.image is not None
    ]


def _check(uid: str, given: Sequence[Region], graph: SceneGraph, labels_known: bool) -> None:
    """Checks that given boxes, and labels where they were given, come back unchanged: or the number is no PredCls or SGCls."""
    if len(graph.regions) != len(given):
        raise ShapeError(f"{uid}: {len(given)} regions were given and {len(graph.regions)} came back (expected the same)")
    for row, (one, other) in enumerate(zip(given, graph.regions, strict=True)):
        if max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) > 1e-3:
            raise ShapeError(f"{uid}: region {row} was given as {one.box} and came back as {other.box} (expected the same)")
        if labels_known and one.label != other.label:
            raise ShapeError(
                f"{uid}: region {row} was given as {one.label!r} and came back as {other.label!r} (expected the same)"
            )
