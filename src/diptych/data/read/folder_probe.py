"""Kinds of data in a folder, detected from file names only: enough to see that there are two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diptych.data.read.media import MediaNames
from diptych.data.read.tables import SUFFIXES
from diptych.data.shards.sidecar import IMAGES, TEXTS


@dataclass(frozen=True, slots=True)
class FolderProbe:
    """Path in the folder of the first file of each kind; "" for none.

    image    a picture or another medium
    sidecar  a text or JSON file with the name of a picture beside it
    """

    image: str = ""
    sidecar: str = ""


def probe_folder(root: Path) -> FolderProbe:
    """Pictures and texts beside them below a folder; stops as soon as both are found."""
    image = ""
    named = MediaNames(None)
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else f"{inside}/"
        stems = {}
        for file in sorted(files):
            stem, _, ending = file.rpartition(".")
            if file.startswith(".") or not stem:
                continue
            if ending.lower() in IMAGES:
                stems[stem] = file
            elif (part := named.part(file)) is not None:
                stems[part.key] = file
        image = image or (f"{prefix}{next(iter(stems.values()))}" if stems else "")
        for file in sorted(files) if stems else ():
            stem, _, ending = file.rpartition(".")
            if ending.lower() in (*TEXTS, "json") and stem in stems:
                return FolderProbe(image, f"{prefix}{file}")
    return FolderProbe(image)


def tables_of(folder: Path) -> list[Path]:
    """The tables of a folder. Those that tell of shards are none: ``00000.parquet`` beside ``00000.tar`` or ``00000/``, as img2dataset
    writes them, and indexes of tars."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    shards = {file.stem for file in files if file.suffix == ".tar"} | {file.name for file in files if file.is_dir()}
    tables = [file for file in files if file.suffix.lower() in SUFFIXES and not file.is_dir()]
    return [file for file in tables if file.stem not in shards and not file.name.endswith(".idx.parquet")]
