"""Captions of overhead images from a file of templates, filled as RS5M fills its own (Zhang et al., 2024, 2306.11300).

The released file is `geometa_extraction_tool/geometa_template.json` of om-ai-lab/RS5M: lists of sentences under names such as
"fmow_complex" and "ben", with placeholders such as {country} and {utm_zone}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import read_file
from diptych.core.errors import ConfigError
from diptych.data.text.captions.meta_captions import MONTHS, utm_zone

SEASONS = ("Winter", "Spring", "Summer", "Fall")
ROUNDED = ("ground_sample_distance", "target_azimuth", "off_nadir")
"""Placeholders whose numbers have two decimals."""
LARGEST = 2**24
"""Bytes of a file of templates, at most; the released one has 56,000."""
ROWS, COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")


def read_geo_templates(address: str) -> tuple[str, ...]:
    """Templates of a JSON file, "FILE#NAME". Raises ConfigError where there are none of that name."""
    file, _, name = address.rpartition("#")
    try:
        lists = parse_json(read_file(Path(file).expanduser(), most=LARGEST))
    except (OSError, ValueError) as error:
        raise ConfigError(f"templates {address!r}: {error} (expected FILE.json#NAME)") from error
    chosen = lists.get(name) if isinstance(lists, dict) else None
    if not isinstance(chosen, list) or not chosen or not all(isinstance(text, str) for text in chosen):
        names = sorted(lists) if isinstance(lists, dict) else []
        raise ConfigError(f"templates {address!r}: no list of texts {name!r} (it has {', '.join(names) or 'no lists'})")
    return tuple(chosen)


def geo_caption(templates: Sequence[str], facts: Mapping[str, Any], rng: np.random.Generator) -> str:
    """A drawn template, filled; "" where a fact that it asks for is unknown. One number of `rng`, always.

    facts  label, a text or a list; country, city, timestamp (ISO 8601), utm_zone or longitude and latitude, location or box
           (x, y, width, height) with image_width and image_height; and others by the names of the placeholders

    >>> geo_caption(["{class_label} in {season}"], {"label": "Airport", "timestamp": "2016-07-29"}, np.random.default_rng(0))
    'airport in Summer'
    """
    template = templates[min(int(rng.random() * len(templates)), len(templates) - 1)]
    values = {name: _value(name, facts) for name in re.findall(r"\{(\w+)\}", template)}
    if not all(values.values()):
        return ""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def covered_blocks(box: Sequence[float], image_width: float, image_height: float) -> str:
    """The two ninths of an image that share the largest areas with a box (x, y, width, height), the larger first.

    >>> covered_blocks((174, 363, 1429, 661), 1800, 1500)
    'center and center-left blocks'
    """
    x, y, wide, high = box
    shared = {}
    for row, above in enumerate(ROWS):
        for column, across in enumerate(COLUMNS):
            side = _overlap(x, wide, column * image_width / 3, image_width / 3)
            name = "center" if above == across == "center" else f"{above}-{across}"
            shared[name] = side * _overlap(y, high, row * image_height / 3, image_height / 3)
    first, second = sorted(shared, key=lambda name: -shared[name])[:2]
    return f"{first} and {second} blocks"


def _overlap(start: float, length: float, other: float, other_length: float) -> float:
    return max(0.0, min(start + length, other + other_length) - max(start, other))


def _value(name: str, facts: Mapping[str, Any]) -> str:
    """Text for a placeholder; "" where it is unknown."""
    label, when = facts.get("label") or (), _time(facts.get("timestamp"))
    match name:
        case "class_label":
            return str(label).lower() if isinstance(label, str) else ""
        case "class_labels":
            return ", ".join([label] if isinstance(label, str) else map(str, label)).lower().replace("_", "-")
        case "country":
            return ", ".join(str(facts[key]) for key in ("city", "country") if facts.get(key)) if facts.get("country") else ""
        case "season":
            return SEASONS[when.month % 12 // 3] if when else ""
        case "timestamp":
            return f"{when.hour} o'clock, {MONTHS[when.month - 1]} {when.day}, {when.year}" if when else ""
        case "month_year":
            return f"{MONTHS[when.month - 1]} {when.year}" if when else ""
        case "utm_zone":
            return str(facts.get("utm_zone") or utm_zone(facts.get("longitude"), facts.get("latitude")))
        case "relative_location":
            box, size = facts.get("box"), (facts.get("image_width"), facts.get("image_height"))
            blocks = covered_blocks(box, *map(float, size)) if box is not None and all(size) else ""  # type: ignore[arg-type]
            return str(facts.get("location") or blocks).lower()
    value = facts.get(name)
    if name in ROUNDED and isinstance(value, int | float):
        return f"{value:.2f}"
    return "" if value is None else str(value).lower()


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None
