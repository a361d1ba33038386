"""Five planted models and what the numbers of multiple choice say of each: a table, and the figure of the docs. Then one that
weighs options aloud, as II-Bench's questions are read by every extractor.

    python benchmarks/planted_responders.py [--questions 200] [--seed 0] [--figure docs/images/planted_responders.svg]

Half a minute of one processor.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from diptych.core.result import Metric
from diptych.report.escape import escape
from diptych.tasks.choice.ii_bench import IIBench
from diptych.tasks.choice.visual_reasoning import VisualReasoning

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/helpers"))
from planted.responders import Responder, quiz

KINDS = ("knower", "pulled knower", "content guesser", "first letter", "always none")
SHOWN = ("accuracy", "circular", "entropy", "rejection", "false_rejection", "position_bias")
LEFT, CELL, ROW, TOP = 150, 110, 34, 46


def measured(questions: int, seed: int) -> dict[str, dict[str, Metric]]:
    task, data = VisualReasoning(draws=1000), quiz(questions, seed=seed)
    found = {}
    for kind in KINDS:
        model = replace(Responder(kind), none_option=task.none_option, seed=seed).taught(data)  # type: ignore[arg-type]
        found[kind] = task.score(task.predict(model, data)).metrics
    return found


def figure(found: dict[str, dict[str, Metric]], title: str) -> str:
    """A row a model, a column a number from 0 to 1: the value as a dot, its 95 % interval as a line, chance as a tick."""
    width, height = LEFT + CELL * len(SHOWN), TOP + ROW * len(found) + 12
    parts = []
    for column, metric in enumerate(SHOWN):
        x0 = LEFT + column * CELL
        parts.append(f'<text x="{x0 + CELL / 2 - 7}" y="18" text-anchor="middle">{escape(metric.replace("_", " "))}</text>')
        parts.append(f'<text x="{x0}" y="34" opacity=".6">0</text><text x="{x0 + CELL - 22}" y="34" opacity=".6">1</text>')
        for row, kind in enumerate(found):
            value, y = found[kind][metric], TOP + row * ROW + ROW / 2
            span = CELL - 18
            parts.append(f'<line x1="{x0}" x2="{x0 + span}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
            if value.low == value.low:
                ends = x0 + value.low * span, x0 + value.high * span
                parts.append(f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="#3b6fb6" stroke-width="5"/>')
            if value.chance == value.chance:
                at = x0 + value.chance * span
                parts.append(
                    f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="#8a6d1a" stroke-dasharray="3 2"/>'
                )
            parts.append(f'<circle cx="{x0 + value.value * span:.1f}" cy="{y}" r="4.5" fill="#3b6fb6"/>')
            parts.append(
                f'<text x="{x0 + span}" y="{y - 5}" text-anchor="end" font-size="10" opacity=".75">{value.value:.2f}</text>'
            )
    names = [
        f'<text x="{LEFT - 12}" y="{TOP + row * ROW + ROW / 2 + 4}" text-anchor="end">{escape(kind)}</text>'
        for row, kind in enumerate(found)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" font-family="sans-serif" '
        f'font-size="12" fill="currentColor"><title>{escape(title)}</title><rect width="100%" height="100%" fill="#f7f7f7"/>'
        f'<g color="#222" fill="#222">{"".join(names + parts)}</g></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    found = measured(args.questions, args.seed)
    print(f"| planted model | {' | '.join(name.replace('_', ' ') for name in SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for kind, metrics in found.items():
        print(f"| {kind} | {' | '.join(f'{metrics[name].value:.2f}' for name in SHOWN)} |")
    task, data = IIBench(draws=50), quiz(2 * args.questions, seed=args.seed)
    model = Responder("knower", 0.65, wordy=True, seed=args.seed).taught(data)
    read = task.score(task.predict(model, data)).notes["accuracy_by_extractor"]
    print(
        "\nknows .65 and weighs aloud: " + ", ".join(f"{value:.2f} by {name}" for name, value in read.items() if "/" not in name)
    )
    if args.figure:
        title = f"Five planted models, {args.questions} questions in three orders, with and without their answer"
        args.figure.write_text(figure(found, title), encoding="utf-8")


if __name__ == "__main__":
    main()
