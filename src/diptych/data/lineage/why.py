"""History of a row: its source, the decision of each step, its texts before and after, and why it was dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import rows_of_uid, table_names
from diptych.data.curated import is_curated
from diptych.data.lineage.record import lineage_of
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.mark import CURATION, DOWNLOAD, MANIFEST, is_built
from diptych.data.web.link_table import FILE as LINKS

LONGEST = 200
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class RowEvent:
    """Event of a row in one folder: a line for people, and its facts as plain values."""

    folder: str
    step: str
    line: str
    facts: dict[str, Any] = field(default_factory=dict)


def row_history(folder: Path, uid: str) -> list[RowEvent]:
    """Events of a row, the oldest first, over all folders from the first source to this one that are on this machine.

    Raises DataError if none of them knows the uid.
    """
    if not folder.exists():
        raise DataError("does not exist", file=folder, expected="a folder of data links, data download, data build or curate")
    visited: set[Path] = set()
    events = [event for each in _with_sources(folder, visited) for event in _events(each, uid)]
    if not events:
        paths = ", ".join(sorted(map(str, visited)))
        raise DataError(f"has no row '{uid}'", file=folder, expected=f"a uid of {paths}")
    return events


def _events(folder: Path, uid: str) -> Iterator[RowEvent]:
    """Events of a row in one folder, in order."""
    if (folder / LINKS).is_file() or folder.suffix == ".parquet":
        yield from _of_links(folder if folder.suffix == ".parquet" else folder / LINKS, uid)
    elif (folder / DOWNLOAD).is_file():
        yield from _of_download(folder, uid)
    elif is_built(folder):
        yield from _of_built(folder, uid)
    elif is_curated(folder):
        yield from _of_curation(folder, uid)
    for bad in read_quarantine(folder) if folder.is_dir() else ():
        if bad.uid == uid:
            yield RowEvent(str(folder), bad.stage, f"left out: {bad.reason}", {"reason": bad.reason, "file": bad.file})


def _of_links(file: Path, uid: str) -> Iterator[RowEvent]:
    for row in rows_of_uid(file, uid):
        page = f", on the page {row['page']}" if row.get("page") else ""
        licence = f", licence {row['licence']}" if row.get("licence") else ""
        step, line = ("data links", f"link to {row['url']}") if row.get("url") else ("read", "a row of this file")
        facts = {name: value for name, value in row.items() if not isinstance(value, bytes)}
        yield RowEvent(str(file), step, f"{line}{page}{licence}", facts)
        if row.get("text"):
            yield RowEvent(str(file), "text", f"text: {_short(row['text'])}", {"text": row["text"]})


def _of_download(folder: Path, uid: str) -> Iterator[RowEvent]:
    for table in sorted(path for path in folder.glob("*.parquet") if path.stem.isdigit()):
        for row in rows_of_uid(table, uid):
            stats = folder / f"{table.stem}_stats.json"
            times = json.loads(stats.read_text(encoding="utf-8")) if stats.is_file() else {}
            facts = {**row, **{name: times[name] for name in ("start_time", "end_time") if name in times}}
            final = f", which led to {row['final_url']}" if row.get("final_url") not in (None, row["url"]) else ""
            if row["status"] == "success":
                size = f"{row['original_width']} x {row['original_height']} stored as {row['width']} x {row['height']}"
                line = f"downloaded from {row['url']}{final}: {size}, sha256 {row['sha256'][:16]}"
            else:
                line = f"not downloaded from {row['url']}{final}: {row['error_kind']}: {row['error_message']}"
            yield RowEvent(str(table), "data download", line, facts)


def _of_built(folder: Path, uid: str) -> Iterator[RowEvent]:
    for row in rows_of_uid(folder / MANIFEST, uid):
        plain = {name: value for name, value in row.items() if value not in (None, "")}
        facts = [f"{name} {plain[name]}" for name in ("split", "licence", "source", "group") if name in plain]
        yield RowEvent(str(folder), "data build", ", ".join([f"stored in {plain.get('shard', '')}", *facts]), plain)
        yield from _texts(folder, uid)


def _of_curation(folder: Path, uid: str) -> Iterator[RowEvent]:
    """Verdict of each step, and what it made for the row."""
    names = table_names(folder)
    steps = [step["slug"] for step in read_object(folder / CURATION)["steps"]]
    for number, slug in enumerate(steps):
        name = f"step_{number:02d}_{slug}"
        if name not in names:
            continue
        for row in rows_of_uid(folder / TABLES / f"{name}.parquet", uid):
            words = "kept" if row["kept"] else f"dropped: {row['reason']}"
            yield RowEvent(str(folder), slug, words, {"kept": row["kept"], "reason": row["reason"]})
        for column in (one for one in names if one.startswith(f"{name}-")):
            for row in rows_of_uid(folder / TABLES / f"{column}.parquet", uid):
                made = column.removeprefix(f"{name}-")
                value = {key: one for key, one in row.items() if key != "uid"}
                shown = value.get(made, value)
                yield RowEvent(str(folder), slug, f"{made}: {_short(shown)}", {made: shown})


def _texts(folder: Path, uid: str) -> Iterator[RowEvent]:
    file = folder / TABLES / "texts.parquet"
    for row in rows_of_uid(file, uid) if file.is_file() else ():
        kind = ", ".join(filter(None, (row.get("origin") or "text", row.get("language"))))
        yield RowEvent(str(folder), "text", f"text ({kind}): {_short(row['string'])}", row)


def _with_sources(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """A folder after the sources of all steps that led to it, as far as they lie on this machine, each once."""
    if folder.resolve() in visited:
        return
    visited.add(folder.resolve())
    addresses = [step.source for step in lineage_of(folder)]
    if is_curated(folder):
        addresses.append(str(read_object(folder / CURATION).get("input", {}).get("source") or ""))
    for address in addresses:
        if address and "://" not in address and (source := Path(address).expanduser()).exists():
            yield from _with_sources(source, visited)
    yield folder


def _short(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 3]}..."
