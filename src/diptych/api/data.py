"""Open data by address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych.worlds.address import open_data

if TYPE_CHECKING:
    pass


def read(source: Any, *, split: str = "", **columns: Any) -> Any:
    """Open image-text data, whatever its form.

    source   "emoji" (in the package), "world:NAME?options" (rendered), a folder, a CSV, TSV, JSONL or Parquet file, WebDataset tars,
             COCO or Karpathy JSON, a folder that `diptych data build` made, a Hugging Face `datasets` object, or a data set
    split    only the rows of that split
    columns  which columns hold what: image=, text=, media=, group=, split=, uid=, licence=, language=
    """
    data = open_data(source, **columns)
    return data.split(split) if split else data
