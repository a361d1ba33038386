"""A curated data set: the rows of its source that `diptych curate` kept. No image is copied.

The folder names its source, and holds who was removed and the columns that steps made (`data.columns`). Opened again, the columns
that name a text ("balanced_text", "repaired_text", "masked_texts") stand instead of the texts of the source, those of `text_variants`
after them, and those of `tagged_relations` instead of its relations; lists and numbers become extras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.config import config_hash
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file
from diptych.core.errors import DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import read_table, table_names
from diptych.data.dataset import Pool
from diptych.data.regions import RELATION_SCHEMA
from diptych.data.shards.build import open_built
from diptych.data.shards.lineage import former_fingerprints, taken_down_uids
from diptych.data.shards.mark import CURATION as MARK
from diptych.data.shards.mark import is_built
from diptych.data.text.captions.variants import MASKED, VARIANTS, variant_rows

TEXT_COLUMNS = {"balanced_text": "alt", "repaired_text": "rewrite"}
"""Columns that replace texts, with the origin of what they hold."""

RELATIONS = "tagged_relations"
"""The column of relations: lists of {subject, predicate, object, confidence}."""


def is_curated(path: Path) -> bool:
    """True if a folder is the output of `diptych curate`."""
    return (path / MARK).is_file()


def open_curated(path: Path, read: Callable[[Any], Any]) -> Pool:
    """`read` opens the source by its address. Raises DataError when the source has changed since, other than by takedowns: then the
    curation is open without the samples that were taken down, and a note says so."""
    facts = _facts(path)
    source = facts["input"].get("source")
    if source and "://" in source:
        raise DataError(
            f"names its source {source[:200]}, which is on another machine; for safety, an address in a file is not opened",
            file=path / MARK,
            expected="a source on this machine: curate a copy of it",
        )
    if not source:
        raise DataError("was made from an object, not from an address", file=path / MARK, expected="a source to read again")
    pool = read(source)
    if not isinstance(pool, Pool):
        raise DataError(f"comes from '{source}', which is rendered", file=path / MARK, expected="data that lie on disk")
    changed = pool.fingerprint != facts["input"]["fingerprint"]
    if changed and not _is_known_subset(facts["input"], pool.fingerprint):
        raise DataError(
            f"'{source}' has changed (fingerprint {pool.fingerprint})",
            file=path / MARK,
            expected=f"{facts['input']['fingerprint']}; curate it again",
        )
    pool = pool.exclude({*read_table(path, "removed").table["uid"].to_pylist(), *taken_down_uids(path)})
    for name in _in_order(facts["columns"], table_names(path)):
        if name in table_names(path):
            pool = with_made_column(pool, name, read_table(path, name).table.replace_schema_metadata(None))
    pool = pool.named(path.name)
    if changed:
        pool.notes.append(f"samples of '{source}' were taken down after this curation, which is open without them")
    return pool


def with_made_column(pool: Pool, name: str, table: pa.Table) -> Pool:
    """The pool with a column that a step made, of "uid" and values: texts, rewrites and relations in the place of its own, anything else
    as a further column unless there is one of that name."""
    if name in TEXT_COLUMNS:
        texts = pa.table({"uid": table["uid"], "string": table[name], "origin": [TEXT_COLUMNS[name]] * table.num_rows})
        return pool.with_table(texts, replace=True)
    if name == MASKED:
        return pool.with_table(variant_rows(table, MASKED), replace=True)
    if name == VARIANTS:
        return pool.with_table(variant_rows(table))
    if name == RELATIONS:
        return pool.with_table(_relations(table), replace=True)
    return pool if name in pool.column_names else pool.with_table(table)


def _in_order(columns: Sequence[str], tables: Sequence[str]) -> list[str]:
    """Columns in the order in which they are joined: by name, and by step where texts are masked, so that masked ones replace all texts of
    earlier steps."""
    if MASKED not in columns:
        return list(columns)
    step_of = {table.partition("-")[2]: table for table in sorted(tables) if table.startswith("step_")}
    return sorted(columns, key=lambda name: (step_of.get(name, ""), name))


def curation_id(path: Path) -> str:
    """Hash of what a curation did to which data: the same after a takedown."""
    facts = _facts(path)
    return config_hash([facts["input"]["fingerprint"], facts.get("steps"), facts.get("output")])


def _is_known_subset(given: dict[str, Any], now: str) -> bool:
    """True if the source of a curation, whose fingerprint is `now`, is the one it was made of less what was taken down since."""
    source = Path(given["source"])
    if not is_curated(source):
        return given["fingerprint"] in former_fingerprints(source, now)
    before = _facts(source)
    if given.get("curation") != curation_id(source):
        return False
    root = Path(before["input"].get("source") or "")
    if is_curated(root):
        return _is_known_subset(before["input"], "")
    return is_built(root) and before["input"]["fingerprint"] in former_fingerprints(root, open_built(root).fingerprint)


def _facts(path: Path) -> dict[str, Any]:
    """The metadata file that curation wrote, with its fields type-checked."""
    file = path / MARK
    try:
        facts = read_object(file)
    except ValueError as error:
        raise DataError(str(error), file=file, expected="what `diptych curate` wrote") from error
    given = facts.get("input")
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("source", ""), str)
        or not isinstance(given.get("fingerprint"), str)
    ):
        raise DataError("has no record of its input", file=file, field="input", expected="source and fingerprint")
    if not isinstance(facts.get("columns"), list) or not all(isinstance(name, str) for name in facts["columns"]):
        raise DataError("is not a list of names", file=file, field="columns", expected="what `diptych curate` wrote")
    if not is_file(path / TABLES / "removed.parquet"):
        raise DataError(f"has no {TABLES}/removed.parquet", file=path, expected="a curation that came to its end: run it again")
    return facts


def _relations(table: pa.Table) -> pa.Table:
    """Relations with one row each, from a table with one row per uid."""
    lists = table[RELATIONS].combine_chunks()
    each = pc.list_flatten(lists)
    uids = table["uid"].take(pc.list_parent_indices(lists))
    columns = [uids, *(pc.struct_field(each, field.name).cast(field.type) for field in list(RELATION_SCHEMA)[1:])]
    return pa.table(columns, schema=RELATION_SCHEMA)
