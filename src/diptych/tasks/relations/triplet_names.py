"""Vocabularies of the relation protocols: objects, predicates, and the triplets seen in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.data.graphs.columns import GraphColumns
from diptych.data.vocabularies import vocabulary
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.relations.graph_arrays import PREFIX, GraphArrays, names_in

Triple = tuple[str, str, str]


def query_names(name: str, data: Sequence[Dataset]) -> tuple[list[str], list[str]]:
    """Objects and predicates of a published vocabulary; what it leaves open, or everything when `name` is "", from the data."""
    published = vocabulary(name) if name else None
    if published and published.objects and published.predicates:
        return list(published.objects), list(published.predicates)
    labels, named = zip(*(GraphColumns.of(each).names() for each in data), strict=True)
    objects, predicates = set[str]().union(*labels), set[str]().union(*named)
    return list(published.objects if published and published.objects else sorted(objects)), list(
        published.predicates if published else sorted(predicates)
    )


def vocabulary_of(records: pa.Table) -> tuple[list[str], list[str]]:
    """Objects and predicates that the model was asked for; of records made otherwise, the names that occur in them."""
    facts = facts_of(records)
    if "predicates_asked" in facts:
        return list(facts["objects_asked"]), list(facts["predicates_asked"])
    objects = {*names_in(records, "truth_label"), *names_in(records, "label")}
    return sorted(objects), sorted({*names_in(records, "truth_predicate"), *names_in(records, "predicate")})


def truth_and_prediction(records: pa.Table) -> tuple[GraphArrays, GraphArrays]:
    """Truth and prediction as `GraphArrays` with common codes."""
    objects, predicates = vocabulary_of(records)
    truth = GraphArrays.of(records, "truth", objects=objects, predicates=predicates)
    return truth, GraphArrays.of(records, "prediction", objects=objects, predicates=predicates)


def seen_triplets(source: str | Dataset | None) -> set[Triple] | None:
    """Training triplets (subject, predicate, object) of a data set, or of a JSON file that lists them; None when neither is given."""
    if source is None or source == "":
        return None
    if isinstance(source, str):
        return {_triple(entry, source, row) for row, entry in enumerate(_read_list(Path(source)))}
    return set(GraphColumns.of(source).triplets())


def with_unseen(records: pa.Table, seen: set[Triple]) -> pa.Table:
    """Records with a column `truth_unseen`: for each true relation, whether training never saw its three names together."""
    truth = GraphColumns.of_lists(records, PREFIX["truth"])
    unseen = pa.array([triplet not in seen for triplet in truth.named()], pa.bool_())
    return records.append_column("truth_unseen", truth.relations.with_column("unseen", unseen).lists("unseen"))


def _read_list(path: Path) -> list[Any]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON: {error}", file=path) from error
    if not isinstance(listed, list):
        raise DataError(f"holds {type(listed).__name__}", file=path, expected="a list of [subject, predicate, object]")
    return listed


def _triple(entry: Any, file: str, row: int) -> Triple:
    if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(name, str) for name in entry)):
        raise DataError(f"{entry!r} is not a triplet", file=file, row=row, expected="[subject, predicate, object], three strings")
    return entry[0], entry[1], entry[2]
