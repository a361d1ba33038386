"""A folder of images, each with a text or JSON file of the same name beside it (as `img2dataset` writes them, or by hand)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.disk.paths import file_problem, is_utf8, read_file
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.media.images import LooseFiles
from diptych.data.media.table import MediaTable
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.media import MediaNames, NamedPart, parts_of
from diptych.data.read.naming import uid_of
from diptych.data.read.read_options import ReadOptions
from diptych.data.read.rows import Rows
from diptych.data.shards.sidecar import IMAGES, LARGEST, TEXTS, row_of

SIDECARS = (*TEXTS, "json")


def read_folder(root: Path, options: ReadOptions, *, name: str) -> Pool:
    """Every image and medium below `root`, in order of path. The sub-folder is kept as the extra "folder" (so ``group="folder"``
    works)."""
    rows = Rows(options.most_columns)
    relative_paths: list[str] = []
    bad: list[QuarantineEntry] = []
    paths: list[str | None] = []
    media: list[dict[str, Any]] = []
    named = MediaNames(options.media)
    within = options.within(root)
    for folder, subfolders, files in _walk(root, options.follow_links):
        inside = os.path.relpath(folder, root)
        inside = "" if inside == "." else inside.replace(os.sep, "/")
        subfolders[:] = _folders(folder, subfolders, options.follow_links, bad)
        files[:] = _files(folder, files, within, named, bad)
        held, spoiled = _media(Path(folder), inside, subfolders, files, named)
        images, beside = _by_stem(files)
        alone = sorted(held.keys() - {file.rpartition(".")[0] for file in images})
        for file in [*sorted(images), *(f"{stem}." for stem in alone)]:  # a stem of media alone ends in its dot
            relative = f"{inside}/{file}" if inside else file
            stem = file.rpartition(".")[0]
            uid, sidecars = uid_of(relative.rpartition(".")[0]), beside.get(stem, {})
            if file not in images or images[file]:
                beside.pop(stem, None)
            row = spoiled[stem].of(uid) if stem in spoiled else _row(folder, sidecars, uid, options)
            if isinstance(row, QuarantineEntry):
                bad.append(row)
                continue
            fault = rows.add({"folder": inside, **row} if inside or "folder" in (options.group, options.split) else row)
            if fault:
                bad.append(QuarantineEntry(uid, "read", fault, str(Path(folder, file))))
                continue
            media += [{**part, "row": len(paths)} for part in held.get(stem, ())]
            paths.append(relative if file in images else None)
            relative_paths.append(relative)
        for stem, left in sorted(beside.items()):
            if text := next((left[extension] for extension in TEXTS if extension in left), None):
                where = str(Path(folder, text))
                bad.append(QuarantineEntry(uid_of(f"{inside}/{stem}"), "read", "there is no image beside this text", where))
            elif not stem.endswith("_stats"):  # a report of img2dataset
                where = str(Path(folder, left["json"]))
                bad.append(QuarantineEntry("", "read", "no image has its name, and no captions can be read from it", where))
    if not paths and not bad:
        raise DataError("contains nothing to read", file=root, expected=LOOKED_FOR)
    if not paths:
        raise DataError(f"contains no usable image; first problem: {bad[0]}", file=root, expected=LOOKED_FOR)
    named.refuse_unused(root)
    source = SourceRows(
        name,
        rows.table(),
        str(root),
        images=LooseFiles(str(root), pa.array(paths, pa.string()), within),
        media=MediaTable.by_row(media, len(paths), root, within=within) if media else None,
        names=[relative.rpartition(".")[0] for relative in relative_paths],
        row_keys=relative_paths,
        bad=bad,
    )
    return assemble(source, options.with_caption(source.table))


def _walk(root: Path, follow_links: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that visits each real folder once: links may lead in circles."""
    seen = set[str]()
    for folder, subfolders, files in os.walk(root, followlinks=follow_links):
        if follow_links:
            real = os.path.realpath(folder)
            if real in seen:
                subfolders[:] = []
                continue
            seen.add(real)
        yield folder, subfolders, files


def _folders(folder: str, subfolders: Sequence[str], follow_links: bool, bad: list[QuarantineEntry]) -> list[str]:
    """Subfolders to read, sorted. Links, and names that no table can hold, are left out with a reason."""
    kept = []
    for sub in sorted(sub for sub in subfolders if not sub.startswith(".")):
        full_path = os.path.join(folder, sub)
        if not is_utf8(sub):
            bad.append(QuarantineEntry("", "read", "its name is not UTF-8, so nothing below it can be named", full_path))
        elif os.path.islink(full_path) and not follow_links:
            bad.append(QuarantineEntry("", "read", "is a link to a folder; --follow-links reads what it leads to", full_path))
        else:
            kept.append(sub)
    return kept


def _files(folder: str, files: Sequence[str], within: str | None, named: MediaNames, bad: list[QuarantineEntry]) -> list[str]:
    """The files that are files. Of the others, those that would be pictures, texts or media are left out with a reason."""
    kept = []
    for file in files:
        ours = file.rpartition(".")[2].lower() in (*IMAGES, *SIDECARS) or named.part(file) is not None
        if file.startswith(".") or not ours:
            continue
        full_path = os.path.join(folder, file)
        fault = file_problem(full_path, within) if is_utf8(file) else "its name is not UTF-8: rename it"
        if fault:
            bad.append(QuarantineEntry(uid_of(file.rpartition(".")[0]), "read", fault, full_path))
        else:
            kept.append(file)
    return kept


@dataclass(frozen=True, slots=True)
class _InvalidMedium:
    """A medium of which a part cannot be used, and with it the sample."""

    reason: str
    file: str

    def of(self, uid: str) -> QuarantineEntry:
        return QuarantineEntry(uid, "read", self.reason, self.file)


def _media(
    folder: Path, inside: str, subfolders: list[str], files: list[str], named: MediaNames
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, _InvalidMedium]]:
    """The parts of media by stem, in order, and what is wrong with some; their files and folders are taken off the lists."""
    parts: dict[str, list[tuple[NamedPart, str]]] = {}
    spoiled: dict[str, _InvalidMedium] = {}
    for sub in list(subfolders):
        if (whole := named.folder(sub)) is not None:
            subfolders.remove(sub)
            names = parts_of(folder / sub)
            if odd := next((name for name in names if not is_utf8(name)), None):
                spoiled[whole.key] = _InvalidMedium("the name of a part is not UTF-8: rename it", str(folder / sub / odd))
                names = ["0"]  # so that the sample is seen
            numbered = enumerate(names)
            parts.setdefault(whole.key, []).extend((replace(whole, number=n), f"{sub}/{file}") for n, file in numbered)
    part_by_file = {file: named.part(file) for file in files if not file.startswith(".")}
    files[:] = [file for file in files if part_by_file.get(file) is None]
    for file, part in part_by_file.items():
        if part is not None:
            parts.setdefault(part.key, []).append((part, file))
    rows = {
        key: [
            {"name": part.name, "medium": part.medium, "file": f"{inside}/{file}" if inside else file}
            for part, file in sorted(part_files, key=lambda one: (one[0].name, one[0].number, one[1]))
        ]
        for key, part_files in parts.items()
    }
    return rows, spoiled


LOOKED_FOR = (
    "images with a .txt or .json of the same name, other media (KEY.clip.gif, KEY.cloud.npy, ...), .tar shards, one .csv, .tsv, "
    ".jsonl or .parquet table, or a folder made by `diptych data build`"
)


def _by_stem(files: list[str]) -> tuple[dict[str, bool], dict[str, dict[str, str]]]:
    """Images (True: the last one of its stem, after which the sidecar is done with) and sidecars: stem -> extension -> file."""
    last: dict[str, str] = {}
    images: dict[str, bool] = {}
    beside: dict[str, dict[str, str]] = {}
    for file in sorted(files):
        stem, _, extension = file.rpartition(".")
        extension = extension.lower()
        if file.startswith(".") or not stem:
            continue
        if extension in IMAGES:
            images[file] = True
            if stem in last:
                images[last[stem]] = False
            last[stem] = file
        elif extension in SIDECARS:
            beside.setdefault(stem, {})[extension] = file
    return images, beside


def _row(folder: str, beside: dict[str, str], uid: str, options: ReadOptions) -> dict[str, Any] | QuarantineEntry:
    members, files = {}, {}
    for extension, file in beside.items():
        path = Path(folder, file)
        files[extension] = str(path)
        try:
            members[extension] = read_file(path, options.within(folder), most=LARGEST)
        except OSError as error:
            return QuarantineEntry(uid, "read", error.strerror or str(error), str(path))
    return row_of(members, uid, files, options)
