"""Asking a `Relater`: the true boxes are given, with their labels or without, and the model says how they are related."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from diptych.core.contracts import Dataset, Relater
from diptych.core.errors import DataError, DecodeError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph
from diptych.index.embed import Unreadable
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.relations import graph_records


def predict(
    model: Relater, data: Dataset, objects: Sequence[str], relations: Sequence[str], *, labels_known: bool, batch_size: int = 8
) -> pa.Table:
    """The records of a relater, as `graph_records.predict` makes them for a detector.

    Without `labels_known` the model sees boxes with the label "" and no attributes. Raises ShapeError when it answers other regions
    than it was given, DataError when no image is left.
    """
    samples: list[Sample] = []
    found: list[SceneGraph] = []
    unreadable: list[Unreadable] = []
    for start in range(0, len(data), batch_size):
        block = [sample for row in range(start, min(start + batch_size, len(data))) if (sample := data[row]).image is not None]
        if block:
            good, graphs, bad = _related(model, block, objects, relations, labels_known)
            samples, found, unreadable = samples + good, found + graphs, unreadable + bad
    if not samples:
        raise DataError(f"'{data.name}' has no image to look at", field="image", expected="samples with images")
    table = graph_records.records(
        [sample.uid for sample in samples],
        [sample.graph for sample in samples],
        found,
        groups=[sample.group or sample.uid for sample in samples],
    )
    return with_facts(
        table, objects_asked=list(objects), predicates_asked=list(relations), unreadable=[asdict(u) for u in unreadable]
    )


def _related(
    model: Relater, block: list[Sample], objects: Sequence[str], relations: Sequence[str], labels_known: bool
) -> tuple[list[Sample], list[SceneGraph], list[Unreadable]]:
    """What can be decoded, its graphs, and the others: halves until the bad ones stand alone."""
    images: list[ImageSource] = [sample.image for sample in block if sample.image is not None]
    given = [[_shown(region, labels_known) for region in sample.regions] for sample in block]
    try:
        graphs = model.relate(images, given, objects=objects, relations=relations, labels_known=labels_known)
    except DecodeError as error:
        if len(block) == 1:
            return [], [], [Unreadable(block[0].uid, str(error))]
        middle = len(block) // 2
        left, right = (_related(model, half, objects, relations, labels_known) for half in (block[:middle], block[middle:]))
        return left[0] + right[0], left[1] + right[1], left[2] + right[2]
    if len(graphs) != len(block):
        raise ShapeError(f"the model answered {len(graphs)} graphs for {len(block)} images (expected one an image)")
    for sample, regions, graph in zip(block, given, graphs, strict=True):
        _check(sample.uid, regions, graph, labels_known)
    return block, graphs, []


def _shown(region: Region, labels_known: bool) -> Region:
    return Region(region.box, region.label if labels_known else "")


def _check(uid: str, given: Sequence[Region], graph: SceneGraph, labels_known: bool) -> None:
    """Given boxes, and labels where they were given, must come back as they were: or the number is no PredCls or SGCls."""
    if len(graph.regions) != len(given):
        raise ShapeError(f"{uid}: {len(given)} regions were given and {len(graph.regions)} came back (expected the same)")
    for row, (one, other) in enumerate(zip(given, graph.regions, strict=True)):
        if max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) > 1e-3:
            raise ShapeError(f"{uid}: region {row} was given as {one.box} and came back as {other.box} (expected the same)")
        if labels_known and one.label != other.label:
            raise ShapeError(
                f"{uid}: region {row} was given as {one.label!r} and came back as {other.label!r} (expected the same)"
            )
