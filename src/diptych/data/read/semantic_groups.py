"""Groups of images that share their captions and concepts, as KEEP's released example has them (2024, arXiv 2412.13126).

    {"openpath_group_000014": {"images": ["a.jpg", "b.jpg"], "merged_caption": ["..."], "labels": {"DOID:2671": {...}}, "anatomy":
    "other"}}

"captions" is read if there is no "merged_caption"; "labels" may be a list of ids; {"images": {"images": [...]}} is read too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.data.quarantine import QuarantineEntry

CAPTIONS = ("merged_caption", "captions")


def holds_groups(value: Any) -> bool:
    """True if the value of a JSON file is such groups, judged by its first hundred entries."""
    if not isinstance(value, dict) or not value:
        return False
    some = list(value.values())[:100]
    return all(isinstance(one, dict) for one in some) and any(
        "images" in one and any(name in one for name in CAPTIONS) for one in some
    )


def rows_of(path: Path, value: dict[str, Any], bad: list[QuarantineEntry]) -> list[dict[str, Any]]:
    """One row per image, with all captions of its group, the group's id, its concepts in `concept`, and its anatomy. A malformed group
    is left out."""
    rows: list[dict[str, Any]] = []
    for key, group in value.items():
        images, captions, labels = _parts(group)
        fault = _fault(images, captions, labels)
        if fault:
            bad.append(QuarantineEntry(key, "read", fault, str(path)))
            continue
        for number, image in enumerate(images):
            row = {
                "uid": f"{key}-{number}".replace(".", "_").replace("/", "_"),
                "image": image,
                "captions": captions,
                "group": key,
            }
            rows.append({**row, "concept": labels, "anatomy": group.get("anatomy", "")})
    return rows


def _parts(group: Any) -> tuple[Any, Any, Any]:
    if not isinstance(group, dict):
        return None, None, None
    images = group.get("images")
    images = images.get("images") if isinstance(images, dict) else images
    captions: Any = next((group[name] for name in CAPTIONS if group.get(name)), [])
    labels = group.get("labels", {})
    return images, captions, list(labels) if isinstance(labels, dict) else labels


def _fault(images: Any, captions: Any, labels: Any) -> str:
    """Reason that a group is malformed, or ""."""
    for what, values, least in (("images", images, 1), ("captions", captions, 1), ("labels", labels, 0)):
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            return f"its {what} are a {type(values).__name__} and not a list of strings"
        if len(values) < least:
            return f"it has no {what}"
    return ""
