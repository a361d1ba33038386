"""`read`: data of any usual layout as a `Pool`. See the page "Data formats" for every layout with an example."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from diptych.core.disk.files import restore
from diptych.core.disk.paths import escapes_folder, file_problem, near_sibling, path_problem, printable
from diptych.core.disk.remote_folder import open_remote
from diptych.core.errors import DataError
from diptych.data.curated import is_curated, open_curated
from diptych.data.dataset import Pool
from diptych.data.graphs import format_of, format_within
from diptych.data.graphs import read as read_graphs
from diptych.data.graphs.formats.social_pairs import RELATIONS as SOCIAL_PAIRS
from diptych.data.graphs.formats.social_pairs import read_social_pairs
from diptych.data.mapped import is_mapped, open_mapped
from diptych.data.planning.files import FORMAT as TRIALS
from diptych.data.planning.files import holds as holds_trials
from diptych.data.planning.files import read_trials
from diptych.data.probes import FORMATS as PROBES
from diptych.data.probes import format_of as probe_of
from diptych.data.probes import read_probe
from diptych.data.problems.files import FORMATS as PROBLEMS
from diptych.data.problems.files import format_of as problems_of
from diptych.data.problems.files import read_problems
from diptych.data.quarantine import QuarantineEntry
from diptych.data.quizzes import FORMATS as QUIZZES
from diptych.data.quizzes import format_of as quiz_of
from diptych.data.quizzes import read_quiz
from diptych.data.read.articles import FORMAT as ARTICLES
from diptych.data.read.articles import articles_of, is_article, read_articles
from diptych.data.read.coco import captions_within, read_json, read_market
from diptych.data.read.documents import documents_of, read_documents
from diptych.data.read.folder import LOOKED_FOR, read_folder
from diptych.data.read.folder_probe import FolderProbe, probe_folder, tables_of
from diptych.data.read.geotiffs import is_geotiff_format, read_geotiffs
from diptych.data.read.hf import is_hub, read_hub
from diptych.data.read.image_sets import holds as image_sets
from diptych.data.read.image_sets import read_image_sets
from diptych.data.read.inside import OWN_FOLDER, confined_to, own_folder
from diptych.data.read.layouts.chest_tables import FORMATS as CHESTS
from diptych.data.read.layouts.chest_tables import read_chest_table
from diptych.data.read.layouts.exemplars import holds as holds_exemplars
from diptych.data.read.layouts.exemplars import read_exemplars
from diptych.data.read.layouts.image_folder import METADATA, read_image_folder, split_metadata
from diptych.data.read.layouts.unread import unread_note
from diptych.data.read.links import holds_web_links, read_links
from diptych.data.read.multi_context import holds as multi_context
from diptych.data.read.multi_context import read_multi_context
from diptych.data.read.objects import read_object
from diptych.data.read.persons import is_market
from diptych.data.read.read_options import ReadOptions
from diptych.data.read.tables import SUFFIXES, fetch_table, read_tables
from diptych.data.read.tars import read_tars
from diptych.data.shards.build import open_built
from diptych.data.shards.mark import is_built, refuse_unfinished

ANNOTATIONS = (".json", ".csv", ".h5", ".txt")
A_SOURCE = (
    "a path, a datasets.Dataset, a DataFrame, an Arrow table, a data set of torch, or a list of pairs, of rows or of Sample"
)


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
    follow_links: bool = False,
    inside: str | Path = "",
    delimiter: str = "",
    encoding: str = "",
    captions: bool = True,
    longest_text: int = 2**20,
    most_columns: int = 1_000,
    unpacked_bytes: int = 2**30,
) -> Pool:
    """Read image-text data. Nothing is decoded or downloaded; what cannot be used is in `.quarantine`, with a reason.

    source    a folder, a table (.csv, .tsv, .jsonl, .parquet), tars (a file, a folder, ``{000..009}.tar``, ``*.tar``), COCO or
              Karpathy JSON, persons (CUHK-PEDES, ICFG-PEDES, RSTPReid, SYNTH-PEDES, Market-1501), scene graphs (Visual Genome,
              HICO-DET, V-COCO, VG150, PSG, Open Images, COCO with relations), a published probe (ARO, SugarCrepe, VL-Checklist,
              Winoground), published questions (II-Bench, NLVR2, Q-Spatial, MUIRBench), MC-Bench, ImageCoDe, SGL's trials, problems
              (bAbI, tables of Sudoku), exemplars of a relation
              (pictures with text.json), a folder of HTML or Markdown documents with their pictures, articles of
              PubMed Central (.nxml with pictures beside it, or PMC....tar.gz), a folder made by `build`, "emoji"; or what is in
              memory: a `datasets` object, a pandas or polars DataFrame, an Arrow table, a data set of torch, a list of pairs
              (image, text), of dicts, or of `Sample`
    image     column of the image: a path relative to the table, or bytes
    text      column or columns of texts; a mapping gives each its language: ``{"title_de": "de", "title_en": "en"}``
    media     what else is there: a column of a table, or an ending of file names in a folder or tar, and its kind:
              ``{"points": "cloud"}``, ``{"npy": "volume"}``
    uid, group, split, licence, origin (where a sample comes from: its `source`)
              columns (or JSON keys) with these; a folder's sub-folders answer to "folder", also as `text`: classes
    language  a column, or a code such as "en" for all texts
    root      the folder that image paths are relative to
    delimiter  what stands between the fields of a .csv; "" takes the comma, or what the header shows: semicolon, tab or bar
    encoding  of a .csv or .tsv, such as "gb18030"; "" is UTF-8, and for tables named after RSICD, which are published so, GB 18030
    captions  a row without text is left out where others have some, since training needs one; False keeps it, as an index does
    longest_text, most_columns, unpacked_bytes
              limits for files of strangers: bytes of a text (a longer one is left out), columns of a JSONL table or of JSON beside
              pictures (a row that would bring more is left out), bytes in memory of a Parquet table that takes over 100 times those of
              its file (it is refused)
    format    one of `FORMATS` of `data.graphs`, `data.probes`, `data.quizzes`, `data.problems.files`, "pipa", "pisc", "pmc", or
              of a table of chest X-rays (`data.read.layouts.chest_tables`), where the form is not recognised or there are two;
              "geotiff" reads GeoTIFF (`data.read.geotiffs`)
    follow_links
              read also what symbolic links lead to outside of the folder that is given; without it, such a file is left out
    inside    a folder that the data may not name files outside of, by an absolute path, "..", or a link: such a row is left out, and
              nothing of the file is read; "own" is the folder of the data, or `root`. "" sets no limit to a file or folder, and is
              "own" for a table from afar
    A folder that an interrupted build or download left is refused, and so is one that holds two kinds of data (tars and pictures, say):
    neither is silently taken for the whole. Without names the usual ones are taken; if two fit, the error lists the columns.
    """
    options = ReadOptions.of(
        image,
        text,
        media,
        uid=uid,
        group=group,
        split=split,
        licence=licence,
        source=origin,
        language=language,
        follow_links=follow_links,
        delimiter=delimiter,
        encoding=encoding,
        captions=captions,
        limits={"longest_text": longest_text, "most_columns": most_columns, "unpacked_bytes": unpacked_bytes},
    )
    folder = Path(root).expanduser() if root is not None else None
    limit = str(inside)
    if not limit and isinstance(source, str) and "://" in source:
        limit = OWN_FOLDER
    pool, own = _open(source, options, name, folder, format, str(inside))
    if not limit or (limit == OWN_FOLDER and own is None):
        return pool
    return confined_to(pool, own if limit == OWN_FOLDER and own is not None else Path(limit).expanduser())


def _open(
    source: Any, options: ReadOptions, name: str, folder: Path | None, format: str, inside: str
) -> tuple[Pool, Path | None]:
    """Pool of a source, and the folder that its files are in; None if it names none, or has been confined already."""
    if isinstance(source, Pool):
        return (source.named(name) if name else source), folder
    if is_hub(source):
        return read_hub(source, options, name=name or "datasets"), folder
    if not isinstance(source, str | Path):
        made = read_object(source, options, name=name, root=folder)
        if made is None:
            raise DataError(f"cannot read a {type(source).__name__}", expected=A_SOURCE)
        return made, folder
    if source == "emoji":
        return _emoji(name), None
    address = str(source)
    if "://" in address:
        if not address.lower().endswith(SUFFIXES):
            return _open_remote(address, options, name, folder, format)
        table = fetch_table(address)
        return read_tables([table], options, name=name or Path(address).stem, root=folder), own_folder(table, folder)
    path = Path(source).expanduser()
    if fault := path_problem(str(path)):
        raise DataError(f"is {fault}", file=printable(str(path)[:80]), expected="a path")
    if path.is_dir() and is_curated(path) and not is_built(path):
        restore(path)
        refuse_unfinished(path)
        return open_curated(path, partial(read, follow_links=options.follow_links, inside=inside)), None
    return _open_path(path, options, name, folder, format), own_folder(path, folder)


def _open_remote(address: str, options: ReadOptions, name: str, folder: Path | None, format: str) -> tuple[Pool, Path]:
    """Pool of a folder in object storage: one that `build` made, or tars."""
    if address.lower().endswith(".tar"):
        raise DataError(
            "only tables and folders can be read from a remote address", file=address, expected="the folder of the tars"
        )
    path = open_remote(address)
    if not is_built(path) and not any(path.rglob("*.tar")):
        raise DataError(
            "is not a kind of folder that can be read from a remote address",
            file=address,
            expected=f"a folder of `diptych data build`, tars, or a table ({', '.join(SUFFIXES)})",
        )
    return _open_path(path, options, name or address.rstrip("/").rpartition("/")[2], folder, format), path


def _open_path(path: Path, options: ReadOptions, name: str, folder: Path | None, format: str) -> Pool:
    """Pool of a file, a folder, or a pattern of files."""
    address = str(path)
    restore(path)  # where a replacement was killed between its two steps
    if path.is_dir():
        refuse_unfinished(path)
    if path.exists() and (format == ARTICLES or (not format and path.is_file() and is_article(path))):
        return _of_articles(path, options, name)
    if path.exists() and is_geotiff_format(format):
        return read_geotiffs(path, format, name=name or path.stem, within=options.within(path) if path.is_dir() else None)
    if path.is_dir() and not is_built(path) and not is_curated(path) and (probe := _probe(path, format)):
        return _probes(path, options, name, folder, probe)
    if path.is_file() and (format == "mc_bench" or (not format and multi_context(path))):
        return read_multi_context(path, name=name, root=folder)
    if format == "imagecode" or (not format and path.exists() and not is_built(path) and image_sets(path)):
        return read_image_sets(path, name=name, root=folder)
    if format in CHESTS:
        return read_chest_table(path, format, name=name, root=folder)
    if format in SOCIAL_PAIRS:
        return read_social_pairs(path, format, name=name, root=folder)
    if format == TRIALS or (not format and path.is_dir() and not is_built(path) and holds_trials(path)):
        return read_trials(path, name=name)
    if not format and path.is_dir() and not is_built(path) and holds_exemplars(path):
        return read_exemplars(path, name=name, within=options.within(path))
    if path.is_file() and (quiz := format if format in QUIZZES else quiz_of(path) if not format else ""):
        return read_quiz(path, quiz, name=name, root=folder)
    if (
        path.exists()
        and not is_built(path)
        and (problems := format if format in PROBLEMS else problems_of(path) if not format else "")
    ):
        return read_problems(path, problems, name=name)
    if path.exists() and not is_built(path) and not is_curated(path) and (chosen := format or format_of(path)):
        return _graphs(path, options, name, folder, chosen)
    if not format and path.exists() and not is_built(path) and options == ReadOptions() and holds_web_links(path):
        return _links(path, name)
    if path.is_dir():
        return _directory(path, options, name or path.resolve().name, folder)
    if path.is_file():
        return _files([path], options, name or path.stem, folder)
    if paths := expand(address):
        return _files(paths, options, name or path.parent.resolve().name, folder)
    raise _missing(path)


def _links(path: Path, name: str) -> Pool:
    """Pairs whose pictures are not there yet, with a note on what fetches them."""
    pool = read_links(path, name=name or path.resolve().stem)
    pool.notes.append(f"{len(pool):,} pairs of a text and a web address, without pictures: diptych data download {path} SHARDS")
    return pool


def expand(pattern: str) -> list[Path]:
    """Files that match a pattern, sorted: braces ``{000..011}`` and ``{a,b}`` first, then ``*``, ``?`` and ``[..]``.

    A brace pattern that names a file that is not there is an error, so that a missing shard is noticed.
    """
    braced = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if i % 2 == 0 else _alternatives(part) for i, part in enumerate(braced)]
    paths: list[Path] = []
    for parts in product(*choices):
        plain = str(Path("".join(parts)).expanduser())
        matches = sorted(glob.glob(plain, recursive=True)) if glob.has_magic(plain) else [plain] * Path(plain).is_file()
        if not matches and len(braced) > 1:
            raise DataError("does not exist", file=plain, expected=f"every file of {pattern}")
        paths += [Path(file) for file in matches]
    return paths


def _alternatives(inside: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        low, high = bounds.groups()
        return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return inside.split(",")


def _directory(path: Path, options: ReadOptions, name: str, root: Path | None) -> Pool:
    """Read a folder. If it could be read as several formats, the most specific one is tried first."""
    if is_built(path):
        if is_mapped(path):
            return open_mapped(path).named(name)
        return open_built(path, follow_links=options.follow_links).named(name)
    if is_curated(path):
        return open_curated(path, partial(read, follow_links=options.follow_links))
    if is_market(path):
        return read_market(path, options, name=name)
    tars = sorted(path.glob("*.tar")) or sorted(path.glob("*/*.tar"))
    tables, probe = tables_of(path), probe_folder(path)
    _one_kind(path, tars, tables, probe)
    metadata = next((path / file for file in METADATA if (path / file).is_file()), None)
    if metadata is not None:
        return _noted(read_tables(_own([metadata], path, options), options, name=name, root=root), path, [metadata])
    parts = split_metadata(path)
    if parts and not tars:
        return _noted(read_image_folder(path, _own(parts, path, options), options, name=name), path, parts)
    if tars:
        return _noted(read_tars(_own(tars, path, options), options, name=name), path, tars)
    if chosen := format_within(path):
        return _graphs(path, options, name, root, chosen)
    captions, other_json = captions_within(path) if not probe.sidecar and not tables else (None, [])
    if captions is not None:
        pool = read_json(_own([captions], path, options)[0], options, name=name, root=root)
        reason = f"was not read: the captions are those of {captions.name}; to read this file instead, give its path"
        pool.quarantine += [QuarantineEntry("", "read", reason, str(file)) for file in other_json]
        return pool
    if not probe.sidecar and not tables and len(dialogues := [file for file in other_json if quiz_of(file) == "llava"]) == 1:
        return _noted(read_quiz(_own(dialogues, path, options)[0], "llava", name=name, root=root), path, dialogues)
    if not probe.sidecar and not tables and articles_of(path):
        return _of_articles(path, options, name)
    if not probe.sidecar and not tables and (documents := documents_of(path)):
        return read_documents(path, documents, name=name, within=options.within(path))
    if probe.image and (probe.sidecar or not tables):
        return _noted(read_folder(path, options, name=name), path)
    if len(tables) == 1 or (tables and len({file.suffix for file in tables}) == 1 and tables[0].suffix == ".parquet"):
        return _noted(read_tables(_own(tables, path, options), options, name=name, root=root), path, tables)
    if tables:
        names = ", ".join(file.name for file in tables[:5])
        raise DataError(f"holds {len(tables)} tables ({names})", file=path, expected="one of them: give its path")
    return read_folder(path, options, name=name)  # which says what was looked for


def _noted(pool: Pool, folder: Path, used: Sequence[Path] = ()) -> Pool:
    """The pool, with a note on the metadata files of its folder that were not read."""
    if note := unread_note(folder, used, [bad.file for bad in pool.quarantine]):
        pool.notes.append(note)
    return pool


def _one_kind(path: Path, tars: list[Path], tables: list[Path], probe: FolderProbe) -> None:
    """Raise DataError, which names one file of each, for a folder with data of two kinds: either could be meant."""
    others: list[tuple[str, str]] = []
    if tars:
        others += [("the picture", probe.image)] if probe.image else []
        others += [("the table", table.name) for table in tables[:1]]
        others += [("annotations of the form", format_found)] if (format_found := format_within(path)) and not others else []
        if others:
            kind, name = others[0]
            tar = tars[0].relative_to(path)
            raise DataError(
                f"holds the tar {tar} and {kind} {name}", file=path, expected="one of both: move the other, or give its path"
            )
    elif probe.sidecar and tables:
        raise DataError(
            f"holds the table {tables[0].name} and pictures with texts beside them, such as {probe.sidecar}",
            file=path,
            expected="one of both: move the other, or give its path",
        )


def _own(files: list[Path], folder: Path, options: ReadOptions) -> list[Path]:
    """Files of a folder. Links that lead out of it are refused unless `follow_links` is set."""
    within = options.within(folder)
    for file in files:
        if within is not None and escapes_folder(file, within):
            raise DataError(f"is a link that leads out of {folder}", file=file, expected="--follow-links, or the file itself")
    return files


def _graphs(path: Path, options: ReadOptions, name: str, root: Path | None, format: str) -> Pool:
    if replace(options, follow_links=False, captions=True) != ReadOptions():
        raise DataError(f"{format} has no columns to choose from", file=path, expected="root=, name= and format= alone")
    if path.is_dir():
        _own([file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix in ANNOTATIONS], path, options)
    return read_graphs(path, format=format, name=name, root=root, within=options.within(path) if path.is_dir() else None)


def _probe(path: Path, format: str) -> str:
    """Name of the published probe in a folder; "" if there is none, or another format was given."""
    return format if format in PROBES else "" if format else probe_of(path)


def _probes(path: Path, options: ReadOptions, name: str, root: Path | None, format: str) -> Pool:
    if replace(options, follow_links=False, captions=True) != ReadOptions():
        raise DataError(f"{format} has no columns to choose from", file=path, expected="root=, name= and format= alone")
    return read_probe(path, format, name=name, root=root, within=options.within(path))


def _of_articles(path: Path, options: ReadOptions, name: str) -> Pool:
    if replace(options, follow_links=False, captions=True) != ReadOptions():
        raise DataError(f"{ARTICLES} has no columns to choose from", file=path, expected="name= and format= alone")
    paths = articles_of(path) if path.is_dir() else [path]
    if not paths:
        raise DataError("has no article", file=path, expected="files .nxml, or packages PMC....tar.gz")
    return read_articles(paths, name=name or path.resolve().name, within=options.within(path) if path.is_dir() else None)


def _files(paths: list[Path], options: ReadOptions, name: str, root: Path | None) -> Pool:
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".tar"}:
        return read_tars(paths, options, name=name)
    if kinds <= set(SUFFIXES):
        return read_tables(paths, options, name=name, root=root)
    if kinds == {".json"} and len(paths) == 1:
        return read_json(paths[0], options, name=name, root=root)
    if paths[0].name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise DataError(
            "is a compressed tar: its samples cannot be reached one by one", file=paths[0], expected="the .tar, unpacked once"
        )
    what = ", ".join(sorted(kinds))
    raise DataError(f"{what or 'no suffix'} is not a known format", file=paths[0], expected=f".tar, .json, {', '.join(SUFFIXES)}")


def _emoji(name: str) -> Pool:
    """Packaged emoji data: real, small, multilingual, in four drawing styles."""
    folder = Path(str(resources.files("diptych.data") / "emoji"))
    if not is_built(folder):
        raise DataError("the packaged emoji data are not there", file=folder, expected="a complete installation")
    return open_built(folder).named(name or "emoji")


def _missing(path: Path) -> DataError:
    fault = file_problem(str(path), None) if path.exists() else f"does not exist{near_sibling(path)}"
    return DataError(fault, file=path, expected=f"a table, a .tar, or a folder with {LOOKED_FOR}")
