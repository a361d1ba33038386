"""Captions of overhead pictures from their metadata: class, country, month, UTM zone, and the position in the picture.

After the meta captions of RS5M (Zhang et al., 2024, 2306.11300), by sentences of our own: the released ones are many more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
OPENINGS = (
    "a satellite image of {}",
    "an aerial image of {}",
    "an overhead view of {}",
    "a remote sensing image that shows {}",
    "{} seen from above",
)


def meta_caption(facts: Mapping[str, Any], rng: np.random.Generator) -> str:
    """Sentence from what is known of a picture; "" without a label. One number of `rng`, always.

    facts  label; and where they are known country, month (1 to 12, a name, or an ISO date), longitude and latitude in degrees,
           and location ("the upper left")

    >>> meta_caption({"label": "AnnualCrop", "country": "Spain", "month": 7, "longitude": -3.7}, np.random.default_rng(0))
    'a remote sensing image that shows annual crop in Spain in July, UTM zone 30'
    """
    opening = OPENINGS[min(int(rng.random() * len(OPENINGS)), len(OPENINGS) - 1)]
    label = _words(facts.get("label"))
    if not label:
        return ""
    where = f" in {_plain(facts.get('location'))} of the picture" if _plain(facts.get("location")) else ""
    country = f" in {_plain(facts.get('country'))}" if _plain(facts.get("country")) else ""
    month = f" in {name}" if (name := month_name(facts.get("month"))) else ""
    zone = utm_zone(facts.get("longitude"), facts.get("latitude"))
    return opening.format(label) + where + country + month + (f", UTM zone {zone}" if zone else "")


def month_name(value: Any) -> str:
    """English name of a month; "" for anything else.

    >>> month_name(3), month_name("2016-07-09T10:00:00Z"), month_name("july"), month_name("3"), month_name(13), month_name(None)
    ('March', 'July', 'July', 'March', '', '')
    """
    text = _plain(value)
    parts = text.split("-")
    number = parts[1] if len(parts) >= 3 and len(parts[0]) == 4 else text
    if number.isdigit():
        return MONTHS[int(number) - 1] if 1 <= int(number) <= 12 else ""
    return next((month for month in MONTHS if month.lower() == text.lower()), "")


def utm_zone(longitude: Any, latitude: Any = None) -> str:
    """Zone of six degrees, with N or S where the latitude is known; "" outside 180 degrees west to east, or beyond 84 degrees of
    latitude.

    >>> utm_zone(-3.7, 40.4), utm_zone(151.2, -33.9), utm_zone(180.0), utm_zone(200), utm_zone("x")
    ('30N', '56S', '60', '', '')
    """
    east, north = _number(longitude), _number(latitude)
    if math.isnan(east) or not -180 <= east <= 180 or abs(north) > 84:
        return ""
    return f"{min(60, int((east + 180) // 6) + 1)}{'' if math.isnan(north) else 'N' if north >= 0 else 'S'}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _plain(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()


def _words(value: Any) -> str:
    text = _plain(value)
    spaced = "".join(f" {c}" if c.isupper() and n and text[n - 1].islower() else c for n, c in enumerate(text))
    return " ".join(spaced.replace("_", " ").replace("-", " ").lower().split())
