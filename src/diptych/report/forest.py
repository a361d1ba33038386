"""Forest plot: one line per experiment, its mean and interval coloured by verdict, seeds as dots, controls as ticks. Plain SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = {
    "shown": "#1a7f4b",
    "reversed": "#b3261e",
    "equal within the margin": "#3b6fb6",
    "open": "#8a6d1a",
    "no verdict": "#777777",
}
"""Of equal weight on white and on black; the verdict also stands in words, so that no reader depends on colour."""
TOP, BOTTOM = 26, 44
REACH = 12.0
"""Units of what matters at which the axis ends; what lies beyond is drawn at the edge."""


@dataclass(frozen=True, slots=True)
class ForestLayout:
    """Sizes of a forest plot in pixels.

    left, right  room beside the axis
    row    height of a row
    above  name and verdict stand above the bar of a row, otherwise left and right of it
    """

    width: int
    left: int
    right: int
    row: int
    above: bool = False


WIDE = ForestLayout(800, 230, 170, 26)
NARROW = ForestLayout(360, 16, 16, 40, above=True)
"""For phones: as wide as their screens."""


@dataclass(frozen=True, slots=True)
class ControlMark:
    """Control of a row, at its distance from the baseline."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class ForestRow:
    """Row of a forest plot: method minus baseline in units of the smallest difference that matters, positive where the method is
    better."""

    name: str
    mean: float
    interval: tuple[float, float]
    verdict: str
    seeds: tuple[float, ...] = ()
    controls: tuple[ControlMark, ...] = ()


def forest_plot(spans: Sequence[ForestRow], *, title: str = "Method against baseline", layout: ForestLayout = WIDE) -> str:
    """SVG of the forest plot. One unit is the difference that was declared to matter; the band between -1 and 1 is shaded."""
    width, left, right = layout.width, layout.left, layout.right
    if not spans:
        return _svg(title, (width, 60), [f'<text x="{width / 2}" y="34" text-anchor="middle">No claim has a verdict yet.</text>'])
    legend = ["times the difference that matters; band: smaller than that", "short ticks: controls"]
    if not layout.above:
        legend = ["; ".join(legend)]
    height = TOP + layout.row * len(spans) + BOTTOM + 16 * (len(legend) - 1)
    ends = [abs(value) for span in spans for value in (*span.interval, *span.seeds)]
    reach = min(REACH, max(2.0, *ends))

    def x(value: float) -> float:
        inside = max(-reach, min(reach, value))
        return left + (inside + reach) / (2 * reach) * (width - left - right)

    floor = TOP + layout.row * len(spans) + 4
    parts = [
        f'<rect x="{x(-1):.1f}" y="{TOP - 8}" width="{x(1) - x(-1):.1f}" height="{floor - TOP + 8}" fill="currentColor" opacity=".07"/>',
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 8}" y2="{floor}" stroke="currentColor" opacity=".5"/>',
    ]
    for value in _ticks(reach):
        parts.append(f'<text x="{x(value):.1f}" y="{floor + 14}" text-anchor="middle" opacity=".7">{value:+g}</text>')
    for line, words in enumerate(legend):
        parts.append(f'<text x="{x(0):.1f}" y="{floor + 32 + 16 * line}" text-anchor="middle" opacity=".7">{words}</text>')
    for row, span in enumerate(spans):
        parts += _row(span, TOP + layout.row * row, x, layout)
    return _svg(title, (width, height), parts)


def _row(span: ForestRow, top: float, x_of: Callable[[float], float], layout: ForestLayout) -> list[str]:
    colour = COLOURS.get(span.verdict, "currentColor")
    low, high = (x_of(value) for value in span.interval)
    y = top + (layout.row - 11 if layout.above else layout.row / 2)
    name_at, anchor, verdict_at = layout.left - 10, "end", f'x="{layout.width - layout.right + 12}"'
    words_y = y + 4
    if layout.above:
        name_at, anchor, words_y = layout.left, "start", top + 13
        verdict_at = f'x="{layout.width - layout.right}" text-anchor="end"'
    parts = [
        f'<text x="{name_at}" y="{words_y:.1f}" text-anchor="{anchor}">{escape(span.name)}</text>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="4" stroke-opacity=".45"/>',
    ]
    for seed in span.seeds:
        parts.append(f'<circle cx="{x_of(seed):.1f}" cy="{y:.1f}" r="2.6" fill="{colour}" fill-opacity=".75"/>')
    for control in span.controls:
        at = x_of(control.at)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}" stroke="currentColor" opacity=".7">'
            f"<title>{escape(control.name)}</title></line>"
        )
    at = x_of(span.mean)
    parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 7:.1f}" y2="{y + 7:.1f}" stroke="{colour}" stroke-width="3"/>')
    parts.append(f'<text {verdict_at} y="{words_y:.1f}" fill="{colour}">{escape(span.verdict)}</text>')
    return parts


def _ticks(reach: float) -> list[float]:
    step = next(step for step in (0.5, 1.0, 2.0, 4.0) if reach / step <= 4)
    count = int(reach / step)
    return [step * index for index in range(-count, count + 1)]


def _svg(title: str, size: tuple[float, float], parts: Sequence[str]) -> str:
    name = escape(title)
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{name}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor"><title>{name}</title>{"".join(parts)}</svg>\n'
    )
