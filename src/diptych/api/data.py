"""Open data by address."""

from __future__ import annotations

from typing import Any

from diptych.core.errors import RunError
from diptych.worlds.address import open_data


def read(source: Any, *, split: str = "", **columns: Any) -> Any:
    """Open image-text data, whatever its form.

    source   "emoji" (in the package), "world:NAME?options" (rendered), a folder, a CSV, TSV, JSONL or Parquet file, WebDataset tars,
             COCO or Karpathy JSON, a folder that `diptych data build` made, a Hugging Face `datasets` object, or a data set
    split    only the rows of that split
    columns  which columns hold what: image=, text=, media=, group=, split=, uid=, licence=, language=
    """
    data = open_data(source, **columns)
    return data.split(split) if split else data


def read_recorded(source: str, where: object) -> Any:
    """Data by the address that a file names: on this machine only, for the file may come from anybody. Raises RunError for others."""
    if "://" in source:
        raise RunError(
            f"{where} names the data {source[:200]}, which lie on another machine, and nothing is fetched because a file says so: "
            "name them yourself (data=)"
        )
    return read(source)
