"""Learned rewards by a sequence classifier: the probability of a label, and whether the likeliest label is that of the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, RunError
from diptych.models.policy.sequence_classifier import SequenceClassifier

TURN_END = "<EOU>"
"""Ends each turn of a dialogue in DailyDialog's prompts, as RL4LMs writes them."""


class ClassifierReward:
    """Probability of `label` for the concatenated prompt and answer, by a classifier from a local folder of transformers.

    A longer text is truncated to its end.

    with_prompt  False: only the answer is read
    """

    def __init__(self, model: Any, tokenizer: Any, label: int, *, with_prompt: bool = True, device: str = "auto") -> None:
        self.classifier = SequenceClassifier(model, tokenizer, side="left", device=device)
        self.label, self.with_prompt = label, with_prompt
        if not 0 <= label < model.config.num_labels:
            raise ConfigError(
                f"label {label} of a classifier with {model.config.num_labels} labels (expected one of them, from 0)"
            )

    @classmethod
    def open(cls, address: str, *, device: str = "auto") -> Self:
        """Load the classifier at "FOLDER:LABEL"; the default label is 1."""
        path, _, label = address.rpartition(":") if address.rpartition(":")[2].isdigit() else (address, "", "1")
        opened = SequenceClassifier.open(path, device=device)
        return cls(opened.model, opened.tokenizer, int(label), device=device)

    def __call__(
        self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
    ) -> npt.NDArray[np.float64]:
        texts = [prompt + answer if self.with_prompt else answer for prompt, answer in zip(prompts, answers, strict=True)]
        scores: npt.NDArray[np.float64] = self.classifier.logits(texts).softmax(-1)[:, self.label].double().cpu().numpy()
        return scores


class IntentReward:
    """1 where the likeliest label of the last turn and the answer is the row's intent, else 0 (RL4LMs' reward of DailyDialog).

    A longer text is truncated at its end, as released.

    intents  of the rows, counted from 1 as DailyDialog counts its acts (inform, question, directive, commissive)
    """

    def __init__(self, classifier: SequenceClassifier, intents: Sequence[int]) -> None:
        self.classifier, self.intents = classifier, intents

    def __call__(
        self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
    ) -> npt.NDArray[np.float64]:
        labels = int(self.classifier.model.config.num_labels)
        for row, intent in enumerate(self.intents):
            if not 1 <= intent <= labels:
                shown = f"has intent {intent}" if intent else "has no intent"
                raise RunError(f"reward 'intent': row {row} {shown} (expected the extra 'intent', 1 to {labels})")
        texts = [last_turn(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
        likeliest_N = self.classifier.logits(texts).argmax(-1).cpu().numpy()
        same_N: npt.NDArray[np.float64] = (likeliest_N == np.asarray(self.intents, np.int64) - 1).astype(np.float64)
        return same_N


def last_turn(prompt: str) -> str:
    """The last turn of a dialogue whose turns end in "<EOU>"; "" of an empty one."""
    turns = [turn for turn in prompt.split(TURN_END) if turn]
    return turns[-1] if turns else ""
