"""Page of self-training in rounds: counts of each round, and the drift of predicates from those that were annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diptych.report.curves import LineSeries, charts, legend, line_chart
from diptych.report.page import Section, page, table, text

SHOWN = 30
"""Predicates of the table, the most frequent of all rounds."""
SHARES = (("drift", "drift from what was annotated"), ("precision", "precision"), ("recall", "recall"), ("stays", "again"))


def rounds_page(lead: str, annotated: Mapping[str, int], rounds: Sequence[Mapping[str, Any]]) -> str:
    """`rounds` are those of `api.tagging_rounds.Round` as plain values."""
    head = ("round", "trained on", "images", "relations", "again", "moved", "drift", "precision", "recall")
    rows = [
        (r["number"], r["trained"], r["images"], r["relations"], r["stays"], r["moved"], r["drift"], *_right(r)) for r in rounds
    ]
    lines = []
    for colour, (name, title) in enumerate(SHARES):
        points = tuple((float(r["number"]), float(r[name])) for r in rounds if r[name] is not None)
        if points:
            lines.append(LineSeries(title, points, colour))
    drawn = charts([line_chart("Shares by round", lines, x_label="round")]) + legend([(line.name, line.colour) for line in lines])
    totals = [max(1, sum(annotated.values())), *(max(1, r["relations"]) for r in rounds)]
    each = [annotated, *(r["predicates"] for r in rounds)]
    names = sorted({name for counts in each for name in counts}, key=lambda name: (-sum(c.get(name, 0) for c in each), name))
    shares = [
        (name, *(counts.get(name, 0) / total for counts, total in zip(each, totals, strict=True))) for name in names[:SHOWN]
    ]
    return page(
        "Tagging in rounds",
        lead,
        [
            Section("Rounds", (table(head, rows), drawn if lines else "", text(WORDS, note=True))),
            Section(
                "Predicates",
                (table(("share of", "annotated", *(f"round {r['number']}" for r in rounds)), shares),),
            ),
        ],
    )


WORDS = (
    "again: share of the relations of the round before that are there once more. moved, drift: total variation between the predicates of "
    "this round and those of the round before, or those that were annotated; 0 is equal, 1 has nothing in common. precision, recall: "
    "against the relations that the tagged data had, where they had any."
)


def _right(r: Mapping[str, Any]) -> tuple[object, object]:
    return tuple("–" if r[name] is None else r[name] for name in ("precision", "recall"))  # type: ignore[return-value]
