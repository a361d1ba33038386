"""Open data by address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from diptych.core.errors import RunError, UnknownName
from diptych.core.run_folder import RunFolder
from diptych.data.dataset import Pool
from diptych.data.read.read_options import LONGEST_TEXT, MOST_COLUMNS, UNPACKED_BYTES
from diptych.worlds.address import open_data, split_names, training_rows, with_held_out


def read(
    source: object,
    *,
    split: str = "",
    columns: Mapping[str, Any] | None = None,
    image: str | None = None,
    text: str | Sequence[str] | Mapping[str, str] | None = None,
    media: Mapping[str, str] | None = None,
    uid: str | None = None,
    group: str | None = None,
    licence: str | None = None,
    origin: str | None = None,
    language: str | None = None,
    root: str | Path | None = None,
    name: str = "",
    format: str = "",
    follow_links: bool = False,
    inside: str | Path = "",
    delimiter: str = "",
    encoding: str = "",
    captions: bool = True,
    longest_text: int = LONGEST_TEXT,
    most_columns: int = MOST_COLUMNS,
    unpacked_bytes: int = UNPACKED_BYTES,
) -> Any:
    """Open image-text data of any format: a `Pool`, or a rendered world with the same interface.

    source   "emoji" (in the package), "world:NAME?options" (rendered), a folder, a CSV, TSV, JSONL or Parquet file, WebDataset tars,
             COCO or Karpathy JSON, a folder that `diptych data build` made, a Hugging Face `datasets` object, or a data set;
             a list of these is read as one data set, whose uids must differ
    split    only the rows of that split; if no split has that name, the column (or "folder") that holds the split of each row:
             then every row, with splits
    columns  which columns hold what, {"image": "path", "text": "caption"}; or as arguments of their own:
    image, text, media, uid, group, licence, origin, language
    root     the folder that image paths are relative to
    name     of the data, for reports
    captions  False keeps rows without a text where others have one
    format, follow_links, inside, delimiter, encoding, longest_text, most_columns, unpacked_bytes
             as in `diptych.data.read.read`
    Raises UnknownName for a split that is neither, DataError for data without splits.
    """
    given: dict[str, Any] = {
        "image": image, "text": text, "media": media, "uid": uid, "group": group, "licence": licence, "origin": origin,
        "language": language, "root": root, "name": name, "format": format, "follow_links": follow_links, "inside": inside,
        "delimiter": delimiter, "encoding": encoding, "captions": captions, "longest_text": longest_text, "most_columns": most_columns,
        "unpacked_bytes": unpacked_bytes,
    }  # fmt: skip
    if strange := sorted(set(columns or {}) - {*_USUAL, "split"}):
        raise UnknownName("part of a sample", strange[0], [*_USUAL, "split"])
    chosen = {option: value for option, value in given.items() if value != _USUAL[option]}
    data = open_data(source, **{**(columns or {}), **chosen})
    if split and split not in split_names(data) and isinstance(data, Pool) and split in data.column_names:
        return data.with_columns({"split": ["" if value is None else str(value) for value in data.column(split)]})
    return data.split(split) if split else data


_USUAL = {
    option: parameter.default
    for option, parameter in signature(read).parameters.items()
    if option not in ("source", "split", "columns")
}
"""Options of `read` with the values that they have where none is given."""


def read_recorded(source: str, where: object, columns: Any = None) -> Any:
    """Data by the address that a file names: on this machine only, for the file may come from anybody. Raises RunError for others.

    columns  their names in the file, such as {"image": "where"}
    """
    options = columns if isinstance(columns, dict) else {}
    if "://" in source or "://" in str(options):
        raise RunError(
            f"{where} names the data {source[:200]}, which are on another machine; for safety, an address in a file is not opened: "
            "give the data yourself (data=)"
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
