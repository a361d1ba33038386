"""Tables of embeddings and search indexes that lie beside data and may hold vectors of some of their samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet
from diptych.data.curated import is_curated
from diptych.index.embedding_table import MARK, part_numbers
from diptych.index.facts import FILE


def vectors_nearby(data: Iterable[Path], uids: Iterable[str], hashes: Iterable[str], named: Iterable[Path]) -> list[str]:
    """Options of `diptych data takedown` for tables that have one of these samples or pictures, and for indexes of these data.

    data   the data and what was curated of them; folders beside the first one and in the working directory are looked at
    named  folders that were named already
    """
    sources, done = [folder.resolve() for folder in data], {folder.resolve() for folder in named}
    gone = {"uid": pa.array(sorted(uids), pa.string()), "content": pa.array(sorted(hashes), pa.string())}
    options = []
    for folder in sorted({one.resolve() for parent in (sources[0].parent, Path()) for one in parent.glob("*/")} - done):
        if any(_has_rows(mark.parent, gone) for mark in folder.glob(f"*/{MARK}")):
            options.append(f"--embeddings {folder}")
        elif (folder / FILE).is_file() and _may_be_of(folder, sources):
            options.append(f"--index {folder}")
    return options


def _has_rows(table: Path, gone: dict[str, pa.Array]) -> bool:
    """True if a table of embeddings has a row of these uids or contents, or cannot be read."""
    try:
        parts = [read_parquet(table / f"part-{number:05d}.parquet", list(gone)) for number in part_numbers(table)]
    except DataError:
        return True
    return any(pc.any(pc.is_in(rows[name], value_set=values)).as_py() for rows in parts for name, values in gone.items())


def _may_be_of(index: Path, sources: list[Path]) -> bool:
    """True for an index of one of these folders, of a curation, or of what it does not say."""
    try:
        facts = read_object(index / FILE)
        addresses = [str(address) for address in (facts["source"]["data"], *facts["added"])]
    except (ValueError, KeyError, TypeError):
        return True
    folders = [Path(address).expanduser().resolve() for address in addresses]
    return not all(addresses) or any(folder in sources or is_curated(folder) for folder in folders)
