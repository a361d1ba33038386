"""Streams of tasks for claims about forgetting: colours of rendered pictures, and vendors of emoji."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diptych.claims.claim import Cell, Scores
from diptych.claims.noisy_texts import COLOURS, NOUNS, SMOKE_ROWS, NoisyPairs, Split
from diptych.claims.training import trained
from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.models.io.deployed import open_model
from diptych.recipes.contrastive.ctp import CTP
from diptych.tasks.pairs.continual import Continual, Stream
from diptych.worlds.address import open_data

Data = Callable[[Split, int, int], Dataset]
"""(split, rows of each task, seed) -> rows with an extra "task"."""


def colours(split: Split, count: int, seed: int) -> Pool:
    """Four tasks: first pictures of two things in any colour, three times as many of them to train on, then three tasks in each of which
    both things are of the same two colours, `count` pictures each."""
    names = list(COLOURS)
    first = 3 * count if split == "train" else count
    samples = _named(NoisyPairs(first).pool(split, seed), "0-all")
    for task, shown in enumerate((names[:2], names[2:4], names[4:]), 1):
        avoid = tuple(noun for noun in NOUNS if noun.split()[0] not in shown)
        pool = NoisyPairs(count, avoid=avoid).pool(split, seed * 3 + task)
        samples += _named(pool, f"{task}-{'-'.join(shown)}")
    return Pool.from_samples(samples, name=f"colours/{split}")


def vendors(split: Split, count: int, seed: int) -> Pool:
    """Three tasks: pictures of the same concepts by three vendors; "test" are the first `count` concepts of what was trained on, so that
    it asks what was kept and not what generalises."""
    rows = open_data("emoji").split("train").in_language("en")
    seen: dict[str, int] = {}
    samples = []
    for row in range(len(rows)):
        sample = rows[row]
        style = str(sample.extras["style"])
        seen[style] = seen.get(style, 0) + 1
        if seen[style] <= count:
            label = tuple(text for text in sample.texts if text.origin == "label")
            samples.append(replace(sample, texts=label, extras={"task": style}))
    return Pool.from_samples(samples, name=f"vendors/{split}")


def _named(pool: Pool, task: str) -> list[Sample]:
    samples = (pool[row] for row in range(len(pool)))
    return [replace(sample, uid=f"{task}-{sample.uid}", extras={"task": task}) for sample in samples]


def stream_cell(recipe: CTP, data: Data, rows: int, tested: int) -> Callable[[Cell], Scores]:
    """What runs an arm: `recipe` on the tasks one after the other; every model of the stream is scored on every task."""

    def run(cell: Cell) -> Scores:
        size = SMOKE_ROWS if cell.smoke else 0
        chosen = replace(recipe, steps=8, batch_size=16) if cell.smoke else recipe
        folder = trained(chosen, data("train", size or rows, cell.seed), cell)
        models = [open_model(path) for path in sorted(folder.snapshots.iterdir()) if path.is_dir()]
        task = Continual()
        result = task.score(task.records(models, Stream.read(folder.snapshots), data("test", size or tested, cell.seed)))
        scores = {name.replace(",", "_"): metric.value for name, metric in result.metrics.items()}
        last = len(models) - 1
        named = {
            "first_task": scores[f"r[{last}_1]"],
            "last_task": scores[f"r[{last}_{last}]"],
            "first_task_then": scores["r[1_1]"],
        }
        return {**scores, **named, "train_seconds": folder.training_seconds()}

    return run
