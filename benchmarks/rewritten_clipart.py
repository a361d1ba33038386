"""Rewrites on a real set: whether rewritten titles of clip art help heads over frozen encoders to find emoji by name.

    diptych data fetch clipart --out data/clipart
    python benchmarks/rewritten_clipart.py data/clipart [--work runs/rewritten-clipart]

The set is openclipart after the first three steps of `openclipart.py`; of a row's texts its title stays. The arms are heads of `locked`
that read titles alone, or one of a title and four rewrites by the grammar, as LaCLIP draws them; beside them stand what a reader would try
first: titles with words dropped, another picture's rewrites, as many steps twice, the tags that people gave beside the title, and heads
that have learned nothing. Tested across sources: emoji in a style that no clip art has, by their English names. The rules are those of the
ledger (`diptych.claims`: rates swept on tuning seeds, verdict on fresh ones, margins declared here); the verdict is not kept there, since
whoever has not fetched the set could not check it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from machine_results import keep
from openclipart import STEPS

from diptych.claims import engine
from diptych.claims.cell import Cell, CellResult, Scores
from diptych.claims.cells.learned_pairs.rewritten import shortened
from diptych.claims.claim import Arm, Claim
from diptych.claims.ledger import Side
from diptych.claims.sweep import around
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.core.environment import environment
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.operators.rewrite import Rewrite
from diptych.curate.writing.backends.grammar import STYLES
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.text.captions.variants import VARIANTS, variant_rows
from diptych.recipes.contrastive.laclip import ONE_OF_ALL
from diptych.recipes.contrastive.locked import Locked
from diptych.tasks.pairs.retrieval import Retrieval

How = Literal["titles", "rewritten", "another's", "dropped", "tags"]
WRITING_SEED = 0
"""Of rewrites and dropped words: the same under every seed of training."""
PARTS = ("unseen_style", "unseen_concept")


@lru_cache(maxsize=1)
def titled(folder: str, work: str) -> Pool:
    """Rows without duplicates and without titles that stand beside more than ten pictures."""
    steps = list(STEPS.values())[:3]
    done = curate(read(folder), steps, Path(work) / "curated")
    kept = done.columns.get("kept_texts", {})

    def of(sample: Sample) -> Sample:
        stay = kept.get(sample.uid)
        return replace(sample, texts=tuple(text for text in sample.texts if stay is None or text.string in stay))

    samples = (of(done.kept[row]) for row in range(len(done.kept)))
    return Pool.from_samples([s for s in samples if any(t.origin == "label" for t in s.texts)], name="titled clip art")


@lru_cache(maxsize=1)
def rewritten(folder: str, work: str) -> Pool:
    """The same rows with a title and four rewrites of it each."""
    rows = with_texts(titled(folder, work), ("label",))
    return rows.with_table(
        variant_rows(Rewrite(styles=STYLES, language="", seed=WRITING_SEED, copies=True)(rows).columns[VARIANTS])
    )


def with_texts(rows: Pool, origins: Sequence[str]) -> Pool:
    samples = [replace(sample, texts=tuple(text for text in sample.texts if text.origin in origins)) for sample in rows]
    return Pool.from_samples(samples, name=f"{rows.name}, {' and '.join(origins)}")


def turned(rows: Pool) -> Pool:
    """Each picture keeps its title and has the rewrites of the row before."""
    before = [rows[row - 1] for row in range(len(rows))]
    pairs = zip(rows, before, strict=True)
    return Pool.from_samples(
        [replace(own, texts=(own.texts[0], *other.texts[1:])) for own, other in pairs], name="another's rewrites"
    )


def dropped(rows: Pool) -> Pool:
    """Each title, and as many of it without some of its words as there are styles of rewriting."""

    def of(sample: Sample) -> Sequence[Text]:
        return (*sample.texts, *shortened(sample, len(STYLES), WRITING_SEED))

    return Pool.from_samples([replace(sample, texts=tuple(of(sample))) for sample in rows], name="words dropped")


@dataclass(frozen=True)
class OnClipart:
    """Heads that read these texts beside the clip art of `folder`, then find emoji by name. learns=False asks them as they are."""

    recipe: Locked
    how: How
    folder: str
    work: str
    learns: bool = True

    def rows(self) -> Pool:
        if self.how in ("rewritten", "another's"):
            rows = rewritten(self.folder, self.work)
            return turned(rows) if self.how == "another's" else rows
        rows = with_texts(titled(self.folder, self.work), ("label", "tags") if self.how == "tags" else ("label",))
        return dropped(rows) if self.how == "dropped" else rows

    def __call__(self, cell: Cell) -> Scores:
        rows = self.rows()
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        task, found = Retrieval(draws=1), {"rows": float(len(rows))}
        for part in PARTS:
            result = task.score(task.predict(model, read("emoji").split(part).in_language("en")))
            found |= {f"{part}/{name}": metric.value for name, metric in result.metrics.items()}
        return found


def claim(folder: str, work: str, steps: int) -> Claim:
    locked = replace(Locked.tiny(), steps=steps, text_draw=ONE_OF_ALL)
    rates = around(locked.lr)

    def arm(recipe: Locked, how: How, *, learns: bool = True) -> OnClipart:
        return OnClipart(recipe, how, folder, work, learns)

    return Claim(
        slug="laclip",
        name="clipart",
        kind="paper's claim",
        sentence="On real clip art one of a title and four rewrites at a step finds more emoji by name than the title alone",
        source="2305.20088, whose encoders are trained; ours are frozen, and heads learn",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("titles", arm(locked, "titles"), rates),
        method=Arm("rewrites", arm(locked, "rewritten"), rates),
        controls=(
            Arm("untrained", arm(locked, "titles", learns=False)),
            Arm("words dropped", arm(locked, "dropped")),
            Arm("another's rewrites", arm(locked, "another's")),
            Arm("titles, twice the steps", arm(replace(locked, steps=2 * steps), "titles")),
        ),
        bounds=(Arm("titles and tags", arm(locked, "tags")),),
        metric="unseen_style/t2i_r@1",
        tuned_by="unseen_concept/t2i_r@1",
        margins=Margins(matters=0.01, equivalence=0.01),
        equal_budget=("steps", "samples"),
        data="openclipart without duplicates and shared titles, tested on emoji of an unseen style",
        reported=("unseen_style/t2i_r@10", "unseen_style/i2t_r@1"),
        tuning_seeds=(0, 1),
    )


def said(cell: Cell, done: CellResult) -> None:
    rate = "" if cell.rate is None else f" rate {cell.rate:g}"
    print(f"{cell.arm}{rate} seed {cell.seed}: {100 * done.scores['unseen_style/t2i_r@1']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clipart", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/rewritten-clipart"))
    args = parser.parse_args()
    declared = claim(str(args.clipart), str(args.work), args.steps)
    entry = engine.run(declared, cells=args.work / "cells", commit=str(environment()["commit"]), on_cell=said)
    texts = [[text.string for text in sample.texts] for sample in rewritten(str(args.clipart), str(args.work))]
    repeats = [string == own[0] for own in texts for string in own[1:]]
    sides = (entry.baseline, entry.method, *entry.controls, *entry.bounds)
    table = [{"arm": side.name, "rate": side.rate, "scores": {k: list(v) for k, v in side.scores.items()}} for side in sides]
    verdict = {
        name: value for name, value in asdict(entry).items() if name in ("verdict", "why", "difference", "interval", "seeds")
    }
    keep("rewritten_clipart", {**verdict, "minutes": round(entry.cpu_seconds / 60, 1), "table": table}, [])
    print(f"{len(repeats):,} rewrites of {len(texts):,} titles, {statistics.mean(repeats):.0%} of them the title again")
    print(
        f"{entry.verdict}: {entry.difference:+.4f} [{entry.interval[0]:.4f}, {entry.interval[1]:.4f}] {entry.why}\n{markdown(sides)}"
    )


def markdown(sides: Sequence[Side]) -> str:
    names = ("unseen_style/t2i_r@1", "unseen_style/t2i_r@10")
    lines = ["| texts that the heads read | R@1 | R@10 |", "|---|---|---|"]
    for side in sides:
        values = [[100 * value for value in side.scores[name]] for name in names]
        cells = [f"{statistics.mean(found):.1f} ({min(found):.1f}-{max(found):.1f})" for found in values]
        lines.append(f"| {side.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
