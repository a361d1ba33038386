"""What all relation protocols keep and read: one row an image, its true scene graph beside the predicted one.

`predict` asks a detector and writes the rows, `records` makes them from graphs that are already there, and `Ragged.of` turns one
side of them into flat arrays that a scorer can work on without a Python loop over images.

Conventions that every relation protocol shares:

- `Relation.confidence` ranks a predicted triplet. What it is made of is prescribed by a protocol (`TripletRule`) where the detector
  can follow one, and is the detector's own business otherwise; the facts say which.
- A relation whose object is its subject says "nothing there": the predicate holds of the subject alone ("stand") or its object is
  not in the picture ("ride", with the horse cut off). Protocols without such relations treat it as any other pair.
- Boxes are xyxy pixels as in `core.scene_graph`. Numbers are kept in double precision, so that rounding makes no ties.

Letters: N images, B boxes, R relations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import DataError, DecodeError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import SceneGraph
from diptych.core.triplet_rule import FoundGraph, RuledDetector, TripletRule
from diptych.data.dataset import Pool
from diptych.index.embed import Unreadable
from diptych.tasks._scoring.records import with_facts

Side = Literal["truth", "prediction"]
Convention = Literal["inclusive", "half_open"]
"""How wide a box is in an overlap: "inclusive" counts both edge pixels (x1 - x0 + 1), as PASCAL's scorers do; "half_open" x1 - x0."""
Rules = Literal["published", "detector"]
"""Whose rule makes triplets of a detector's answers: the benchmark's, or that of the detector's `detect`."""
Size = tuple[int, int]
Predicted = SceneGraph | FoundGraph
"""A predicted graph may be a `FoundGraph`, whose boxes may stick out of the image or have no area; they are scored as they are."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_REGION = {
    "box": pa.list_(pa.float64(), 4),
    "label": pa.string(),
    "score": pa.float64(),
}
_RELATION = {"subject": pa.int32(), "predicate": pa.string(), "object": pa.int32(), "confidence": pa.float64()}
_PREFIX: dict[Side, str] = {"truth": "truth_", "prediction": ""}


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
    """The records of a detector on a data set, with a progress bar on a terminal.

    Triplets are made by `rule` where the detector can follow one, and else (or without a rule) by its own `detect`; the facts
    declare which (`triplet_score`, `subjects`, `impossible_pairs`, `cut`, `detector_nms`), as far as it is known.
    `means` translates relations that are asked for in other words than the data's: the text -> the name in the records. A relation to
    an object called `missing` becomes one of its subject to itself.

    Samples without an image are passed over; an image that cannot be decoded is left out and listed in the facts
    (`unreadable`), together with the names that were asked for. Raises DataError when nothing is left.
    """
    samples: list[Sample] = []
    found: list[Predicted] = []
    unreadable: list[Unreadable] = []
    rows: list[int] = []
    ask = _asking(model, objects, relations, rule)
    for block in _blocks(data, batch_size):
        good, graphs, bad = _detected(ask, block)
        rows += [row for row, _ in good]
        samples += [sample for _, sample in good]
        found += graphs
        unreadable += bad
    if not samples:
        raise DataError(f"'{data.name}' has no image to look at", field="image", expected="samples with images")
    table = records(
        [sample.uid for sample in samples],
        [sample.graph for sample in samples],
        [_translated(graph, means or {}, missing) for graph in found] if means or missing else found,
        groups=[sample.group or sample.uid for sample in samples],
        sizes=_sizes(data, rows),
    )
    return with_facts(
        table,
        objects_asked=list(objects),
        predicates_asked=[(means or {}).get(name, name) for name in relations],
        **_declared(model, rule),
        unreadable=[asdict(u) for u in unreadable],
    )


def records(
    uids: Sequence[str],
    truths: Sequence[SceneGraph],
    predictions: Sequence[Predicted],
    *,
    groups: Sequence[str] | None = None,
    sizes: Sequence[Size | None] | None = None,
) -> pa.Table:
    """One row an image. `groups` is the unit of intervals (the uid when left out), `sizes` are (width, height) where known.

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
    truth, prediction = _columns(truths), _columns(predictions)
    for name in ("box", "score", "confidence"):
        _require_finite(prediction[name], name, uids)
    columns |= {f"truth_{name}": column for name, column in truth.items() if name not in ("score", "confidence")}
    return pa.table(columns | prediction)


@dataclass(frozen=True, slots=True)
class Ragged:
    """One side of the records as flat arrays; the boxes of image n are box_start[n] : box_start[n + 1], relations likewise.

    label, predicate   codes: positions in the vocabularies that were given
    subject, object    rows of `box` (not of the image)
    image_of_box, image_of_relation  the row of the records
    Truth has score and confidence 1 throughout.
    """

    uids: tuple[str, ...]
    groups: tuple[str, ...]
    box: Floats  # [B, 4]
    label: Ints  # [B]
    score: Floats  # [B]
    image_of_box: Ints  # [B]
    box_start: Ints  # [N + 1]
    subject: Ints  # [R]
    predicate: Ints  # [R]
    object: Ints  # [R]
    confidence: Floats  # [R]
    image_of_relation: Ints  # [R]
    relation_start: Ints  # [N + 1]

    def __len__(self) -> int:
        return len(self.uids)

    @classmethod
    def of(cls, table: pa.Table, side: Side, *, objects: Sequence[str], predicates: Sequence[str]) -> Self:
        """Raises DataError with row and uid for a label or predicate outside the vocabularies, or a relation to a missing box."""
        prefix = _PREFIX[side]
        uids = table.column("uid").to_pylist()
        boxes, box_start = _flat(table, f"{prefix}box")
        labels, label_start = _flat(table, f"{prefix}label")
        names, relation_start = _flat(table, f"{prefix}predicate")
        ends = {end: _flat(table, f"{prefix}{end}") for end in ("subject", "object")}
        for column, start, other in (("label", label_start, box_start), *((e, ends[e][1], relation_start) for e in ends)):
            if len(uneven := np.flatnonzero(start != other)):
                row = int(uneven[0]) - 1
                raise DataError(f"{uids[row]} has lists of unequal length", row=row, field=prefix + column)
        image_of_box = np.repeat(np.arange(len(uids)), np.diff(box_start))
        image_of_relation = np.repeat(np.arange(len(uids)), np.diff(relation_start))
        rows: dict[str, Ints] = {}
        for end, (values, _) in ends.items():
            local = np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.int64)
            outside = (local < 0) | (local >= np.diff(box_start)[image_of_relation])
            if outside.any():
                place = int(np.flatnonzero(outside)[0])
                row = int(image_of_relation[place])
                problem = f"a relation of {uids[row]} points at box {local[place]}, which is not there"
                raise DataError(problem, row=row, field=prefix + end, expected=f"0..{np.diff(box_start)[row] - 1}")
            rows[end] = local + box_start[image_of_relation]
        scored = side == "prediction"
        return cls(
            tuple(uids),
            tuple(table.column("group").to_pylist()),
            _numbers(boxes.flatten()).reshape(-1, 4),
            _coded(labels, objects, uids, image_of_box, f"{prefix}label"),
            _numbers(_flat(table, "score")[0]) if scored else np.ones(len(boxes)),
            image_of_box,
            box_start,
            rows["subject"],
            _coded(names, predicates, uids, image_of_relation, f"{prefix}predicate"),
            rows["object"],
            _numbers(_flat(table, "confidence")[0]) if scored else np.ones(len(names)),
            image_of_relation,
            relation_start,
        )


def nms_ran(facts: dict[str, Any], scorer: str) -> str:
    """Which NMS the scored triplets went through: the detector's, where it declares one, and the scorer's."""
    detector = facts.get("detector_nms", "none")
    return scorer if detector == "none" else f"by the detector: {detector}; by the scorer: {scorer}"


def names_in(table: pa.Table, column: str) -> list[str]:
    """The distinct strings of a list column ("truth_label", "predicate", ...), sorted."""
    return sorted(pc.unique(_flat(table, column)[0]).to_pylist())


# ---------------------------------------------------------------- asking the detector

Rows = list[tuple[int, Sample]]
Asking = Callable[[Sequence[ImageSource]], Sequence[Predicted]]


def _blocks(data: Dataset, batch_size: int) -> Iterator[Rows]:
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(data), batch_size)
    console = Console(stderr=True)
    shown = track(starts, "detecting", console=console, transient=True) if sys.stderr.isatty() else starts
    for start in shown:
        rows = range(start, min(start + batch_size, len(data)))
        if block := [(row, sample) for row in rows if (sample := data[row]).image is not None]:
            yield block


def _translated(graph: Predicted, means: Mapping[str, str], missing: str) -> Predicted:
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


def _declared(model: Detector, rule: TripletRule | None) -> dict[str, str]:
    if not isinstance(model, RuledDetector):
        return {"triplet_score": "the detector's own, not stated"}
    return dict(model.detect_rule) if rule is None else rule.declared()


def _detected(ask: Asking, block: Rows) -> tuple[Rows, Sequence[Predicted], list[Unreadable]]:
    """The samples whose images can be decoded, their graphs, and the others: halves until the bad ones stand alone."""
    try:
        images = [cast(ImageSource, sample.image) for _, sample in block]
        graphs = list(ask(images))
    except DecodeError as error:
        if len(block) == 1:
            return [], [], [Unreadable(block[0][1].uid, str(error))]
        middle = len(block) // 2
        left, right = (_detected(ask, half) for half in (block[:middle], block[middle:]))
        return left[0] + right[0], [*left[1], *right[1]], left[2] + right[2]
    if len(graphs) != len(block):
        raise ShapeError(f"the model answered {len(graphs)} graphs for {len(block)} images (expected one an image)")
    return block, graphs, []


def _sizes(data: Dataset, rows: Sequence[int]) -> list[Size | None]:
    if not isinstance(data, Pool) or not {"width", "height"} <= set(data.column_names):
        return [None] * len(rows)
    width, height = data.column("width"), data.column("height")
    return [(width[row], height[row]) if width[row] and height[row] else None for row in rows]


# ---------------------------------------------------------------- columns


def _columns(graphs: Sequence[Predicted]) -> dict[str, pa.Array]:
    columns = {}
    for kinds, side in ((_REGION, "regions"), (_RELATION, "relations")):
        each = [getattr(graph, side) for graph in graphs]
        offsets = pa.array(np.cumsum([0, *map(len, each)]), pa.int32())
        for name, kind in kinds.items():
            values = pa.array([getattr(item, name) for items in each for item in items], kind)
            columns[name] = pa.ListArray.from_arrays(offsets, values)
    return columns


def _require_finite(column: pa.ListArray, name: str, uids: Sequence[str]) -> None:
    values = column.flatten()
    numbers = _numbers(values.flatten()).reshape(-1, 4) if name == "box" else _numbers(values)[:, None]
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        row = int(np.searchsorted(np.asarray(column.offsets), bad[0], side="right")) - 1
        raise DataError(f"a prediction for {uids[row]} is not finite", row=row, field=name, expected="finite numbers")


def _flat(table: pa.Table, column: str) -> tuple[pa.Array, Ints]:
    """The values of a list column one after another, and where each row starts; a null counts as an empty list."""
    lists = table.column(column).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    start = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
    return lists.flatten(), start


def _numbers(values: pa.Array) -> Floats:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _coded(values: pa.Array, names: Sequence[str], uids: Sequence[str], image: Ints, field: str) -> Ints:
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(list(names), pa.string())), -1)
    code: Ints = np.asarray(codes, np.int64)
    if (code < 0).any():
        place = int(np.flatnonzero(code < 0)[0])
        row = int(image[place])
        known = f"one of {len(names)} names, such as {names[0]!r}" if names else "no name at all: the vocabulary is empty"
        raise DataError(f"unknown name {values[place].as_py()!r} in {uids[row]}", row=row, field=field, expected=known)
    return code
