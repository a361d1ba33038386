"""Published probes: pictures with true and false captions, read from the files in which their authors give them.

    aro           visual_genome_relation.json, visual_genome_attribution.json, coco_karpathy_{test,val}.json, flickr30k_{test,val}.json
    sugarcrepe    add_obj.json, ..., swap_att.json; those of SugarCrepe++ hold a second true caption
    vl_checklist  corpus/v1/**/*.yaml over data/**/*.json, or the JSON files only
    winoground    examples.jsonl beside images/, or a Parquet file that holds its pictures

Each file becomes a split, so that tasks report it apart. A picture that is missing costs its own case; it is left in the data and named
when it is read. SNARE asks other questions of ARO's files.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.core.errors import UnknownName
from diptych.data.dataset import Pool

FORMATS = ("aro", "sugarcrepe", "vl_checklist", "winoground")


def format_of(folder: Path) -> str:
    """The probe that a folder holds, recognised by its file names; "" for any other folder."""
    return next((name for name in FORMATS if _part(name, "holds")(folder)), "") if folder.is_dir() else ""


def read_probe(folder: Path, format: str, *, name: str = "", root: Path | None = None, within: str | None = None) -> Pool:
    """The samples of a published probe.

    root    where the pictures lie, if not beside the files
    within  a folder that links of pictures may not lead out of
    """
    if format not in FORMATS:
        raise UnknownName("probe", format, FORMATS)
    pool: Pool = _part(format, "read")(folder, name or folder.resolve().name, root, within)
    pool.notes.append(f"read as {format}: {len(pool):,} samples")
    return pool


def _part(format: str, function: str) -> Callable[..., Any]:
    part: Callable[..., Any] = getattr(import_module(f"diptych.data.probes.{format}"), function)
    return part
