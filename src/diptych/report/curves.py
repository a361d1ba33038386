"""Line charts and interval charts as inline SVG. Colours come from the page's variables, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.report.escape import escape

WIDTH, HEIGHT = 360, 220  # about what a phone, or a column of a wide page, has in pixels: text is as large as it says
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 30
FEW = 12
"""Points of a line that are each marked: a line through one of them is nothing to see."""
CHARACTER = 6.5  # of the axis font, at most, in units of the view box


@dataclass(frozen=True, slots=True)
class LineSeries:
    """A named series; `colour` picks one of six."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0


def line_chart(
    title: str, series: Sequence[LineSeries], *, x_label: str = "step", reference: tuple[str, float] | None = None
) -> str:
    """Line chart of series over a common axis. Points that are not finite are left out; `reference` draws a dashed level (chance)."""
    series = [LineSeries(s.name, tuple(p for p in s.points if all(map(math.isfinite, p))), s.colour) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return ""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points] + ([reference[1]] if reference else [])
    x_low, x_high = min(xs), max(xs)
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    label_from = WIDTH - RIGHT - CHARACTER * (len(x_label) + 2)
    for tick in ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        if x_low <= tick <= x_high and x + CHARACTER * len(f"{tick:g}") / 2 < label_from:
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(x_label)}</text>')
    if reference:
        _, y = place(x_low, reference[1])
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--soft)" stroke-dasharray="4 4"/>'
            f'<text x="{LEFT + 6}" y="{y - 5:.1f}">{escape(reference[0])}</text>'
        )
    for s in series:
        path, colour = [place(*p) for p in s.points], f"var(--s{s.colour % 6})"
        along = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        parts.append(f'<polyline points="{along}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(path) <= FEW:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in path]
    return _chart(title, WIDTH, HEIGHT, parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with an interval, single observations (seeds) as points, and the level of chance."""

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    points: tuple[float, ...] = ()
    chance: float = math.nan
    colour: int = 0


def interval_chart(title: str, bars: Sequence[Bar]) -> str:
    """Interval chart, one row a bar: dots for the observations, a thick tick for the value, a line for the interval, a grey tick for
    chance."""
    bars = [b for b in bars if math.isfinite(b.value)]
    if not bars:
        return ""
    row, left = 44, 8  # the name stands above its bar, where there is room for it on a phone
    height = TOP + row * len(bars) + BOTTOM
    top = ticks(0.0, max(v for b in bars for v in (b.value, b.high, *b.points) if math.isfinite(v)))[-1]

    def across(value: float) -> float:
        return left + min(max(value, 0.0), top) / (top or 1) * (WIDTH - left - RIGHT - 50)

    parts = []
    for tick in ticks(0.0, top):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="var(--line)"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    for i, bar in enumerate(bars):
        y, colour = TOP + row * (i + 0.66), f"var(--s{bar.colour % 6})"
        parts.append(f'<text x="{left}" y="{y - 14:.1f}">{escape(bar.name)}</text>')
        if math.isfinite(bar.chance):
            x = across(bar.chance)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{y + 9}" stroke="var(--soft)" stroke-dasharray="2 2"/>'
            )
        if math.isfinite(bar.low):
            ends = f'x1="{across(bar.low):.1f}" x2="{across(bar.high):.1f}"'
            parts.append(f'<line {ends} y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3" stroke-opacity=".45"/>')
        parts += [f'<circle cx="{across(p):.1f}" cy="{y}" r="3.2" fill="{colour}" fill-opacity=".75"/>' for p in bar.points]
        x = across(bar.value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{colour}" stroke-width="3"/>')
        reach = max(v for v in (bar.value, bar.high, *bar.points) if math.isfinite(v))
        parts.append(f'<text x="{across(reach) + 9:.1f}" y="{y + 4:.1f}">{bar.value:.3f}</text>')
    return _chart(title, WIDTH, height, parts)


def bar_chart(title: str, counts: Mapping[str, int], *, colour: int = 0) -> str:
    """Bar chart of counts, one row a name, in the order given."""
    if not counts:
        return ""
    row, left = 26, 130
    height, most = TOP + row * len(counts) + 8, max(*counts.values(), 1)
    parts = []
    for i, (name, count) in enumerate(counts.items()):
        y, width = TOP + row * i, count / most * (WIDTH - left - 90)
        short = name if len(name) <= 20 else name[:19] + "…"
        parts.append(f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(short)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 4}" width="{max(width, 1):.1f}" height="17" rx="3" fill="var(--s{colour % 6})"/>')
        parts.append(f'<text x="{left + width + 8:.1f}" y="{y + 16}">{count:,}</text>')
    return _chart(title, WIDTH, height, parts)


def legend(names: Sequence[tuple[str, int]]) -> str:
    """Legend of (name, colour) pairs."""
    items = "".join(f'<span><i style="background:var(--s{colour % 6})"></i>{escape(name)}</span>' for name, colour in names)
    return f'<div class="legend">{items}</div>'


def charts(items: Sequence[str]) -> str:
    """Charts side by side where the page is wide enough."""
    shown = "".join(items)
    return f'<div class="charts">{shown}</div>' if shown else ""


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round tick values that enclose [low, high].

    >>> ticks(0.0, 0.37)
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * base >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _chart(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    name, body = escape(title), "".join(parts)
    return f'<div><h3>{name}</h3><svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{body}</svg></div>'
