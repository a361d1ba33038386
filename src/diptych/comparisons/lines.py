"""A comparison in lines for a terminal: main metrics, what decides, what it cost, what more seeds would show."""

from __future__ import annotations

import math

from diptych.report.comparison_result import ComparisonResult, Contrast, Measure


def lines(measured: ComparisonResult) -> list[str]:
    """The first arm is what the others are measured against."""
    width = max(map(len, measured.arms))
    lines: list[str] = []
    for measure in measured.main_measures:
        lines += [*_measure(measured, measure, width), ""]
    lines += _looks(measured)
    lines += _costs(measured, width)
    lines += [f"failed: {f.arm}, seed {f.seed}: {f.reason}" for f in measured.failures]
    return lines


def _measure(measured: ComparisonResult, measure: Measure, width: int) -> list[str]:
    chance = f", chance {measure.chance:.4f}" if math.isfinite(measure.chance) else ""
    lines = [
        f"{measure.split}: {measure.task} {measure.metric}, {measure.n_items:,} items in {measure.n_groups:,} groups{chance}"
    ]
    by_arm = {contrast.arm: contrast for contrast in measure.contrasts}
    for arm in measured.arms:
        seeds = " ".join(f"{value:.3f}" for value in measure.values.get(arm, {}).values())
        if not seeds:
            lines.append(f"  {arm:<{width}}  no result")
            continue
        ofs = "" if measured.given or len(measured.seeds) == 1 else f"  (seeds {seeds})"
        contrast = by_arm.get(arm)
        lines.append(
            f"  {arm:<{width}}  {measure.mean(arm):.3f}{ofs}" + (f"  {_difference(measured, contrast)}" if contrast else "")
        )
    if measure.controls:
        lines.append("  controls: " + ", ".join(f"{name} {value:.3f}" for name, value in measure.controls.items()))
    return lines + [line for contrast in measure.contrasts for line in _remarks(measured, contrast)]


def _looks(measured: ComparisonResult) -> list[str]:
    """Splits that are still unseen, with the arm that the seen ones choose; splits that were looked at more than once."""
    lines = []
    if measured.unseen and measured.main_measures:
        first = measured.main_measures[0]
        sign = 1.0 if first.higher_is_better else -1.0
        scored = [arm for arm in measured.arms if first.values.get(arm)]
        best = max(scored, key=lambda arm: sign * first.mean(arm))
        lines.append(
            f"best on {first.split}: {best}; not looked at: {', '.join(measured.unseen)} (--split scores the same cells there)"
        )
    shown = dict.fromkeys(measure.split for measure in measured.measures)
    for split in shown:
        if (times := measured.looks.get(split, 1)) > 1 and split != "val":
            lines.append(
                f"{split}: looked at {times} times in this folder; arms that were chosen by an earlier look fit it too well"
            )
    return lines


def _difference(measured: ComparisonResult, c: Contrast) -> str:
    span = f" [{c.low:+.3f}, {c.high:+.3f}]" if math.isfinite(c.low) else ""
    p = f", p {c.p_holm:.3g}" if math.isfinite(c.p_holm) else ""
    holm = " (Holm)" if p and len(measured.arms) > 2 else ""
    return f"{c.difference:+.3f}{span}{p}{holm}: {c.verdict}" + (f" ({c.why})" if c.why else "")


def _remarks(measured: ComparisonResult, c: Contrast) -> list[str]:
    lines = []
    if c.items and not measured.given:
        lines.append(
            f"    {c.arm}, for these runs only (seed {c.items.seed}): {c.items.difference:+.3f} "
            f"[{c.items.low:+.3f}, {c.items.high:+.3f}] over {c.items.groups:,} groups"
        )
    if c.items and measured.given and math.isfinite(c.items.mid_p):
        lines.append(f"    {c.arm}: wins {c.items.wins}, loses {c.items.losses}, McNemar mid-p {c.items.mid_p:.3g}")
    if power := power_line(c, given=measured.given):
        lines.append(f"    {c.arm}: {power}")
    return lines


def power_line(c: Contrast, *, given: bool) -> str:
    """Number of independent items or seeds that would show a difference of one point."""
    items = f"{c.items_a_point:,} independent items" if c.items_a_point else ""
    if given:
        return f"to see a difference of 1 point you need about {items}" if items else ""
    if not c.seeds_a_point:
        return ""
    seeds = "10,000 seeds or more" if c.seeds_a_point >= 10_000 else f"about {c.seeds_a_point:,} seeds"
    return f"to see a difference of 1 point between recipes you need {seeds}" + (
        f"; between these two models about {items}" if items else ""
    )


def _costs(measured: ComparisonResult, width: int) -> list[str]:
    if measured.given:
        return [f"{c.arm:<{width}}  scored in {c.wall_seconds:.0f} s" for c in measured.costs if math.isfinite(c.wall_seconds)]
    lines = [f"cost of a cell under {measured.budget}:"]
    for c in measured.costs:
        facts = [
            f"{c.steps:,} steps x {c.batch_size:,}",
            f"{c.trained_parameters / 1e6:.2f} M trained",
            _unit(c.wall_seconds, "{:.0f} s"),
            _unit(c.cpu_seconds, "{:.0f} s of CPU"),
            _unit(c.images_per_second, "{:,.0f} images/s"),
            _unit(c.peak_memory / 2**20, "{:,.0f} MiB at most"),
        ]
        lines.append(f"  {c.arm:<{width}}  " + ", ".join(fact for fact in facts if fact))
    return lines


def _unit(value: float, words: str) -> str:
    return words.format(value) if math.isfinite(value) else ""
