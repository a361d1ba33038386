"""Page on balancing a pool: entries in order of frequency, before and after, as curves and in a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.report.curves import LineSeries, charts, line_chart
from diptych.report.page import Section, cards, page, table, text

POINTS = 120  # of a curve
SHOWN = 20  # entries in the table

Counts = npt.NDArray[np.uint64]


def balance_page(
    name: str, entries: Sequence[str], before: Counts, after: Counts, *, t: int, share: float, rows: tuple[int, int]
) -> str:
    """`before` and `after` count the texts of each entry; `t` is the threshold, `share` the part of all matches below it."""
    order = np.argsort(-before.astype(np.int64), kind="stable")
    seen = int((before > 0).sum())
    head = [
        (entries[i], int(before[i]), int(after[i]), float(after[i]) / max(1, int(before[i]))) for i in order[: min(SHOWN, seen)]
    ]
    facts = [
        (f"{rows[0]:,} → {rows[1]:,}", "rows"),
        (f"{seen:,} of {len(entries):,}", "entries that some text mentions"),
        (f"{t:,}", "t: texts of one entry that are sure to stay"),
        (f"{share:.1%}", "of all matches are on entries below t"),
    ]
    counts = [_by_rank("before", before, 0), _by_rank("after", after, 1)]
    shares = [_running("before", before, 0), _running("after", after, 1)]
    pictures = [
        line_chart("texts of an entry (log10), by rank (log10)", counts, x_label="rank, log10"),
        line_chart("share of all matches, running from the rarest entry", shares, x_label="share of entries"),
    ]
    explained = (
        "A text is kept with the probability that its rarest entries give it; frequent entries of the text are kept, too: t is no cap. "
        "A flatter curve after than before is what the balance is for."
    )
    sections = [
        Section("Balance", (cards(facts), text(explained), charts(pictures))),
        Section("The most frequent entries", (table(("entry", "texts before", "after", "kept"), head),)),
    ]
    return page(f"{name}: balanced by entries", "What the texts are about, before and after.", sections)


def _by_rank(name: str, counts: Counts, colour: int) -> LineSeries:
    ordered = np.sort(counts[counts > 0].astype(np.float64))[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), POINTS).astype(int)) if len(ordered) else np.zeros(0, int)
    return LineSeries(name, tuple((float(np.log10(rank)), float(np.log10(ordered[rank - 1]))) for rank in ranks.tolist()), colour)


def _running(name: str, counts: Counts, colour: int) -> LineSeries:
    ordered = np.sort(counts[counts > 0].astype(np.float64))
    if not len(ordered):
        return LineSeries(name, (), colour)
    running = np.cumsum(ordered) / ordered.sum()
    indices = np.unique(np.linspace(0, len(ordered) - 1, POINTS).astype(int)).tolist()
    return LineSeries(name, tuple(((index + 1) / len(ordered), float(running[index])) for index in indices), colour)
