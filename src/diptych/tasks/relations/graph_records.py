"""Records of the relation protocols: one row per image, with its true and its predicted scene graph.

`predict` runs a detector and builds the rows, `records` builds them from existing graphs, and `GraphArrays.of` converts the true
or the predicted side into flat arrays for a scorer.

Conventions of all relation protocols:

- `Relation.confidence` ranks a predicted triplet. A protocol prescribes how it is computed (`TripletRule`) if the detector
supports
  that; otherwise the detector decides, and the facts say which.
- A relation whose object is its subject has no object: the predicate applies only to the subject ("stand"), or its object is not
in
  the image ("ride", with the horse cut off). Protocols without such relations treat it like any other pair.
- Boxes are xyxy pixels as in `core.scene_graph`, in double precision, so that rounding creates no ties.

Letters: N images, B boxes, R relations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import DataError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.scene_graph import SceneGraph
from diptych.core.terminal.progress import with_bar
from diptych.core.triplet_rule import RawDetections, RuledDetector, TripletRule
from diptych.data.dataset import Pool
from diptych.data.graphs.columns import GraphColumns
from diptych.index.embed import UnreadableSample, readable
from diptych.tasks._scoring.records import with_facts

Convention = Literal["inclusive", "half_open"]
"""Box width convention for IoU: "inclusive" counts both edge pixels (x1 - x0 + 1), as in PASCAL's scorers; "half_open" x1 -
x0."""
Rules = Literal["published", "detector"]
"""Rule that builds triplets from a detector's outputs: the benchmark's, or that of the detector's `detect`."""
Size = tuple[int, int]
Predicted = SceneGraph | RawDetections
"""A predicted graph may be a `RawDetections`, whose boxes may exceed the image or have no area; they are scored unchanged."""


def predict(
    model: Detector,
    data: Dataset,
    objects: Sequence[str],
    relations: Sequence[str],
    *,
    rule: TripletRule | None = None,
    means: Mapping[str, str] | None = None,
    missing: str = "",
    batch_size: int = 8,
) -> pa.Table:
    """Records of a detector on a data set, with a progress bar on a terminal.

    Triplets are built by `rule` if the detector supports it, else (or without a rule) by its own `detect`; the facts declare
    which (`triplet_score`, `subjects`, `impossible_pairs`, `cut`, `detector_nms`), as far as it is known.
    `means` maps the query text of a relation to its name in the records, if they differ. A relation to an object called `missing`
    becomes one of its subject to itself.

    Samples without an image are skipped; an image that cannot be decoded is left out and listed in the facts (`unreadable`),
    together with the queried names. Raises DataError if nothing is left.
    """
    seen: list[_ImageWithGraph] = []
    predicted: list[Predicted] = []
    unreadable: list[UnreadableSample] = []
    answer = _asking(model, objects, relations, rule)

    def ask(block: Sequence[_ImageWithGraph]) -> Sequence[Predicted]:
        return one_each(answer([picture.image for picture in block]), block)

    for block in _blocks(data, batch_size):
        good, graphs, bad = readable(ask, block)
        seen += good
        predicted += graphs
        unreadable += bad
    if not seen:
        raise DataError(f"'{data.name}' has no image", field="image", expected="samples with images")
    rows = [picture.row for picture in seen]
    table = records(
        [picture.uid for picture in seen],
        GraphColumns.of(data, rows) if isinstance(data, Pool) else [picture.graph for picture in seen],
        [_translate_graph(graph, means or {}, missing) for graph in predicted] if means or missing else predicted,
        groups=[data.groups[row] for row in rows],
        sizes=_sizes(data, rows),
    )
    return with_facts(
        table,
        objects_asked=list(objects),
        predicates_asked=[(means or {}).get(name, name) for name in relations],
        **_declared_rule(model, rule),
        unreadable=[asdict(u) for u in unreadable],
    )


def records(
    uids: Sequence[str],
    truths: Sequence[SceneGraph] | GraphColumns,
    predictions: Sequence[Predicted],
    *,
    groups: Sequence[str] | None = None,
    sizes: Sequence[Size | None] | None = None,
) -> pa.Table:
    """Returns one row per image. `groups` is the unit of intervals (the uid when left out), `sizes` are (width, height) where known.

    Columns: uid, group, width, height; truth_box, truth_label, truth_subject, truth_predicate, truth_object; box, label, score,
    subject, predicate, object, confidence. Raises DataError that names the uid when a predicted box, score or confidence is not
    finite, ShapeError when the lengths differ.
    """
    groups = uids if groups is None else groups
    sizes = [None] * len(uids) if sizes is None else sizes
    lengths = {len(uids), len(truths), len(predictions), len(groups), len(sizes)}
    if len(lengths) > 1:
        raise ShapeError(
            f"{len(uids)} uids, {len(truths)} true graphs, {len(predictions)} predicted (expected one of each an image)"
        )
    columns: dict[str, pa.Array] = {
        "uid": pa.array(uids, pa.string()),
        "group": pa.array(groups, pa.string()),
        "width": pa.array([size and size[0] for size in sizes], pa.int32()),
        "height": pa.array([size and size[1] for size in sizes], pa.int32()),
    }
    truth = truths if isinstance(truths, GraphColumns) else GraphColumns.of_graphs(uids, truths)
    prediction = GraphColumns.of_graphs(uids, predictions)
    _require_finite(prediction)
    columns |= {f"truth_{name}": column for name, column in truth.lists().items() if name not in ("score", "confidence")}
    return pa.table(columns | prediction.lists())


def nms_ran(facts: dict[str, Any], scorer: str) -> str:
    """Description of the NMS that the scored triplets went through: the detector's, where it declares one, and the scorer's."""
    detector = facts.get("detector_nms", "none")
    return scorer if detector == "none" else f"by the detector: {detector}; by the scorer: {scorer}"


# ---------------------------------------------------------------- detector queries

NOTHING = SceneGraph()
Graph = TypeVar("Graph")
Asking = Callable[[Sequence[ImageSource]], Sequence[Predicted]]


@dataclass(frozen=True, slots=True)
class _ImageWithGraph:
    """Image of a prediction batch. `graph` is its truth if the data set builds samples; a pool's truth is read by column."""

    row: int
    uid: str
    image: ImageSource
    graph: SceneGraph


def _pictures(data: Dataset, rows: range) -> list[_ImageWithGraph]:
    """Rows that have an image."""
    if isinstance(data, Pool):
        return [_ImageWithGraph(row, data.uids[row], image, NOTHING) for row in rows if (image := data.image(row)) is not None]
    samples = ((row, data[row]) for row in rows)
    return [_ImageWithGraph(row, s.uid, s.image, s.graph) for row, s in samples if s.image is not None]


def _blocks(data: Dataset, batch_size: int) -> Iterator[list[_ImageWithGraph]]:
    starts = range(0, len(data), batch_size)
    for start in with_bar(starts, len(starts), "detecting"):
        if block := _pictures(data, range(start, min(start + batch_size, len(data)))):
            yield block


def _translate_graph(graph: Predicted, means: Mapping[str, str], missing: str) -> Predicted:
    relations = []
    for relation in graph.relations:
        there = not missing or graph.regions[relation.object].label != missing
        name, thing = means.get(relation.predicate, relation.predicate), relation.object if there else relation.subject
        relations.append(replace(relation, predicate=name, object=thing))
    return replace(graph, relations=tuple(relations))


def _asking(model: Detector, objects: Sequence[str], relations: Sequence[str], rule: TripletRule | None) -> Asking:
    if rule is not None and isinstance(model, RuledDetector):
        return lambda images: model.detect_by(images, objects=objects, relations=relations, rule=rule)
    return lambda images: model.detect(images, objects=objects, relations=relations)


def _declared_rule(model: Detector, rule: TripletRule | None) -> dict[str, str]:
    if not isinstance(model, RuledDetector):
        return {"triplet_score": "the detector's own, not stated"}
    return dict(model.detect_rule) if rule is None else rule.declared()


def one_each(graphs: Sequence[Graph], images: Sequence[object]) -> Sequence[Graph]:
    """Returns the graphs of a model. Raises ShapeError unless there is one per image."""
    if len(graphs) != len(images):
        raise ShapeError(f"the model answered {len(graphs)} graphs for {len(images)} images (expected one an image)")
    return graphs


def _sizes(data: Dataset, rows: Sequence[int]) -> list[Size | None]:
    if not isinstance(data, Pool) or not {"width", "height"} <= set(data.column_names):
        return [None] * len(rows)
    width, height = data.column("width"), data.column("height")
    return [(width[row], height[row]) if width[row] and height[row] else None for row in rows]


def _require_finite(graphs: GraphColumns) -> None:
    regions, relations = graphs.regions, graphs.relations
    box_B4 = np.asarray(regions.column("box").flatten(), np.float64).reshape(-1, 4)
    for ragged, name, numbers in (
        (regions, "box", box_B4),
        (regions, "score", regions.numbers("score")[:, None]),
        (relations, "confidence", relations.numbers("confidence")[:, None]),
    ):
        bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(bad):
            row = int(ragged.rows()[bad[0]])
            raise DataError(f"a prediction for {graphs.uids[row]} is not finite", row=row, field=name, expected="finite numbers")
