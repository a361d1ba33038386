"""From the results of cells to measures: means, seed-paired differences, Holm, item-level views, what more seeds would show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
from scipy import stats

from diptych.claims.cell import CellResult
from diptych.claims.controls.raw_input import BLIND, Values
from diptych.claims.verdict import MINIMUM_SEEDS, Margins, equivalence_p, holm, paired_difference, seeds_needed, withheld, word
from diptych.comparisons import job as cells
from diptych.comparisons.statistics import item_view, items_needed
from diptych.core.contracts import Dataset, TaskByItem
from diptych.core.result import Result
from diptych.report.comparison_result import Contrast, ItemDifference, Measure
from diptych.tasks._scoring.records import read_records

POINT = 0.01
NORMAL_95 = 1.959964


def measures_of(
    arms: Sequence[str],
    finished: Sequence[CellResult],
    folders: Mapping[str, Mapping[int, str]],
    parts: Mapping[str, Dataset],
    tasks: Sequence[str],
    *,
    given: bool,
    margins: Margins,
    controls: Values | None = None,
) -> list[Measure]:
    """Every metric of every task on held-out splits, `parts` by name, the main one of each first. `controls` are those of `raw_values`."""

    @cache
    def records(arm: str, seed: int, task: str, split: str) -> pa.Table:
        return read_records(cells.records_of(Path(folders[arm][seed]), task, parts[split].name))

    measures = []
    for task in tasks:
        made = cells.make_task(task)
        for split in parts:
            by_cell = {(c.arm, c.seed): c.results[task][split] for c in finished}
            example = next(iter(by_cell.values()))
            for metric in [example.main, *(name for name in example.metrics if name != example.main)]:
                values = _values(arms, by_cell, metric)
                contrasts = []
                for arm in arms[1:]:
                    seeds = sorted(values[arms[0]].keys() & values[arm].keys())
                    view = None
                    if seeds and isinstance(made, TaskByItem) and (metric == example.main or given):
                        one, two = (records(side, seeds[0], task, split) for side in (arms[0], arm))
                        view = item_view(one, two, partial(made.item_values, metric=metric))
                    pair = [[values[side][seed] for seed in seeds] for side in (arms[0], arm)]
                    view = replace(view, seed=seeds[0]) if view else None
                    contrasts.append(
                        _contrast_of_given(arm, pair, view, margins)
                        if given
                        else _contrast_of_trained(arm, pair, view, metric == example.main, margins)
                    )
                raw = {
                    name: value
                    for name, by_task in (controls or {}).items()
                    if (value := by_task.get(task, {}).get(split, {}).get(metric)) is not None and math.isfinite(value)
                }
                measures.append(_measure(task, split, metric, example, values, contrasts, margins, raw, given=given))
    return measures


def _values(arms: Sequence[str], by_cell: Mapping[tuple[str, int], Result], metric: str) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    for (arm, seed), result in by_cell.items():
        if metric in result.metrics:
            values[arm][seed] = result.metrics[metric].value
    return values


def _measure(
    task: str,
    split: str,
    metric: str,
    example: Result,
    values: dict[str, dict[int, float]],
    contrasts: Sequence[Contrast],
    margins: Margins,
    controls: dict[str, float],
    *,
    given: bool,
) -> Measure:
    main = metric == example.main
    higher = example.metrics[metric].higher_is_better
    first, *others = values.values()
    pairs = [len(first.keys() & other.keys()) for other in others]
    judged = judge_contrasts(contrasts, margins, seeds_decide=not given, higher_is_better=higher, pairs=pairs)
    if not given:
        judged = [_withheld(contrast, values, controls, higher_is_better=higher) for contrast in judged]
    return Measure(
        task=task,
        split=split,
        metric=metric,
        main=main,
        higher_is_better=higher,
        chance=example.metrics[metric].chance,
        n_items=example.n_items,
        n_groups=example.n_groups,
        values=values,
        contrasts=tuple(judged),
        controls=controls,
    )


def _withheld(
    contrast: Contrast, values: dict[str, dict[int, float]], controls: dict[str, float], *, higher_is_better: bool
) -> Contrast:
    """The contrast by the rule of claims: no verdict where nothing was learned, or where a control is above the first arm."""
    if contrast.verdict == "no verdict" or not controls:
        return contrast
    first, other = next(iter(values.values())), values[contrast.arm]
    seeds = sorted(first.keys() & other.keys())
    why, _ = withheld(
        [first[seed] for seed in seeds],
        [other[seed] for seed in seeds],
        {name: [value] * len(seeds) for name, value in controls.items()},
        higher_is_better=higher_is_better,
        blind=BLIND,
    )
    if why:
        learned = "nothing learned: " if why.startswith("neither arm") else ""
        return replace(contrast, verdict="no verdict", why=f"{learned}{why}")
    return contrast


def _contrast_of_trained(
    arm: str, pair: Sequence[Sequence[float]], view: ItemDifference | None, main: bool, margins: Margins
) -> Contrast:
    first, other = pair
    if not first or not all(map(math.isfinite, [*first, *other])):
        return Contrast(
            arm, math.nan, math.nan, math.nan, math.nan, math.nan, "no verdict", view, why="no cell of it came to a result"
        )
    if len(first) == 1:
        return Contrast(arm, other[0] - first[0], math.nan, math.nan, math.nan, math.nan, "no verdict", view, why="one seed")
    d = paired_difference(first, other)
    needed = seeds_needed(d.spread, POINT) if main else 0
    items = items_needed(view.discordant) if view else 0
    p_equal = equivalence_p(d, margins.equivalence)
    return Contrast(arm, d.mean, d.low, d.high, d.p, d.p, "no verdict", view, needed, items, p_equal)


def _contrast_of_given(arm: str, pair: Sequence[Sequence[float]], view: ItemDifference | None, margins: Margins) -> Contrast:
    first, other = pair
    difference = other[0] - first[0] if first else math.nan
    if view is None:
        why = "the metric is no mean over items"
        return Contrast(arm, difference, math.nan, math.nan, math.nan, math.nan, "no verdict", why=why)
    needed = items_needed(view.discordant)
    error = (view.high - view.low) / (2 * NORMAL_95)  # the resampled means are close to normal
    room = margins.equivalence - abs(view.difference)
    p_equal = float(stats.norm.sf(room / error)) if error else float(room <= 0)
    return Contrast(arm, view.difference, view.low, view.high, view.p, view.p, "no verdict", view, 0, needed, p_equal)


def judge_contrasts(
    contrasts: Sequence[Contrast], margins: Margins, *, seeds_decide: bool, higher_is_better: bool, pairs: Sequence[int]
) -> list[Contrast]:
    """The same with Holm-adjusted p and a verdict, where there is enough to give one. `pairs` counts the seeds of each."""
    finite = [i for i, c in enumerate(contrasts) if math.isfinite(c.p)]
    adjusted = dict(zip(finite, holm([contrasts[i].p for i in finite]), strict=True))
    equal = dict(zip(finite, holm([contrasts[i].p_equal for i in finite]), strict=True))
    done = []
    for i, contrast in enumerate(contrasts):
        if i not in adjusted:
            done.append(contrast)
            continue
        adjusted_contrast = replace(contrast, p_holm=adjusted[i], p_equal=equal[i])
        if seeds_decide and pairs[i] < MINIMUM_SEEDS:
            done.append(replace(adjusted_contrast, why=f"{pairs[i]} seeds; a verdict needs {MINIMUM_SEEDS}"))
            continue
        interval = (contrast.low, contrast.high)
        verdict = word(contrast.difference, interval, adjusted[i], equal[i], margins, higher_is_better=higher_is_better)
        done.append(replace(adjusted_contrast, verdict=verdict))
    return done
