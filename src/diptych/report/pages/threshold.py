"""Page of a threshold: the histogram of a score, and pictures on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.report import page
from diptych.report.curves import bar_chart
from diptych.report.pictures import Album

SHOWN = 12
"""Pictures on each side of the threshold."""
BINS = 20


def threshold_page(
    data: Any,
    score_N: npt.NDArray[np.floating[Any]],
    kept: Sequence[int],
    dropped: Sequence[int],
    *,
    name: str,
    threshold: float,
    title: str,
    lead: str,
    sides: tuple[str, str] = ("Just kept", "Just dropped"),
) -> str:
    """Page as HTML.

    score_N  score of each row of `data`; those that are not finite are left out of the histogram
    kept     rows on the one side, the nearest to the threshold last
    dropped  rows on the other side, the nearest first
    name     of the score
    sides    headings of the two
    """
    finite = score_N[np.isfinite(score_N)]
    count_B, edge_B = np.histogram(finite, bins=min(BINS, max(1, len(set(finite.tolist())))))
    bars = {f"{edge:.3g}": int(count) for edge, count in zip(edge_B[:-1], count_B, strict=True)}
    album = Album(data)

    def sheet(rows: Sequence[int]) -> str:
        return page.sheet(
            page.figure(album.of(data.uids[row])[0], f"{score_N[row]:.3f} {album.of(data.uids[row])[1]}") for row in rows
        )

    sections = [
        page.Section("Histogram", (bar_chart(name, bars), page.text(f"Threshold {threshold:.4g}."))),
        page.Section(sides[0], (sheet(kept[-SHOWN:]),) if kept else ()),
        page.Section(sides[1], (sheet(dropped[:SHOWN]),) if dropped else ()),
    ]
    return page.page(title, lead, sections)
