"""The page "Which system for my data": from the systems table, what recipes say they need, and the ledger. Nothing on it is typed in."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from diptych.claims import ledger, registry
from diptych.core import systems
from diptych.core.contracts import Recipe

FIELDS = {
    "image": "images",
    "texts": "texts",
    "regions": "boxes with names",
    "relations": "relations between boxes",
}
WORDS = {
    "shown": "helped",
    "equal within the margin": "made no difference",
    "open": "undecided",
    "no verdict": "withheld",
    "not shown": "no difference seen",
    "reversed": "hurt",
}
HEAD = """# Which system for my data

A published system was shown to help on its authors' data, at their size. What it does on yours, nobody knows before it is tried. This
page narrows the choice to what fits what you have, says what our own small runs showed, and ends with the command that decides.

Everything below was computed from the recipes and from the [ledger](../claims/index.md) when these pages were built.
"""
CAUTION = """## What was shown, and how small

Every line is a system against its own baseline at equal budget, over the seeds named; *helped* and *hurt* mean a two-sided t test over
seed-paired differences at .05. **All of it was run on two processor cores, with small presets, on rendered scenes or on emoji**: it
shows that a mechanism does something and in which direction, not how much it will do at a thousand times the size. *No difference seen*
is weak evidence: the effect may be smaller than the seeds' spread.
"""


def guide(ledger_file: Path) -> str:
    """The page, in Markdown, to lie in `systems/`."""
    return "\n".join([HEAD, *by_data(), "", CAUTION, *by_verdict(ledger_file), "", *decide()]) + "\n"


def by_data() -> list[str]:
    """Trainable systems by what a sample has to carry."""
    groups: dict[tuple[str, ...], list[systems.System]] = defaultdict(list)
    for row in built():
        entry = row.load()
        if inspect.isclass(entry) and issubclass(entry, Recipe):
            groups[tuple(entry.needs)].append(row)
    lines = ["## What your samples carry", "", "| every sample has | then you can train | what it does |", "|---|---|---|"]
    for needs, rows in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        what = ", ".join(FIELDS.get(need, f"`{need}`") for need in needs)
        for row in rows:
            lines.append(f"| {what} | [`{row.slug}`]({row.slug}.md) | {does(row)} |")
            what = ""
    planned = sum(not row.built for row in systems.SYSTEMS)
    return [
        *lines,
        "",
        "`diptych data inspect DIR` says which of these fields your data have. A recipe whose field is missing says so before it starts, "
        f"with the curation step that makes it. {planned} further systems are [planned](index.md).",
    ]


def by_verdict(ledger_file: Path) -> list[str]:
    """One line a claim, the newest verdict of each."""
    lines = ["| system | claim | on | verdict | difference |", "|---|---|---|---|---|"]
    waiting = []
    order = list(WORDS)
    found = [(claim, ledger.latest(ledger_file, claim.key)) for claim in registry.every()]
    for claim, line in sorted(found, key=lambda pair: order.index(pair[1].verdict) if pair[1] else len(order)):
        if line is None:
            waiting.append(f"`{claim.key}`")
            continue
        low, high = line.interval
        stale = "" if line.source_hash == claim.source_hash() else " (its code has changed since)"
        lines.append(
            f"| [`{claim.slug}`]({claim.slug}.md) | {claim.sentence} | {claim.data}; {claim.budget} | {WORDS[line.verdict]}{stale} "
            f"| {line.difference:+.3f} [{low:+.3f}, {high:+.3f}], {len(line.seeds)} seeds |"
        )
    return [*lines, "", f"Not run yet: {', '.join(waiting)}."] if waiting else lines


def decide() -> list[str]:
    pairs = [row.slug for row in built() if row.slug != "clip" and trains_on(row, ("image", "texts"))][:3]
    return [
        "## Decide on your own data",
        "",
        "```",
        "diptych data build pairs.csv data --group patient",
        "diptych data split data",
        f"diptych compare clip {' '.join(pairs)} --data data --seeds 3 --budget seconds:600",
        "```",
        "",
        "Three seeds, the same rows in the same order, the same seconds: the answer comes with intervals, the cost of each, and how many "
        "seeds a difference of one point would need ([comparing](../compare.md)).",
    ]


def built() -> Sequence[systems.System]:
    return [row for row in (*systems.BASELINES, *systems.SYSTEMS) if row.built]


def trains_on(row: systems.System, fields: tuple[str, ...]) -> bool:
    entry = row.load()
    return inspect.isclass(entry) and issubclass(entry, Recipe) and tuple(entry.needs) == fields


def does(row: systems.System) -> str:
    """What its module says of itself in the first line, without the name."""
    first = (inspect.getmodule(row.load()).__doc__ or row.title).strip().splitlines()[0]
    return first.partition(": ")[2] or first
