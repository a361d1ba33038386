"""A folder of images, each with a text or JSON file of the same name beside it (as `img2dataset` writes them, or by hand)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.media.images import LooseFiles
from diptych.data.quarantine import Bad
from diptych.data.read.assemble import Found, assemble
from diptych.data.read.naming import uid_of
from diptych.data.read.rows import Rows
from diptych.data.read.wanted import Wanted
from diptych.data.shards.sidecar import IMAGES, TEXTS, row_of

SIDECARS = (*TEXTS, "json")


def read_folder(root: Path, wanted: Wanted, *, name: str) -> Pool:
    """Every image below `root`, in order of path. The sub-folder is kept as the extra "folder" (so ``group="folder"`` works)."""
    rows, paths, bad = Rows(), [], []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        inside = os.path.relpath(folder, root)
        inside = "" if inside == "." else inside.replace(os.sep, "/")
        images, beside = _by_stem(files)
        for file in sorted(images):
            place = f"{inside}/{file}" if inside else file
            stem = file.rpartition(".")[0]
            row = _row(
                folder, beside.pop(stem, {}) if images[file] else beside.get(stem, {}), uid_of(place.rpartition(".")[0]), wanted
            )
            if isinstance(row, Bad):
                bad.append(row)
                continue
            paths.append(place)
            rows.add({"folder": inside, **row} if inside or "folder" in (wanted.group, wanted.split) else row)
        for stem, alone in sorted(beside.items()):
            if text := next((alone[extension] for extension in TEXTS if extension in alone), None):
                where = str(Path(folder, text))
                bad.append(Bad(uid_of(f"{inside}/{stem}"), "read", "there is no image beside this text", where))
    if not paths and not bad:
        raise DataError("holds nothing to read", file=root, expected=LOOKED_FOR)
    if not paths:
        raise DataError(f"holds no usable image; first problem: {bad[0]}", file=root, expected=LOOKED_FOR)
    found = Found(
        name,
        rows.table(),
        str(root),
        images=LooseFiles(str(root), pa.array(paths, pa.string())),
        names=[path.rpartition(".")[0] for path in paths],
        places=paths,
        bad=bad,
    )
    return assemble(found, wanted.with_caption(found.table))


LOOKED_FOR = (
    "images with a .txt or .json of the same name, .tar shards, one .csv, .tsv, .jsonl or .parquet table, or a folder made by "
    "`diptych data build`"
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
    """(any image, any sidecar) below a folder; stops as soon as both are found."""
    image = sidecar = False
    for _, subfolders, files in os.walk(root):
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".")]
        for file in files:
            extension = file.rpartition(".")[2].lower()
            image = image or extension in IMAGES
            sidecar = sidecar or (extension in SIDECARS and not file.endswith("_stats.json"))
        if image and sidecar:
            break
    return image, sidecar
