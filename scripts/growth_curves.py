"""Curves of `benchmarks/growth.py` on the page "How fast": a table and small pictures, cost over the number of items."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from diptych.report.escape import escape

Record = dict[str, Any]
QUANTITIES = {
    "build_cpu_seconds": "built, processor s",
    "build_gib": "GiB while it is built",
    "disk_gib": "GiB on disk",
    "search_cpu_ms": "a query, processor ms",
    "search_gib": "GiB after 100 queries",
}
DRAWN = ("build_cpu_seconds", "search_cpu_ms", "build_gib")
COLOURS = {"dense": "#2f6fde", "nested": "#23875a", "lexical": "#d9742b", "late": "#8a49c9", "curate": "#b03060"}
PANEL, GAP, HEIGHT, TOP, FOOT = 220, 50, 210, 56, 40


def table(machine: str, record: Record) -> list[str]:
    """A row for each part and quantity, a column for each size."""
    curves = record["curves"]
    sizes = sorted({row["items"] for rows in curves.values() for row in rows})
    lines = ["| class | what | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---|---|" + "---|" * len(sizes)]
    for name, rows in curves.items():
        at = {row["items"]: row for row in rows}
        for key, words in QUANTITIES.items():
            if key in rows[0]:
                values = " | ".join(f"{at[size][key]:.3g}" if size in at else "" for size in sizes)
                lines.append(f"| `{machine}` | {name}: {words} | {values} |")
    return lines


def picture(by_class: dict[str, Record], style: str) -> str:
    """A line of three panels for each class of machine: time to build, time of a query, memory; both axes are logarithmic."""
    shown = [(machine, record) for machine, record in by_class.items() if record.get("curves")]
    width, height = 60 + len(DRAWN) * (PANEL + GAP), TOP + len(shown) * (HEIGHT + FOOT)
    names = [name for name in COLOURS if any(name in record["curves"] for _, record in shown)]
    parts = [
        f'<rect x="{60 + 90 * place}" y="10" width="12" height="12" fill="{COLOURS[name]}"/>'
        f'<text x="{78 + 90 * place}" y="20">{escape(name)}</text>'
        for place, name in enumerate(names)
    ]
    for line, (machine, record) in enumerate(shown):
        for place, key in enumerate(DRAWN):
            curves = {name: [(row["items"], row[key]) for row in rows if key in row] for name, rows in record["curves"].items()}
            left, top = 60 + place * (PANEL + GAP), TOP + line * (HEIGHT + FOOT)
            parts += panel(
                {name: points for name, points in curves.items() if points}, left, top, f"{QUANTITIES[key]} ({machine})"
            )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><style>{style}</style>'
    return f"{head}{''.join(parts)}</svg>\n"


def panel(curves: dict[str, list[tuple[int, float]]], left: int, top: int, title: str) -> list[str]:
    sizes = sorted({size for points in curves.values() for size, _ in points})
    values = [value for points in curves.values() for _, value in points if value > 0]
    across = scale(min(sizes), max(sizes), left, left + PANEL)
    up = scale(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values))), top + HEIGHT - 20, top + 10)
    parts = [f'<text x="{left}" y="{top - 4}" fill="var(--soft)">{escape(title)}</text>']
    for decade in range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1):
        y = up(10.0**decade)
        parts.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end" fill="var(--soft)">{10.0**decade:g}</text>')
    for size in sizes:
        if math.log10(size).is_integer():
            words = f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1000},000"
            y = top + HEIGHT - 4
            parts.append(f'<text x="{across(size):.1f}" y="{y}" text-anchor="middle" fill="var(--soft)">{words}</text>')
    for name, points in curves.items():
        places = " ".join(f"{across(size):.1f},{up(value):.1f}" for size, value in points if value > 0)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place.split(",")[0]}" cy="{place.split(",")[1]}" r="3" fill="{COLOURS[name]}"/>'
            for place in places.split()
        ]
    return parts


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A value's place on a logarithmic axis."""
    width = math.log(high / low) or 1.0
    return lambda value: start + (end - start) * math.log(value / low) / width
