"""Naturalness of generated texts: type-token ratio of segments, n-gram counts and entropies, lengths (GEM's, as GRUE reports them)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from diptych.core.errors import DataError


def naturalness(texts: Sequence[Sequence[str]], *, window: int = 100, longest: int = 3) -> dict[str, float]:
    """Metrics of a corpus of answers, each a list of lower-case words.

    msttr           mean type-token ratio of segments of `window` words, without the last, shorter one; absent if there is no full
                    segment
    distinct-n      fraction of distinct n-grams; vocabulary-n, their number; unique-n, the number that occur once
    entropy-n       of the n-grams, in bits; conditional_entropy-n, of a word given the n - 1 words before it
    length, length_deviation, shortest, longest   of the answers in words
    """
    if not any(texts):
        raise DataError(f"all {len(texts)} answers are empty: there is nothing to measure", expected="an answer with a word")
    lengths = [len(words) for words in texts]
    metrics = {
        "length": float(np.mean(lengths)),
        "length_deviation": float(np.std(lengths)),
        "shortest": float(min(lengths)),
        "longest": float(max(lengths)),
    }
    ratio = mean_segmental_ratio(texts, window)
    if ratio is not None:
        metrics["msttr"] = ratio
    shorter: Counter[tuple[str, ...]] = Counter()
    for n in range(1, longest + 1):
        counts = Counter(tuple(words[at : at + n]) for words in texts for at in range(len(words) - n + 1))
        total = sum(counts.values())
        metrics[f"distinct-{n}"] = len(counts) / total if total else 0.0
        metrics[f"vocabulary-{n}"] = float(len(counts))
        metrics[f"unique-{n}"] = float(sum(count == 1 for count in counts.values()))
        metrics[f"entropy-{n}"] = -sum(count / total * math.log2(count / total) for count in counts.values())
        if n > 1:
            before = sum(shorter.values())
            metrics[f"conditional_entropy-{n}"] = -sum(
                count / total * math.log2((count / total) / (shorter[run[:-1]] / before)) for run, count in counts.items()
            )
        shorter = counts
    return metrics


def mean_segmental_ratio(texts: Sequence[Sequence[str]], window: int = 100) -> float | None:
    """MSTTR (Johnson, 1944): the mean over whole segments of `window` words of the joined texts; None for fewer words than one segment."""
    words = [word for text in texts for word in text]
    ratios = [len(set(words[at : at + window])) / window for at in range(0, len(words) - window + 1, window)]
    return sum(ratios) / len(ratios) if ratios else None


def repetition(words: Sequence[str], n: int = 2) -> float:
    """Fraction of the n-grams of a text that occurred in it before; 0 for fewer than two n-grams."""
    runs = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0
