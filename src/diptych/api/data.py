"""Open data by address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import RunError
from diptych.core.run_folder import RunFolder
from diptych.worlds.address import open_data, training_rows, with_held_out


def read(source: Any, *, split: str = "", columns: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Open image-text data, whatever its form.

    source   "emoji" (in the package), "world:NAME?options" (rendered), a folder, a CSV, TSV, JSONL or Parquet file, WebDataset tars,
             COCO or Karpathy JSON, a folder that `diptych data build` made, a Hugging Face `datasets` object, or a data set;
             a list of these is read as one data set, whose uids must differ
    split    only the rows of that split
    columns  which columns hold what, {"image": "path", "text": "caption"}, also as arguments of their own: image=, text=, media=, group=,
             split=, uid=, licence=, language=; captions=False keeps rows without a text where others have one
    """
    data = open_data(source, **{**(columns or {}), **more})
    return data.split(split) if split else data


def read_recorded(source: str, where: object, columns: Any = None) -> Any:
    """Data by the address that a file names: on this machine only, for the file may come from anybody. Raises RunError for others.

    columns  what the file says of them, such as {"image": "where"}
    """
    options = columns if isinstance(columns, dict) else {}
    if "://" in source or "://" in str(options):
        raise RunError(
            f"{where} names the data {source[:200]}, which lie on another machine, and nothing is fetched because a file says so: "
            "name them yourself (data=)"
        )
    return read(source, **{str(name): value for name, value in options.items()})


def data_of(run: RunFolder, data: Any = None) -> Any:
    """The data of a run, with the rows that were held out for it. `data`: where the run names none, or another machine's; others than
    it was trained on are taken as they are."""
    source, columns = run.state.get("source", ""), run.state.get("columns")
    if data is None or (isinstance(data, str | Path) and str(data) == source):
        whole = read_recorded(source, run.path, columns) if data is None else read(data, **(columns or {}))
    else:
        whole = read(data)
    made = with_held_out(whole, held_out_share(run), val=run.state.get("held_out_val") is True)
    if data is None or made is whole or run.subset.is_file():
        return made
    return made if training_rows(made).fingerprint == run.state.get("data", {}).get("fingerprint") else whole


def held_out_share(run: RunFolder) -> float:
    """Share of the data without splits that a run held out; 0 for runs from before rows were held out."""
    share = run.state.get("held_out", 0.0)
    return share if isinstance(share, float) and 0.0 <= share <= 0.4 else 0.0
