"""The page "Which system for my data": from the systems table, what recipes say they need, and the ledger. Nothing on it is typed in."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from diptych.claims import registry
from diptych.claims.table import processor_hours, rows
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
    "reversed": "hurt",
    "equal within the margin": "made no difference that matters",
    "open": "undecided",
    "no verdict": "withheld: a control did as well",
    "not judged": "not judged",
}
REAL = (
    ({"texts"}, "`emoji`, the packaged abstracts of MEDLINE"),
    ({"image", "texts"}, "`emoji`, `openclipart`, `stamps`, `icons`"),
    ({"image", "texts", "regions"}, "`geography`"),
)
"""Fields of samples -> real data that have them: packaged, or built by `diptych data fetch NAME`."""
HEAD = """# Which system for my data

A published system was shown to help on its authors' data, at their size. What it does on yours, nobody knows before it is tried. This
page narrows the choice to what fits what you have, says what our own small runs showed, and ends with the command that decides.

Everything below was computed from the recipes and from the [ledger](../claims/index.md) when these pages were built.
"""
CAUTION = """## What was shown, and how small

Every line is a system against its own baseline at equal, measured budget, over the seeds named, with controls; *helped* and *hurt* mean
a two-sided t test over seed-paired differences at .05 whose interval reaches what was declared to matter, main claims after Holm's
correction over all of them, those without a verdict too. **All of it was run on two
processor cores, with small presets**, on real data (emoji, abstracts of MEDLINE) where the table says so and else on rendered pictures: it
shows that a mechanism does something and in which direction, not how much it will do at a thousand times the size. *Undecided* is weak
evidence: the effect may be smaller than the seeds' spread.
"""


def guide(folder: Path) -> str:
    """The page, in Markdown, to lie in `systems/`."""
    return "\n".join([HEAD, CAUTION, *by_verdict(folder), "", *by_data(), "", *decide()]) + "\n"


def by_data() -> list[str]:
    """Trainable systems by what a sample has to carry."""
    groups: dict[tuple[str, ...], list[systems.System]] = defaultdict(list)
    for row in built():
        entry = row.load()
        if inspect.isclass(entry) and issubclass(entry, Recipe):
            groups[tuple(entry.needs)].append(row)
    lines = ["## What your samples carry", "", "| every sample has | then you can train | what it does | real data at hand |"]
    lines.append("|---|---|---|---|")
    for needs, members in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        what = ", ".join(FIELDS.get(need, f"`{need}`") for need in needs)
        data = real_data(needs)
        for row in members:
            lines.append(f"| {what} | [`{row.slug}`]({row.slug}.md) | {does(row)} | {data} |")
            what = data = ""
    planned = sum(not row.built for row in systems.SYSTEMS)
    return [
        *lines,
        "",
        "`diptych data inspect DIR` says which of these fields your data have. A recipe whose field is missing says so before it starts, "
        "with the curation step that makes it. Real data at hand are packaged (`emoji`) or built by `diptych data fetch NAME`; where none "
        f"are named, `world:NAME` renders some ([worlds](../worlds.md)). {planned} further systems are [planned](index.md).",
    ]


def real_data(needs: Sequence[str]) -> str:
    """Names of real data whose samples have all of these fields; "" where none are known."""
    return next((names for fields, names in REAL if needs and {*needs} <= fields), "")


def by_verdict(folder: Path) -> list[str]:
    """One line a claim that has a verdict, the best news first."""
    order = list(WORDS)
    found = sorted(rows(folder, registry.every()), key=lambda row: order.index(row.counted))
    judged = [(row, row.entry) for row in found if row.entry]
    waiting = [f"`{row.claim.key}`" for row in found if row.entry is None]
    lines = ["| system | claim | data | verdict | difference |", "|---|---|---|---|---|"] if judged else []
    for row, entry in judged:
        low, high = entry.interval
        state = "" if row.state == "fresh" else " (its code has changed since)"
        lines.append(
            f"| [`{row.claim.slug}`]({row.claim.slug}.md) | {row.claim.sentence} | {row.claim.data} | {WORDS[row.counted]}{state} "
            f"| {entry.difference:+.3f} [{low:+.3f}, {high:+.3f}], {len(entry.seeds)} seeds |"
        )
    lines += ["", f"All verdicts together took {processor_hours(found):.1f} processor hours."]
    return [*lines, "", f"Not judged by the present rules yet: {', '.join(waiting)}."] if waiting else lines


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
