"""Leaderboard page: models on the same questions, significant differences, and questions on which they disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.report import page
from diptych.report.comparison_result import ItemDifference
from diptych.report.curves import Bar, interval_chart
from diptych.report.escape import escape
from diptych.report.pictures import Album

BESIDE = ("unread", "failed", "circular", "entropy", "rejection", "abstention", "position_bias", "reference", "within")
"""Numbers that stand beside the one that decides, where the protocol has them."""


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """Row of the leaderboard, one model. `beside`: further metrics by name."""

    name: str
    value: float
    low: float
    high: float
    chance: float
    beside: dict[str, float]


@dataclass(frozen=True, slots=True)
class ModelPair:
    """Paired comparison of two models on the same questions: `other` minus `first`. `test` is what p is of; p_holm is corrected for all
    pairs."""

    first: str
    other: str
    view: ItemDifference
    test: str
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Question on which models disagree. `answers`: model, its answer, whether that is right."""

    uid: str
    question: str
    truth: str
    answers: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Models, the best first. `parted` counts all questions that some got right and others wrong; `partings` shows some of them."""

    protocol: str
    metric: str
    data: str
    questions: int
    groups: int
    standings: tuple[LeaderboardRow, ...]
    pairings: tuple[ModelPair, ...]
    partings: tuple[Disagreement, ...]
    parted: int

    def lines(self) -> list[str]:
        width = max(len(one.name) for one in self.standings)
        head = f"{self.protocol} on {self.data}: {self.metric}, {self.questions:,} rows in {self.groups:,} groups"
        lines = [head, *(f"  {one.name:<{width}}  {_span(one.value, one.low, one.high)}" for one in self.standings)]
        for pair in self.pairings:
            span = _span(pair.view.difference, pair.view.low, pair.view.high, sign="+")
            lines.append(
                f"  {pair.other} minus {pair.first}: {span}, p {_p(pair)}; wins {pair.view.wins}, loses {pair.view.losses}"
            )
        return [*lines, f"  models part on {self.parted:,} of {self.questions:,}"]

    def to_json(self) -> dict[str, Any]:
        from dataclasses import asdict

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(one) for name, one in value.items()}
            if isinstance(value, list | tuple):
                return [plain(one) for one in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        out: dict[str, Any] = plain(asdict(self))
        for one in out["partings"]:
            one["said"] = one.pop("answers")  # the key of earlier files
        return out


def leaderboard_page(path: Path, board: Leaderboard, album: Album) -> Path:
    """Writes the page: one file that opens offline."""
    names = [name for name in BESIDE if any(name in one.beside for one in board.standings)]
    rows = [
        (rank, one.name, _span(one.value, one.low, one.high), *(one.beside.get(name, math.nan) for name in names))
        for rank, one in enumerate(board.standings, 1)
    ]
    bars = [Bar(one.name[-28:], one.value, one.low, one.high, chance=one.chance, colour=0) for one in board.standings]
    head = ("", "model", f"{board.metric} [95 % over groups]", *(name.replace("_", " ") for name in names))
    pairs = [
        (
            f"{pair.other} minus {pair.first}",
            _span(pair.view.difference, pair.view.low, pair.view.high, sign="+"),
            pair.view.wins,
            pair.view.losses,
            _p(pair),
        )
        for pair in board.pairings
    ]
    note = (
        "Overlapping intervals of two models are not a test: use the paired difference. Wins and losses are rows on which one is right and "
        "the other wrong. P is corrected for all pairs after Holm; it is about these models on questions like these, and not about "
        "training them again."
    )
    shown = (
        f"{len(board.partings)} of {board.parted:,} questions on which some are right and others wrong, the most divided first."
    )
    sections = [
        page.Section("Standing", (interval_chart(board.metric, bars), page.table(head, rows))),
        page.Section(
            "Differences",
            (page.table(("pair", "difference", "wins", "losses", "p"), pairs), page.text(note, note=True)) if pairs else (),
        ),
        page.Section(
            "Where they part",
            (page.text(shown, note=True), *(_parting(one, album) for one in board.partings)) if board.partings else (),
        ),
    ]
    lead = f"{board.protocol} on {board.data}: {board.questions:,} rows in {board.groups:,} groups."
    write_atomic(path, page.page("Leaderboard", lead, sections, footer="Diptych"))
    return path


def _parting(one: Disagreement, album: Album) -> str:
    picture = page.figure(album.of(one.uid)[0], one.truth, right=True) if one.uid in album else ""
    answers = "".join(
        f'<li class="{"ok" if right else "warn"}">{escape(model)}: {escape(words)} ({"right" if right else "wrong"})</li>'
        for model, words, right in one.answers
    )
    question = f"<q>{escape(one.question)}</q>"
    truth = "" if picture else page.text(f"right: {one.truth}")
    return f'<div class="row"><div>{picture}</div><div>{question}{truth}<ul>{answers}</ul></div></div>'


def _span(value: float, low: float, high: float, *, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if math.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]")


def _p(pair: ModelPair) -> str:
    return f"{pair.p_holm:.3g} ({pair.test})"


def most_divided(right: Sequence[Sequence[bool]]) -> list[int]:
    """Rows on which some are right and others wrong, those with the most even halves first. `right`: a list a model.

    >>> most_divided([[True, True, False, True], [True, False, False, False], [True, True, False, False]])
    [1, 3]
    """
    shares = [sum(row) / len(row) for row in zip(*right, strict=True)]
    return sorted((row for row, share in enumerate(shares) if 0 < share < 1), key=lambda row: (abs(shares[row] - 0.5), row))
