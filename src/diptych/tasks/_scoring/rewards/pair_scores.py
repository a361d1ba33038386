"""Learned scores of an answer beside a reference: BLEURT, and entailment such as RadNLI's.

BLEURT (Sellam et al., 2020, 2004.04696) is a regression: a classifier with one output, which reads the reference first and the answer
second. Its unit is that of its ratings: about 0 to 1, and values outside are in order.

Entailment is the probability that the answer follows from the reference, which is the premise: of radiology by a classifier that was
trained on RadNLI (Miura et al., 2021, 2010.10042), of other texts by one of MNLI. Neither is symmetric, and an empty answer has a value
as any other: what a model that never saw one says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.io.device import choose_device
from diptych.models.policy.sequence_classifier import SequenceClassifier


def bleurt(address: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEURT of each answer by the model in a folder, the best over its references."""
    classifier = opened_classifier("bleurt", address)
    if classifier.model.config.num_labels != 1:
        shown = f"{classifier.model.config.num_labels} outputs"
        raise DataError(f"a classifier with {shown} is no BLEURT", file=address, expected="one output")
    return _best(lambda first, second: classifier.logits(first, second)[:, 0], answers, references)


def entailment(address: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Probability that each answer follows from a reference, the largest over its references.

    address  "FOLDER", or "FOLDER,label=NUMBER" where the labels' names do not tell which one is entailment
    """
    folder, _, option = address.partition(",")
    classifier = opened_classifier("entailment", folder)
    label = entailment_label(classifier.labels, option, folder)
    return _best(lambda first, second: classifier.logits(first, second).softmax(-1)[:, label], answers, references)


def entailment_label(labels: dict[int, str], option: str, folder: str) -> int:
    """Number of the label of entailment: that of the option "label=NUMBER", else the only one whose name says so."""
    if option:
        key, _, given = option.partition("=")
        if key != "label" or not given.isdigit() or int(given) not in labels:
            raise ConfigError(f"entailment has no option {option!r} (expected label=NUMBER, 0 to {len(labels) - 1})")
        return int(given)
    named = [number for number, name in labels.items() if name.lower() in ("entailment", "entail", "entails")]
    if len(named) != 1 or len(labels) < 2:
        shown = ", ".join(labels.values())
        raise DataError(f"labels are {shown}", file=folder, expected="one named entailment, or label=NUMBER behind a comma")
    return named[0]


def opened_classifier(name: str, folder: str) -> SequenceClassifier:
    """The classifier of a folder, opened once per process and device."""
    if not folder:
        raise ConfigError(f"{name} needs a classifier (expected {name}:FOLDER, a sequence classifier of transformers)")
    return _opened(folder, str(choose_device()))


@lru_cache(maxsize=2)
def _opened(folder: str, device: str) -> SequenceClassifier:
    return SequenceClassifier.open(folder, device=device)


def _best(
    score: Callable[[Sequence[str], Sequence[str]], Tensor], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Largest score of each answer over its references; the model reads (reference, answer)."""
    pairs = [(reference, answer) for answer, own in zip(answers, references, strict=True) for reference in own]
    score_N = score([reference for reference, _ in pairs], [answer for _, answer in pairs]).double().cpu()
    return [float(part.max()) for part in score_N.split([len(own) for own in references])]
