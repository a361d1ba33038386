"""Streams of tasks for claims about forgetting: pairs of colours in rendered pictures, and vendors of emoji."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diptych.claims.claim import Cell, Scores
from diptych.claims.noisy_texts import COLOURS, NOUNS, SMOKE_ROWS, NoisyPairs, Split
from diptych.core.contracts import Dataset
from diptych.core.run_folder import RunFolder
from diptych.data.dataset import Pool
from diptych.models.deployed import open_model
from diptych.recipes.ctp import CTP
from diptych.tasks.continual import Continual, Stream
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.address import as_drawn, open_data

Data = Callable[[Split, int, int], Dataset]
"""(split, rows of each task, seed) -> rows with an extra "task"."""


def all_colours(split: Split, count: int, seed: int) -> Pool:
    """One task: pictures of two things in any colour."""
    return _named(NoisyPairs(count).pool(split, seed), "all", 0)


def colour_pairs(split: Split, count: int, seed: int) -> Pool:
    """Three tasks: in each, both things of a picture are of the same two colours. `count` pictures each."""
    names = list(COLOURS)
    samples = []
    for task, shown in enumerate((names[:2], names[2:4], names[4:])):
        avoid = tuple(noun for noun in NOUNS if noun.split()[0] not in shown)
        pool = _named(NoisyPairs(count, avoid=avoid).pool(split, seed * 3 + task), f"{task}-{'-'.join(shown)}", task)
        samples += [pool[row] for row in range(len(pool))]
    return Pool.from_samples(samples, name=f"colour_pairs/{split}")


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


def _named(pool: Pool, task: str, number: int) -> Pool:
    samples = [pool[row] for row in range(len(pool))]
    return Pool.from_samples(
        [replace(s, uid=f"{number}-{s.uid}", extras={"task": task}) for s in samples], name=f"{pool.name}/{task}"
    )


def stream_cell(
    recipe: CTP, data: Data, rows: int, tested: int, *, start: CTP | None = None, start_rows: int = 0
) -> Callable[[Cell], Scores]:
    """What runs an arm: pre-trains `start` on pictures of all colours where there is one, then `recipe` on the tasks one after the
    other, and scores every model of the stream on every task."""

    def run(cell: Cell) -> Scores:
        size = SMOKE_ROWS if cell.smoke else 0
        stream = data("train", size or rows, cell.seed)
        test = data("test", size or tested, cell.seed)
        begin = ""
        if start is not None:
            pool = all_colours("train", size or start_rows, cell.seed)
            known = replace(start, vocabulary=start.prepare(pool).vocabulary)
            folder = _trained(_short(known, cell), pool, cell, "start", "")
            begin = str(folder.model / "model.safetensors")
            chosen = replace(recipe, vocabulary=known.vocabulary)
        else:
            chosen = recipe
        folder = _trained(_short(chosen, cell), stream, cell, "stream", begin)
        models = [open_model(path) for path in sorted(folder.snapshots.iterdir()) if path.is_dir()]
        task = Continual()
        result = task.score(task.records(models, Stream.read(folder.snapshots), test))
        scores = {name.replace(",", "_"): metric.value for name, metric in result.metrics.items()}
        last = len(models) - 1
        named = {
            "first_task": scores[f"r[{last}_1]"],
            "last_task": scores[f"r[{last}_{last}]"],
            "start_first_task": scores["r[0_1]"],
        }
        return {**scores, **named, "train_seconds": folder.training_seconds()}

    return run


def _short(recipe: CTP, cell: Cell) -> CTP:
    return replace(recipe, steps=6, batch_size=16) if cell.smoke else recipe


def _trained(recipe: CTP, rows: Dataset, cell: Cell, name: str, begin: str) -> RunFolder:
    """A run of this cell under its own name: resumed when its folder holds a part of it."""
    rows, out = as_drawn(rows, recipe), cell.folder / name
    if (out / "run.json").exists():
        return resume(out, rows, kind=CTP)
    return fit(recipe, rows, out, TrainOptions(seed=cell.seed, progress=False, save_every=100, init=begin))
