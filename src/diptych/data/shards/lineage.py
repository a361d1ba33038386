"""Fingerprints that a built data set had before takedowns: what was made of those can still be read as a known subset."""

from __future__ import annotations

from pathlib import Path

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.mark import is_built, read_mark
from diptych.data.shards.revise import TAKEDOWN

PENDING, TAKEDOWNS = "takedown.json", "takedowns"


def former_fingerprints(folder: Path, now: str) -> frozenset[str]:
    """Fingerprints of earlier contents of a built folder of which the present one, `now`, is what takedowns left; `now` itself too.

    A change of another kind in between, such as samples that were added, ends the chain.
    """
    former = {now}
    if not is_built(folder):
        return frozenset(former)
    if (folder / PENDING).is_file():  # its samples are hidden, and the next call takes them out
        before = read_object(folder / PENDING).get("before")
        if isinstance(before, str):
            former.add(before)
    entries = read_mark(folder).get(TAKEDOWNS, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError("is not a list of takedowns", file=folder, field=TAKEDOWNS, expected="what `diptych data takedown` wrote")
    for entry in reversed(entries):
        if entry.get("after") in former and isinstance(entry.get("before"), str):
            former.add(entry["before"])
    return frozenset(former)


def taken_down_uids(folder: Path) -> frozenset[str]:
    """Uids that the quarantine of a folder calls taken down."""
    return frozenset(bad.uid for bad in read_quarantine(folder) if bad.stage == TAKEDOWN)
