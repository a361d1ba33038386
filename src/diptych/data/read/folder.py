"""A folder of images, each with a text or JSON file of the same name beside it (as `img2dataset` writes them, or by hand)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.media.images import LooseFiles
from diptych.data.media.table import MediaTable
from diptych.data.quarantine import Bad
from diptych.data.read.assemble import Found, assemble
from diptych.data.read.media import MediaNames, NamedPart, parts_of
from diptych.data.read.naming import uid_of
from diptych.data.read.rows import Rows
from diptych.data.read.wanted import Wanted
from diptych.data.shards.sidecar import IMAGES, TEXTS, row_of

SIDECARS = (*TEXTS, "json")


def read_folder(root: Path, wanted: Wanted, *, name: str) -> Pool:
    """Every image and medium below `root`, in order of path. The sub-folder is kept as the extra "folder" (so ``group="folder"``
    works)."""
    rows, places, bad = Rows(), [], []
    paths: list[str | None] = []
    media: list[dict[str, Any]] = []
    named = MediaNames(wanted.media)
    for folder, subfolders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        inside = "" if inside == "." else inside.replace(os.sep, "/")
        held = _media(Path(folder), inside, subfolders, files, named)
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        images, beside = _by_stem(files)
        alone = sorted(held.keys() - {file.rpartition(".")[0] for file in images})
        for file in [*sorted(images), *(f"{stem}." for stem in alone)]:  # a stem of media alone ends in its dot
            place = f"{inside}/{file}" if inside else file
            stem = file.rpartition(".")[0]
            row = _row(
                folder,
                beside.get(stem, {}) if file in images and not images[file] else beside.pop(stem, {}),
                uid_of(place.rpartition(".")[0]),
                wanted,
            )
            if isinstance(row, Bad):
                bad.append(row)
                continue
            media += [{**part, "row": len(paths)} for part in held.get(stem, ())]
            paths.append(place if file in images else None)
            places.append(place)
            rows.add({"folder": inside, **row} if inside or "folder" in (wanted.group, wanted.split) else row)
        for stem, left in sorted(beside.items()):
            if text := next((left[extension] for extension in TEXTS if extension in left), None):
                where = str(Path(folder, text))
                bad.append(Bad(uid_of(f"{inside}/{stem}"), "read", "there is no image beside this text", where))
    if not paths and not bad:
        raise DataError("holds nothing to read", file=root, expected=LOOKED_FOR)
    if not paths:
        raise DataError(f"holds no usable image; first problem: {bad[0]}", file=root, expected=LOOKED_FOR)
    named.refuse_unused(root)
    found = Found(
        name,
        rows.table(),
        str(root),
        images=LooseFiles(str(root), pa.array(paths, pa.string())),
        media=MediaTable.by_row(media, len(paths), root) if media else None,
        names=[place.rpartition(".")[0] for place in places],
        places=places,
        bad=bad,
    )
    return assemble(found, wanted.with_caption(found.table))


def _media(
    folder: Path, inside: str, subfolders: list[str], files: list[str], named: MediaNames
) -> dict[str, list[dict[str, Any]]]:
    """The parts of media by stem, in order; their files and folders are taken off the lists."""
    parts: dict[str, list[tuple[NamedPart, str]]] = {}
    for sub in [sub for sub in subfolders if not sub.startswith(".")]:
        if (whole := named.folder(sub)) is not None:
            subfolders.remove(sub)
            names = enumerate(parts_of(folder / sub))
            parts.setdefault(whole.key, []).extend((replace(whole, number=number), f"{sub}/{file}") for number, file in names)
    known = {file: named.part(file) for file in files if not file.startswith(".")}
    files[:] = [file for file in files if known.get(file) is None]
    for file, part in known.items():
        if part is not None:
            parts.setdefault(part.key, []).append((part, file))
    return {
        key: [
            {"name": part.name, "medium": part.medium, "file": f"{inside}/{file}" if inside else file}
            for part, file in sorted(found, key=lambda one: (one[0].name, one[0].number, one[1]))
        ]
        for key, found in parts.items()
    }


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


def _row(folder: str, beside: dict[str, str], uid: str, wanted: Wanted) -> dict[str, Any] | Bad:
    members, files = {}, {}
    for extension, file in beside.items():
        path = Path(folder, file)
        files[extension] = str(path)
        try:
            members[extension] = path.read_bytes()
        except OSError as error:
            return Bad(uid, "read", error.strerror or str(error), str(path))
    return row_of(members, uid, files, wanted)


def has_images(root: Path) -> tuple[bool, bool]:
    """(any image or medium, any sidecar) below a folder; stops as soon as both are found."""
    image = sidecar = False
    named = MediaNames(None)
    for _, subfolders, files in os.walk(root):
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".")]
        for file in files:
            extension = file.rpartition(".")[2].lower()
            image = image or extension in IMAGES or named.part(file) is not None
            sidecar = sidecar or (extension in SIDECARS and not file.endswith("_stats.json"))
        if image and sidecar:
            break
    return image, sidecar
