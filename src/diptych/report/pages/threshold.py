"""Page of a threshold: the histogram of a score, and pictures on both sides."""

from __future__ import annotations

import math
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
    kept: Sequence[int] | npt.NDArray[np.int64],
    dropped: Sequence[int] | npt.NDArray[np.int64],
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
    count_B, edge_B = np.histogram(finite, bins=min(BINS, max(1, len(np.unique(finite)))))
    bars = dict(zip(edge_labels(edge_B), count_B.tolist(), strict=True))
    nearest = [*map(int, kept[-SHOWN:])], [*map(int, dropped[:SHOWN])]
    album = Album(data.select([*nearest[0], *nearest[1]]))

    def sheet(rows: Sequence[int]) -> str:
        uids = {row: data[row].uid for row in rows}
        return page.sheet(page.figure(album.of(uid)[0], f"{score_N[row]:.3f} {album.of(uid)[1]}") for row, uid in uids.items())

    sections = [
        page.Section("Histogram", (bar_chart(name, bars), page.text(f"Threshold {threshold:.6g}."))),
        *(page.Section(side, (sheet(rows),) if rows else ()) for side, rows in zip(sides, nearest, strict=True)),
    ]
    return page.page(title, lead, sections)


def edge_labels(edge_B: npt.NDArray[np.floating[Any]]) -> list[str]:
    """Labels of bins by their left edges, to a tenth of a bin, so that they differ. `edge_B` has one entry more than there are bins.

    >>> edge_labels(np.array([1e-22, 0.05, 0.1])), edge_labels(np.array([999.0, 999.05, 999.1]))
    (['0', '0.05'], ['999', '999.05'])
    """
    width = float(edge_B[1] - edge_B[0])
    decimals = 1 - math.floor(math.log10(width)) if width > 0 else 3
    labels = [f"{round(float(edge), decimals) + 0.0:.{max(0, decimals)}f}" for edge in edge_B[:-1]]
    labels = [label.rstrip("0").rstrip(".") if "." in label else label for label in labels]
    return labels if len(set(labels)) == len(labels) else [repr(float(edge)) for edge in edge_B[:-1]]
