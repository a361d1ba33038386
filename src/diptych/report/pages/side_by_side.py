"""Page of several recipes on the same data: metrics over seeds, with intervals, chance and minutes; curves, answers, failures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_atomic
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.report import page
from diptych.report.curves import Bar, LineSeries, charts, interval_chart, legend, line_chart
from diptych.report.evaluation import hits_and_misses, stored_results
from diptych.report.pages.run import data_blocks
from diptych.report.pictures import Album


@dataclass(frozen=True, slots=True)
class RecipeRuns:
    """Runs of one recipe, one a seed, and the minutes that each took from data to result."""

    name: str
    runs: tuple[RunFolder, ...]
    minutes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PageText:
    """Text of the page around the numbers. `curation`: step, rows before, rows after, seconds. `searches`: words and result uids."""

    title: str
    lead: str
    inspection: tuple[str, ...] = ()
    curation: tuple[tuple[str, int, int, float], ...] = ()
    searches: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds; without an interval (NaN) for a single seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def side_by_side(path: Path, sides: Sequence[RecipeRuns], data: Dataset, story: PageText) -> Path:
    """Writes the page."""
    album = Album(data)
    results = {side.name: _by_part(side) for side in sides}
    parts = list(next(iter(results.values())))
    curation = page.table(("step", "rows before", "rows after", "seconds"), story.curation)
    sections = [
        page.Section("Result", _result_blocks(sides, results, parts)),
        page.Section("Search", _search_blocks(story, album)),
        page.Section("Data", (*data_blocks(album), curation, page.lines(story.inspection))),
        page.Section("Training", _curves(sides)),
        *_answers(sides, album),
        page.Section("How it was made", _origin_blocks(sides)),
    ]
    environment = sides[0].runs[0].state.get("environment", {})
    footer = (
        f"commit {environment.get('commit') or 'unknown'}, {environment.get('cores')} cores, {environment.get('memory_gib')} GiB"
    )
    write_atomic(path, page.page(story.title, story.lead, sections, footer=footer))
    return path


def _by_part(side: RecipeRuns) -> dict[str, list[Result]]:
    by_part: dict[str, list[Result]] = {}
    for run in side.runs:
        for kept in stored_results(run.records):
            if kept.result.task == "retrieval":
                by_part.setdefault(kept.part.rpartition("/")[2], []).append(kept.result)
    return by_part


def _result_blocks(
    sides: Sequence[RecipeRuns], results: dict[str, dict[str, list[Result]]], parts: Sequence[str]
) -> tuple[str, ...]:
    rows: list[tuple[object, ...]] = []
    bars = []
    for part in parts:
        for colour, side in enumerate(sides):
            runs = results[side.name][part]
            chance = runs[0].metrics["t2i_r@1"].chance
            values = {name: [r.metrics[name].value for r in runs] for name in ("t2i_r@1", "t2i_r@5", "i2t_r@1")}
            mean, low, high = over_seeds(values["t2i_r@1"])
            item = runs[0].metrics["t2i_r@1"]
            interval = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
            rows.append(
                (
                    part.replace("_", " "),
                    side.name,
                    f"{mean:.3f}{interval}",
                    float(np.mean(values["t2i_r@5"])),
                    float(np.mean(values["i2t_r@1"])),
                    f"{chance:.4f}",
                    f"{item.low:.3f} to {item.high:.3f}",
                    f"{float(np.mean(side.minutes)):.1f}",
                )
            )
            bars.append(Bar(f"{part.replace('_', ' ')}, {side.name}", mean, low, high, tuple(values["t2i_r@1"]), chance, colour))
    head = (
        "held out",
        "recipe",
        "text→image R@1 [95 % over seeds]",
        "R@5",
        "image→text R@1",
        "chance R@1",
        "groups, first run",
        "minutes a run",
    )
    seeds = len(sides[0].runs)
    note = f"{seeds} seeds. Dots are seeds, the bar is the 95 % t interval of their mean, the dashed tick is chance. "
    note += "The column 'groups' is the bootstrap interval over concepts of one run: it says nothing about the recipe."
    return (
        interval_chart("Text to image: is the right picture the first answer? (recall at 1)", bars),
        legend([(side.name, k) for k, side in enumerate(sides)]),
        page.table(head, rows),
        page.text(note, note=True),
    )


def _search_blocks(story: PageText, album: Album) -> tuple[str, ...]:
    rows = [
        page.query_row(words, "", [page.figure(*album.of(uid)) for uid in album.present(uids)]) for words, uids in story.searches
    ]
    return tuple(rows)


def _curves(sides: Sequence[RecipeRuns]) -> tuple[str, ...]:
    shown = []
    for colour, side in enumerate(sides):
        lines = []
        for run in side.runs:
            points = tuple((m["step"], m["loss"]) for m in run.metrics() if m.get("kind") == "train")
            lines.append(LineSeries(side.name, points, colour))
        shown.append(line_chart(f"loss of {side.name}, one line a seed", lines))
    return (charts(shown),)


def _answers(sides: Sequence[RecipeRuns], album: Album) -> list[page.Section]:
    """Hits and misses of the first run of each recipe."""
    neighbours: list[str] = []
    failures: list[str] = []
    for side in sides:
        for kept in stored_results(side.runs[0].records):
            drawn, worst = hits_and_misses(kept, album, count=3)
            if drawn:
                title = page.heading(f"{side.name}, {kept.part.rpartition('/')[2].replace('_', ' ')}")
                neighbours += [title, *drawn]
                failures += [title, *worst]
    note = page.text("Text queries drawn at random and their nearest pictures; a right answer has a green frame.", note=True)
    return [
        page.Section("Nearest neighbours", (note, *neighbours) if neighbours else ()),
        page.Section(
            "Failures", (page.text("The queries whose right answer came last.", note=True), *failures) if failures else ()
        ),
    ]


def _origin_blocks(sides: Sequence[RecipeRuns]) -> tuple[str, ...]:
    import yaml

    blocks = []
    for side in sides:
        config = side.runs[0].config
        for section in config.values():
            section.update({k: f"({len(v):,} characters)" for k, v in section.items() if isinstance(v, str) and len(v) > 200})
        blocks.append(page.folded(f"Configuration of {side.name}", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)))
    environment = sides[0].runs[0].state.get("environment", {})
    return (*blocks, page.folded("Environment", json.dumps(environment, indent=2)))
