"""Data of person re-identification: descriptions in JSON (CUHK-PEDES, ICFG-PEDES, RSTPReid, SYNTH-PEDES), file names of Market-1501.

All are for research only, and show people who were not asked: the licence says the first, the extra "consent" the second, unless the
file itself says otherwise. The group of a sample is its identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.quarantine import QuarantineEntry

NAMES = {
    "reid_raw.json": "CUHK-PEDES",
    "ICFG_PEDES.json": "ICFG-PEDES",
    "ICFG-PEDES.json": "ICFG-PEDES",
    "data_captions.json": "RSTPReid",
    "synthpedes_dataset.json": "SYNTH-PEDES",
}
"""What the published files are called."""
LICENCE, CONSENT = "research only", "not stated"
PATHS = ("file_path", "img_path")
IMAGES = ("imgs", "images", "")
"""Folders beside the file where the pictures may lie."""
MARKET_FOLDERS = {"bounding_box_train": ("train", ""), "bounding_box_test": ("test", "gallery"), "query": ("test", "query")}
"""Split and role of what lies in each."""
MARKET = re.compile(r"(-1|\d{4,})_c(\d+)s(\d+)_(\d+)_(\d+)")
JUNK, DISTRACTOR = -1, 0


def describes_persons(values: Sequence[Any]) -> bool:
    """True if a list of objects has the form of these data: an id, a path, captions."""
    first = [value for value in values[:100] if isinstance(value, dict)]
    return bool(first) and all("id" in value and "captions" in value and any(p in value for p in PATHS) for value in first)


def person_rows(path: Path, values: Sequence[Any], bad: list[QuarantineEntry], notes: list[str]) -> list[dict[str, Any]]:
    """One row per picture. An entry of the wrong shape costs itself; a file without splits is named."""
    dataset = NAMES.get(path.name, "")
    rows = []
    for at, value in enumerate(values):
        fault = _fault(value)
        if fault:
            bad.append(QuarantineEntry("", "read", fault, f"{path}, row {at}"))
            continue
        rows.append(_row(value, dataset))
    if rows and not any("split" in row for row in rows):
        notes.append("no entry names its split: persons have to be dealt out (`diptych data split`)")
    split_of: dict[str, set[str]] = {}
    for row in rows:
        split_of.setdefault(row["group"], set()).add(row.get("split", ""))
    shared = [group for group, splits in split_of.items() if len(splits) > 1]
    if shared:
        notes.append(f"{len(shared)} identities are in several splits, the first is '{shared[0]}'")
    return rows


def root_of(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The folder that the paths of some rows are relative to."""
    for name in IMAGES:
        folder = path.parent / name if name else path.parent
        if any((folder / str(row["image"])).is_file() for row in rows):
            return folder
    return path.parent


def _fault(value: Any) -> str:
    if not isinstance(value, dict):
        return f"is a {type(value).__name__}, not an object"
    number = value.get("id")
    if isinstance(number, bool) or not isinstance(number, int | str):
        return f"field 'id' is {number!r} (expected a number or name of the person)"
    if not any(isinstance(value.get(name), str) and value[name] for name in PATHS):
        return f"no field {' or '.join(PATHS)} holds a path"
    captions = value.get("captions")
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        return f"field 'captions' is a {type(captions).__name__} (expected a list of texts)"
    return ""


def _row(value: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    prompted = value.get("prompt_caption") or []
    row: dict[str, Any] = {
        "image": next(value[name] for name in PATHS if value.get(name)),
        "captions": [*value["captions"], *(prompted if isinstance(prompted, list) else [prompted])],
        "group": str(value["id"]),
        "identity": value["id"],
        "licence": value.get("licence") or value.get("license") or LICENCE,
        "consent": value.get("consent") or CONSENT,
        "source": value.get("source") or dataset,
    }
    if isinstance(value.get("split"), str):
        row["split"] = value["split"]
    attributes = value.get("attributes")
    if isinstance(attributes, list) and attributes:
        row["attributes"] = attributes[0].split(",") if len(attributes) == 1 else attributes
    return row


def is_market(root: Path) -> bool:
    """True if a folder has the layout of Market-1501."""
    return all((root / folder).is_dir() for folder in MARKET_FOLDERS)


def market_rows(root: Path, bad: list[QuarantineEntry]) -> Iterator[dict[str, Any]]:
    """One row per picture, with identity and camera out of its name, "0002_c1s1_000451_03.jpg": person 2, camera 1, sequence 1, frame 451.

    Query and gallery are one split, "test", distinguished by the column "role". Junk (-1) is left out and reported; distractors (0000) show
    nobody's query, and each is its own group.
    """
    for folder, (split, role) in MARKET_FOLDERS.items():
        for file in sorted((root / folder).iterdir()):
            if file.suffix.lower() not in (".jpg", ".png", ".jpeg"):
                continue
            relative = f"{folder}/{file.name}"
            match = MARKET.match(file.stem)
            if match is None:
                bad.append(
                    QuarantineEntry("", "read", "is not named as in Market-1501 (expected 0002_c1s1_000451_03.jpg)", str(file))
                )
                continue
            number, camera, sequence, frame, _ = map(int, match.groups())
            if number == JUNK:
                bad.append(QuarantineEntry("", "read", "junk: a box that fits no person (identity -1)", str(file)))
                continue
            yield {
                "image": relative,
                "group": f"distractor-{file.stem}" if number == DISTRACTOR else f"{number:04d}",
                "identity": number,
                "camera": camera,
                "sequence": sequence,
                "frame": frame,
                "split": split,
                **({"role": role} if role else {}),
                "licence": LICENCE,
                "consent": CONSENT,
                "source": "Market-1501",
            }
