"""The names that a relation protocol asks for and scores: objects, predicates, and which triplets training has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.data.vocabularies import vocabulary
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.relations.graph_records import Ragged, names_in

Triple = tuple[str, str, str]


def names_asked(name: str, data: Sequence[Dataset]) -> tuple[list[str], list[str]]:
    """Objects and predicates of a published vocabulary; what it leaves open, or everything when `name` is "", from the data."""
    known = vocabulary(name) if name else None
    if known and known.objects and known.predicates:
        return list(known.objects), list(known.predicates)
    objects: dict[str, None] = {}
    predicates: dict[str, None] = {}
    for each in data:
        for row in range(len(each)):
            sample = each[row]
            objects.update(dict.fromkeys(region.label for region in sample.regions))
            predicates.update(dict.fromkeys(relation.predicate for relation in sample.relations))
    return list(known.objects if known and known.objects else sorted(objects)), list(
        known.predicates if known else sorted(predicates)
    )


def vocabulary_of(records: pa.Table) -> tuple[list[str], list[str]]:
    """Objects and predicates that the model was asked for; of records made otherwise, the names that occur in them."""
    facts = facts_of(records)
    if "predicates_asked" in facts:
        return list(facts["objects_asked"]), list(facts["predicates_asked"])
    objects = {*names_in(records, "truth_label"), *names_in(records, "label")}
    return sorted(objects), sorted({*names_in(records, "truth_predicate"), *names_in(records, "predicate")})


def sides(records: pa.Table) -> tuple[Ragged, Ragged]:
    """Truth and prediction as flat arrays with common codes."""
    objects, predicates = vocabulary_of(records)
    truth = Ragged.of(records, "truth", objects=objects, predicates=predicates)
    return truth, Ragged.of(records, "prediction", objects=objects, predicates=predicates)


def seen_triplets(source: str | Dataset | None) -> set[Triple] | None:
    """The (subject, predicate, object) of training data, or of a JSON file that lists them; None when neither is given."""
    if source is None or source == "":
        return None
    if isinstance(source, str):
        return {_triple(entry, source, row) for row, entry in enumerate(_listed(Path(source)))}
    return {triple for row in range(len(source)) for triple in source[row].graph.triplets()}


def with_unseen(records: pa.Table, seen: set[Triple]) -> pa.Table:
    """The records with a column `truth_unseen`: for each true relation, whether training never saw its three names together."""
    columns = [records.column(f"truth_{name}").to_pylist() for name in ("label", "subject", "predicate", "object")]
    unseen: Iterable[list[bool]] = (
        [(label[s], name, label[o]) not in seen for s, name, o in zip(subject, predicate, other, strict=True)]
        for label, subject, predicate, other in zip(*columns, strict=True)
    )
    return records.append_column("truth_unseen", pa.array(list(unseen), pa.list_(pa.bool_())))


def _listed(path: Path) -> list[Any]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON: {error}", file=path) from error
    if not isinstance(listed, list):
        raise DataError(f"holds {type(listed).__name__}", file=path, expected="a list of [subject, predicate, object]")
    return listed


def _triple(entry: Any, file: str, row: int) -> Triple:
    if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(name, str) for name in entry)):
        raise DataError(f"{entry!r} is no triplet", file=file, row=row, expected="[subject, predicate, object], three strings")
    return entry[0], entry[1], entry[2]
