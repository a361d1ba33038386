"""Sources of curation: any data set, and tables of links and texts that have no images yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.data.curated import is_curated, open_curated
from diptych.data.read.links import is_links, read_links
from diptych.worlds.address import open_data


def open_pool(source: Any) -> Any:
    """Data set of an address: a curated folder is its source less the dropped rows; links are a pool without images; the rest as
    `worlds.address`."""
    if isinstance(source, str | Path) and "://" not in str(source):
        path = Path(source).expanduser()
        if is_curated(path):
            return open_curated(path, open_pool)
        if path.exists() and is_links(path):
            return read_links(path)
    return open_data(source)
