"""A stream of tasks, one after the other, to see what is forgotten: colours of rendered pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.worlds.small_pairs import COLOURS, NOUNS, SmallPairs, Split

Tasks = Callable[[Split, int, int], Pool]
"""(split, rows of each task, seed) -> rows with an extra "task"."""


def colours(split: Split, count: int, seed: int) -> Pool:
    """Four tasks: first pictures of two things in any colour, three times as many of them to train on, then three tasks in each of which
    both things are of the same two colours, `count` pictures each."""
    names = list(COLOURS)
    first = 3 * count if split == "train" else count
    samples = _named(SmallPairs(first).pool(split, seed), "0-all")
    for task, shown in enumerate((names[:2], names[2:4], names[4:]), 1):
        avoid = tuple(noun for noun in NOUNS if noun.split()[0] not in shown)
        pool = SmallPairs(count, avoid=avoid).pool(split, seed * 3 + task)
        samples += _named(pool, f"{task}-{'-'.join(shown)}")
    return Pool.from_samples(samples, name=f"colours/{split}")


def _named(pool: Pool, task: str) -> list[Sample]:
    samples = (pool[row] for row in range(len(pool)))
    return [replace(sample, uid=f"{task}-{sample.uid}", extras={"task": task}) for sample in samples]
