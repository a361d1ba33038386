"""Report of one run: data, curves, metrics with intervals, hits and misses, configuration, environment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_atomic
from diptych.core.run_folder import RunFolder
from diptych.report import page
from diptych.report.clouds import cloud_up, turntables
from diptych.report.confusions import confused
from diptych.report.curves import LineSeries, charts, line_chart
from diptych.report.evaluation import StoredResult, chart_of, graphs_compared, hits_and_misses, stored_results, table_of
from diptych.report.failures import failure_blocks
from diptych.report.pictures import Album

MAIN = ("r@1", "acc@1", "r@5", "r@50")
"""Of the metrics of an evaluation inside a run, the first of these is drawn."""
SKIPPED = {"step", "kind", "loss", "lr", "grad_norm", "images_per_second", "seconds", "tflops", "mfu"}


def run_report(folder: RunFolder, data: Dataset | None = None, further: Sequence[page.Section] = ()) -> Path:
    """Writes `report.html` of a run and returns its path. With `data`, pictures of samples, answers and failures are shown; `further`
    sections follow them."""
    state, lines = folder.state, list(folder.metrics())
    results = stored_results(folder.records)
    album = Album(data) if data is not None else None
    sections = [
        page.Section("Result", (page.cards(_numbers(state, lines, results, folder.training_seconds())), chart_of(results))),
        page.Section("Training", training_blocks(lines)),
        page.Section("Evaluation", tuple(table_of(kept) for kept in results)),
    ]
    if album is not None:
        sections.insert(1, page.Section("Data", data_blocks(album)))
        sections += answers(results, album)
        turned = [block for kept in results for block in turntables(kept, album, up=cloud_up(folder.model))]
        note = page.text("Clouds drawn at random, from all around, with the texts that are nearest to them.", note=True)
        sections.append(page.Section("Point clouds", (note, *turned) if turned else ()))
    sections += further
    sections.append(page.Section("How it was made", configuration_blocks(folder, state)))
    title = f"{state['slug']} on {state.get('data', {}).get('name', 'data')}"
    lead = f"A run of diptych: {state['status']} after {state.get('step', 0):,} steps."
    write_atomic(folder.report, page.page(title, lead, sections, footer=_footer(state)))
    return folder.report


def _numbers(
    state: dict[str, Any], lines: list[dict[str, Any]], results: list[StoredResult], seconds: float
) -> list[tuple[str, str]]:
    numbers = [
        (f"{metric.value:.3f}", f"{kept.result.main} on {kept.part.rpartition('/')[2]}{_chance(metric.chance)}")
        for kept in results
        for metric in [kept.result.metrics[kept.result.main]]
    ]
    train = [line for line in lines if line.get("kind") == "train"]
    if train:
        numbers.append((f"{seconds / 60:.1f}", f"minutes for {state.get('step', 0):,} steps"))
        speeds = sorted(line["images_per_second"] for line in train if line.get("images_per_second"))
        if speeds:
            numbers.append((f"{speeds[len(speeds) // 2]:,.0f}", "samples per second (median)"))
        if shares := sorted(line["mfu"] for line in train if line.get("mfu")):
            numbers.append((f"{shares[len(shares) // 2]:.1%}", "of the device's peak in model FLOPs (MFU, median)"))
        elif rates := sorted(line["tflops"] for line in train if line.get("tflops")):
            numbers.append((f"{rates[len(rates) // 2]:.3g}", "model TFLOP/s of a process (median)"))
    return numbers


def _chance(level: float) -> str:
    """Chance level of a metric; some protocols have none."""
    return f" (chance {level:.4f})" if math.isfinite(level) else ""


def training_blocks(lines: list[dict[str, Any]]) -> tuple[str, ...]:
    """Loss, learning rate and all other values that the recipe logged, over steps; evaluations during the run."""
    train = [line for line in lines if line.get("kind") == "train"]
    extra = sorted({key for line in train for key in line} - SKIPPED)
    names = ["loss", "lr", "grad_norm", *(name for name in extra if name != "contrastive")]
    shown = [line_chart(name.replace("_", " "), [LineSeries(name, _points(train, name))]) for name in names]
    inside = [line for line in lines if line.get("kind") == "eval"]
    shown += [line_chart(key, [LineSeries(key, _points(inside, key), 1)]) for key in _main_keys(inside)]
    notes = [line["text"] for line in lines if line.get("kind") == "note" and "text" in line]
    return (charts([chart for chart in shown if chart]), page.lines(notes) if notes else "")


def _points(lines: list[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float))


def _main_keys(inside: list[dict[str, Any]]) -> list[str]:
    """Main metric of each evaluation, such as "retrieval-val/r@1"."""
    there = {key for line in inside for key in line}
    names = sorted({key.rpartition("/")[0] for key in there if "/" in key})
    keys = (next((key for main in MAIN if (key := f"{name}/{main}") in there), "") for name in names)
    return [key for key in keys if key]


def data_blocks(album: Album, *, count: int = 24) -> tuple[str, ...]:
    """Sample pictures of the data: evenly spaced samples with their first caption."""
    uids = album.data.uids
    chosen = [uids[i * len(uids) // count] for i in range(min(count, len(uids)))]
    step = max(1, len(uids) // count)
    words = f"{album.data.name}: {len(uids):,} samples, fingerprint {album.data.fingerprint}. Every {step:,}th is shown."
    return (page.text(words, note=True), page.sheet(page.figure(*album.of(uid)) for uid in chosen))


def answers(results: list[StoredResult], album: Album) -> list[page.Section]:
    """Examples of answers: neighbours and failures of every retrieval result, captions that a probe found confused, true and predicted
    graphs of every relation result."""
    neighbours: list[str] = []
    missed: list[str] = []
    graphs = [block for kept in results for block in graphs_compared(kept, album)]
    wrong = [block for kept in results for block in confused(kept, album)]
    for kept in results:
        drawn, worst = hits_and_misses(kept, album)
        if drawn:
            neighbours += [page.heading(kept.part), *drawn]
            missed += [page.heading(kept.part), *worst]
    browsed = [block for kept in results if (folds := failure_blocks(kept, album)) for block in (page.heading(kept.part), *folds)]
    note = page.text("Text queries and their nearest pictures; a right answer has a green frame.", note=True)
    return [
        page.Section("Nearest neighbours", (note, page.text("Drawn at random.", note=True), *neighbours) if neighbours else ()),
        page.Section(
            "Worst queries", (page.text("The queries whose right answer came last.", note=True), *missed) if missed else ()
        ),
        page.Section("Failures", (page.text("All that is wrong, by group.", note=True), *browsed) if browsed else ()),
        page.Section("Confused captions", (page.text("The widest apart come first.", note=True), *wrong) if wrong else ()),
        page.Section("Scene graphs", (page.text("Drawn at random.", note=True), *graphs) if graphs else ()),
    ]


def configuration_blocks(folder: RunFolder, state: dict[str, Any]) -> tuple[str, ...]:
    """Configuration and environment, folded away."""
    config = folder.config
    for section in config.values():
        for key, value in section.items():
            if isinstance(value, str) and len(value) > 200:
                section[key] = f"({len(value):,} characters, in prepared.json)"
    return (
        page.folded("Configuration", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)),
        page.folded("Environment", json.dumps(state.get("environment", {}), indent=2)),
        page.folded("Data", json.dumps(state.get("data", {}), indent=2)),
    )


def _footer(state: dict[str, Any]) -> str:
    made = state.get("environment", {})
    packages = made.get("packages", {})
    return f"diptych {packages.get('diptych', '')}, commit {made.get('commit') or 'unknown'}, torch {packages.get('torch', '')}"
