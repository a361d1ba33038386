"""`read`: point it at data of any usual layout and get a `Pool`. See the page "Data formats" for every layout with an example."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.curated import is_curated, open_curated
from diptych.data.dataset import Pool
from diptych.data.graphs import format_of, format_within
from diptych.data.graphs import read as read_graphs
from diptych.data.read.coco import read_json
from diptych.data.read.folder import LOOKED_FOR, has_images, read_folder
from diptych.data.read.hf import is_hub, read_hub
from diptych.data.read.tables import SUFFIXES, fetch_table, read_tables
from diptych.data.read.tars import read_tars
from diptych.data.read.wanted import Wanted
from diptych.data.shards.build import is_built, open_built

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read(
    source: str | Path | object,
    *,
    image: str | None = None,
    text: str | Sequence[str] | Mapping[str, str] | None = None,
    media: Mapping[str, str] | None = None,
    uid: str | None = None,
    group: str | None = None,
    split: str | None = None,
    licence: str | None = None,
    origin: str | None = None,
    language: str | None = None,
    root: str | Path | None = None,
    name: str = "",
    format: str = "",
) -> Pool:
    """Read image-text data. Nothing is decoded or downloaded; what cannot be used is in `.quarantine`, with a reason.

    source    a folder, a table (.csv, .tsv, .jsonl, .parquet), tars (a file, a folder, ``{000..009}.tar``, ``*.tar``), COCO or
              Karpathy JSON, scene graphs (Visual Genome, HICO-DET, V-COCO, VG150, PSG, Open Images, COCO with relations), a folder
              made by `build`, "emoji", a `datasets` object, or a list of `Sample`
    image     column of the image: a path relative to the table, or bytes
    text      column or columns of texts; a mapping gives each its language: ``{"title_de": "de", "title_en": "en"}``
    media     what else is there: a column of a table, or an ending of file names in a folder or tar, and its kind:
              ``{"points": "cloud"}``, ``{"npy": "volume"}``
    uid, group, split, licence, origin (where a sample comes from: its `source`)
              columns (or JSON keys) with these; a folder's sub-folders answer to "folder"
    language  a column, or a code such as "en" for all texts
    root      the folder that image paths are relative to
    format    one of `data.graphs.FORMATS`, where a folder of scene graphs is not recognised or holds two forms
    Without names the usual ones are taken; if two fit, the error lists the columns.
    """
    wanted = Wanted.of(image, text, media, uid=uid, group=group, split=split, licence=licence, source=origin, language=language)
    folder = Path(root) if root is not None else None
    if isinstance(source, Pool):
        return source.named(name) if name else source
    if is_hub(source):
        return read_hub(source, wanted, name=name or "datasets")
    if isinstance(source, list | tuple) and source and all(isinstance(item, Sample) for item in source):
        return Pool.from_samples(source, name=name or "samples")
    if not isinstance(source, str | Path):
        raise DataError(f"cannot read a {type(source).__name__}", expected="a path, a datasets.Dataset or a list of Sample")
    if source == "emoji":
        return _emoji(name)
    address = str(source)
    if "://" in address:
        if not address.lower().endswith(SUFFIXES):
            raise DataError(
                "only tables are read from afar", file=address, expected=f"an address that ends in {', '.join(SUFFIXES)}"
            )
        return read_tables([fetch_table(address)], wanted, name=name or Path(address).stem, root=folder)
    path = Path(source).expanduser()
    if path.exists() and not is_built(path) and not is_curated(path) and (chosen := format or format_of(path)):
        return _graphs(path, wanted, name, folder, chosen)
    if path.is_dir():
        return _directory(path, wanted, name or path.resolve().name, folder)
    if path.is_file():
        return _files([path], wanted, name or path.stem, folder)
    if paths := expand(address):
        return _files(paths, wanted, name or path.parent.resolve().name, folder)
    raise _missing(path)


def expand(pattern: str) -> list[Path]:
    """The files that a pattern means, sorted: braces ``{000..011}`` and ``{a,b}`` first, then ``*``, ``?`` and ``[..]``.

    A brace pattern that names a file that is not there is an error, so that a missing shard is noticed.
    """
    braced = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if i % 2 == 0 else _alternatives(part) for i, part in enumerate(braced)]
    paths: list[Path] = []
    for parts in product(*choices):
        plain = str(Path("".join(parts)).expanduser())
        found = sorted(glob.glob(plain, recursive=True)) if glob.has_magic(plain) else [plain] * Path(plain).is_file()
        if not found and len(braced) > 1:
            raise DataError("does not exist", file=plain, expected=f"every file of {pattern}")
        paths += [Path(file) for file in found]
    return paths


def _alternatives(inside: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        low, high = bounds.groups()
        return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return inside.split(",")


def _directory(path: Path, wanted: Wanted, name: str, root: Path | None) -> Pool:
    """What a folder holds, the most telling first."""
    if is_built(path):
        return open_built(path).named(name)
    if is_curated(path):
        return open_curated(path, read)
    for file in _METADATA:
        if (path / file).is_file():
            return read_tables([path / file], wanted, name=name, root=root)
    if tars := sorted(path.glob("*.tar")) or sorted(path.glob("*/*.tar")):
        return read_tars(tars, wanted, name=name)
    if chosen := format_within(path):
        return _graphs(path, wanted, name, root, chosen)
    image, sidecar = has_images(path)
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if image and (sidecar or not tables):
        return read_folder(path, wanted, name=name)
    if len(tables) == 1 or (tables and len({file.suffix for file in tables}) == 1 and tables[0].suffix == ".parquet"):
        return read_tables(tables, wanted, name=name, root=root)
    if tables:
        names = ", ".join(file.name for file in tables[:5])
        raise DataError(f"holds {len(tables)} tables ({names})", file=path, expected="one of them: give its path")
    return read_folder(path, wanted, name=name)  # which says what was looked for


def _graphs(path: Path, wanted: Wanted, name: str, root: Path | None, format: str) -> Pool:
    if wanted != Wanted():
        raise DataError(f"{format} has no columns to choose from", file=path, expected="root=, name= and format= alone")
    return read_graphs(path, format=format, name=name, root=root)


def _files(paths: list[Path], wanted: Wanted, name: str, root: Path | None) -> Pool:
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".tar"}:
        return read_tars(paths, wanted, name=name)
    if kinds <= set(SUFFIXES):
        return read_tables(paths, wanted, name=name, root=root)
    if kinds == {".json"} and len(paths) == 1:
        return read_json(paths[0], wanted, name=name, root=root)
    if paths[0].name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise DataError(
            "is a compressed tar: its samples cannot be reached one by one", file=paths[0], expected="the .tar, unpacked once"
        )
    what = ", ".join(sorted(kinds))
    raise DataError(
        f"{what or 'no suffix'} is no format that is known", file=paths[0], expected=f".tar, .json, {', '.join(SUFFIXES)}"
    )


def _emoji(name: str) -> Pool:
    """The packaged data: real, small, multilingual, in four drawing styles."""
    folder = Path(str(resources.files("diptych.data") / "emoji"))
    if not is_built(folder):
        raise DataError("the packaged emoji data are not there", file=folder, expected="a complete installation")
    return open_built(folder).named(name or "emoji")


def _missing(path: Path) -> DataError:
    parent = path.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    hint = f"; did you mean '{parent / near[0]}'?" if near else ""
    return DataError(f"does not exist{hint}", file=path, expected=f"a table, a .tar, or a folder with {LOOKED_FOR}")
