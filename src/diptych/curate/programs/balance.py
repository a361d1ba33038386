"""Balanced sampling of the questions of an image: frequent subjects are sampled rarely.

The metadata values of all questions are counted first, by field (objects, attributes, relations, counts). Questions of one
program about one image are then drawn without replacement, with a probability proportional to one over the mean of their values'
cubed counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from diptych.curate.programs.questions import FIELDS, Metadata, ProgramQuestion

Counts = dict[str, Counter[str | int]]
POWER = 3


def count_metadata(every: Iterable[Metadata]) -> Counts:
    """Counts of the values of each metadata field.

    >>> count_metadata([{"object": ("cup", "table")}, {"object": ("cup",)}])["object"]
    Counter({'cup': 2, 'table': 1})
    """
    counts: Counts = {name: Counter() for name in FIELDS}
    for metadata in every:
        for name, values in metadata.items():
            counts[name].update(values)
    return counts


def choice_weights(every: Sequence[Metadata], counts: Counts) -> npt.NDArray[np.float64]:
    """Sampling probability of each question, [N]: 1 / mean(count ** 3) over its values, normalised; uniform for questions without
    values.

    A value that was never counted has count 1.

    >>> counts: Counts = {"object": Counter(a=1, b=2, c=4)}
    >>> weight_N = choice_weights([{"object": ("a",)}, {"object": ("b",)}, {"object": ("c",)}], counts)
    >>> (weight_N / weight_N[0]).tolist()
    [1.0, 0.125, 0.015625]
    """
    weights = []
    for metadata in every:
        cubes = [max(1, counts[name][value]) ** POWER for name, values in metadata.items() for value in values]
        weights.append(1.0 / float(np.mean(cubes)) if cubes else 1.0)
    weight_N = np.array(weights, np.float64)
    weight_N /= weight_N.sum()
    return weight_N


def chosen_questions(
    questions: Sequence[ProgramQuestion], most: int, counts: Counts | None, rng: np.random.Generator
) -> list[ProgramQuestion]:
    """Samples at most `most` questions, in their order; 0 returns all.

    counts  None samples uniformly
    """
    if not most or len(questions) <= most:
        return list(questions)
    weight_N = None if counts is None else choice_weights([one.metadata for one in questions], counts)
    rows = rng.choice(len(questions), most, replace=False, p=weight_N)
    return [questions[row] for row in sorted(rows.tolist())]
