"""Label-free screening of prompt sets by how well they separate the given tiles (KEEP, 2024, arXiv 2412.13126).

A set has a sentence for each class. With m1 >= m2 the two largest cosines of a tile, the set's score is the mean over tiles of

    (m1 - m2) - |m1 + m2 - 1|

which rewards a clear winner, and two cosines that sum to about one. The class vectors of the best sets are summed and normalised.

Letters: S sets, K classes, N tiles, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng

Floats = npt.NDArray[np.float64]


def screening_scores(vector_ND: npt.NDArray[np.floating], class_SKD: npt.NDArray[np.floating]) -> Floats:
    """Screening score of each prompt set on these tiles, [S]. Rows of unit length."""
    cosine_SNK = np.einsum("nd,skd->snk", vector_ND.astype(np.float64), class_SKD.astype(np.float64))
    two_SN2 = np.sort(cosine_SNK, axis=2)[:, :, -2:]
    second, first = two_SN2[..., 0], two_SN2[..., 1]
    score_S: Floats = ((first - second) - np.abs(first + second - 1)).mean(1)
    return score_S


def screened(class_SKD: npt.NDArray[np.floating], score_S: Floats, best: int) -> Floats:
    """Class vectors [K, D], unit norm: the sum over the prompt sets with the highest scores, ties by order."""
    chosen = np.argsort(-score_S, kind="stable")[:best]
    total_KD = class_SKD.astype(np.float64)[chosen].sum(0)
    norm_K1 = np.linalg.norm(total_KD, axis=1, keepdims=True)
    merged: Floats = total_KD / np.maximum(norm_K1, 1e-12)
    return merged


def prompt_sets(
    names: Mapping[str, Sequence[str]], templates: Sequence[str], *, at_most: int = 1000, seed: int = 0
) -> list[tuple[str, ...]]:
    """Prompt sets: a name for each class and one template for all, filled. Of more than `at_most` a seeded draw without replacement.

    names      names of each class, in the order of the classes
    templates  sentences with one {}
    """
    if not names or not all(names.values()) or not templates:
        raise ConfigError("prompt sets need a name for each class and a template")
    sizes = [len(options) for options in names.values()] + [len(templates)]
    count = int(np.prod(sizes))
    numbers = (
        range(count)
        if count <= at_most
        else sorted(keyed_rng("prompt sets", seed).choice(count, at_most, replace=False).tolist())
    )
    options = list(names.values())
    sets = []
    for number in numbers:
        *picked, template = np.unravel_index(number, sizes)
        sets.append(
            tuple(templates[int(template)].replace("{}", words[int(index)]) for words, index in zip(options, picked, strict=True))
        )
    return sets
