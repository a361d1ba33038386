"""From the results of cells to measures: means, seed-paired differences, Holm, item-level views, what more seeds would show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.claims import cell as cells
from diptych.claims.cell import CellResult
from diptych.claims.statistics import item_view, items_needed
from diptych.claims.verdict import LEVEL, MINIMUM_SEEDS, holm, paired_difference, seeds_needed
from diptych.report.measured import Contrast, ItemView, Measure, Word
from diptych.tasks.records import read_records

POINT = 0.01
LOWER_IS_BETTER = re.compile(r"(?:^|_)medr$")


def measures_of(
    arms: Sequence[str],
    found: Sequence[CellResult],
    folders: Mapping[str, Mapping[int, str]],
    whole: Any,
    tasks: Sequence[str],
    *,
    given: bool,
) -> list[Measure]:
    """Every metric of every task on every held-out split, the main one of each first."""
    names = {split: part.name for split, part in cells.held_out(whole).items()}
    measures = []

    @cache
    def records(arm: str, seed: int, task: str, split: str) -> pa.Table:
        return read_records(cells.records_of(Path(folders[arm][seed]), task, names[split]))

    for task in tasks:
        for split in names:
            by_cell = {(c.arm, c.seed): c.results[task][split] for c in found}
            example = next(iter(by_cell.values()))
            metrics = [example.main, *(name for name in example.metrics if name != example.main)]
            for metric in metrics:
                values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
                for (arm, seed), result in by_cell.items():
                    if metric in result.metrics:
                        values[arm][seed] = result.metrics[metric].value
                lower = LOWER_IS_BETTER.search(metric) is not None
                higher = example.higher_is_better if metric == example.main else not lower
                contrasts = []
                for arm in arms[1:]:
                    common = sorted(values[arms[0]].keys() & values[arm].keys())
                    view = None
                    if common and (metric == example.main or (given and re.match(r"(r|acc)@", metric))):
                        a, b = (records(side, common[0], task, split) for side in (arms[0], arm))
                        view = item_view(a, b, metric)
                    pair = [[values[side][seed] for seed in common] for side in (arms[0], arm)]
                    contrasts.append(_given(arm, pair, view) if given else _trained(arm, pair, view, metric == example.main))
                measures.append(
                    Measure(
                        task=task,
                        split=split,
                        metric=metric,
                        main=metric == example.main,
                        higher_is_better=higher,
                        chance=example.metrics[metric].chance,
                        n_items=example.n_items,
                        n_groups=example.n_groups,
                        values=values,
                        contrasts=tuple(
                            decided(contrasts, seeds_decide=not given, higher_is_better=higher, pairs=_pairs(values, arms))
                        ),
                    )
                )
    return measures


def _pairs(values: Mapping[str, Mapping[int, float]], arms: Sequence[str]) -> list[int]:
    return [len(values[arms[0]].keys() & values[arm].keys()) for arm in arms[1:]]


def _trained(arm: str, pair: Sequence[Sequence[float]], view: ItemView | None, main: bool) -> Contrast:
    first, other = pair
    if not first or not all(map(math.isfinite, [*first, *other])):
        return Contrast(arm, math.nan, math.nan, math.nan, math.nan, math.nan, "no verdict", view)
    if len(first) == 1:
        return Contrast(arm, other[0] - first[0], math.nan, math.nan, math.nan, math.nan, "not enough seeds", view)
    d = paired_difference(first, other)
    needed = seeds_needed(d.spread, POINT) if main else 0
    items = items_needed(view.discordant) if view else 0
    return Contrast(arm, d.mean, d.low, d.high, d.p, d.p, "not enough seeds", view, needed, items)


def _given(arm: str, pair: Sequence[Sequence[float]], view: ItemView | None) -> Contrast:
    first, other = pair
    difference = other[0] - first[0] if first else math.nan
    if view is None:
        return Contrast(arm, difference, math.nan, math.nan, math.nan, math.nan, "no verdict")
    needed = items_needed(view.discordant)
    return Contrast(arm, view.difference, view.low, view.high, view.p, view.p, "no verdict", view, 0, needed)


def decided(contrasts: Sequence[Contrast], *, seeds_decide: bool, higher_is_better: bool, pairs: Sequence[int]) -> list[Contrast]:
    """The same with Holm-adjusted p and a verdict, where there is enough to give one. `pairs` counts the seeds of each."""
    known = [i for i, c in enumerate(contrasts) if math.isfinite(c.p)]
    adjusted = dict(zip(known, holm([contrasts[i].p for i in known]), strict=True))
    done = []
    for i, contrast in enumerate(contrasts):
        word: Word = contrast.verdict
        p = adjusted.get(i, math.nan)
        if math.isfinite(p) and (not seeds_decide or pairs[i] >= MINIMUM_SEEDS):
            word = "not shown" if p >= LEVEL else "better" if (contrast.difference > 0) == higher_is_better else "worse"
        done.append(replace(contrast, p_holm=p, verdict=word))
    return done
