"""Yes or no by the likelihood of an answer's first token (the conquer step of RLAIF-V, 2405.17220).

    yes = p("yes") + p("Yes")    no = p("no") + p("No")    the claim holds where yes > no

The four probabilities are those of one softmax over the whole vocabulary, of the tokens that an answer of one word begins with. The
release reads them with a repetition penalty of 1.2, which changes nothing: its model is given embeddings, and so no token to repeat.

Letters: N questions, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.errors import RunError
from diptych.core.image import ImageSource

YES, NO = ("yes", "Yes"), ("no", "No")
PROMPT = "{question}? Please answer yes or no."
"""As published."""


@runtime_checkable
class FirstTokenScorer(Protocol):
    """Probability of words as the first token of an answer: float64 [N, W]; 0 for a word that is no single token."""

    def first_token_probs(
        self, images: Sequence[ImageSource | None], prompts: Sequence[str], words: Sequence[str]
    ) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True)
class YesNoLabeler:
    """Which questions about pictures a model answers by yes.

    model   the generative model
    prompt  the request, {question} in it replaced by the question, which has no mark
    """

    model: FirstTokenScorer
    prompt: str = PROMPT

    def __call__(self, images: Sequence[ImageSource | None], questions: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities of yes and of no, [N, 2]. Raises RunError if one is not a number, or where one of them cannot be answered."""
        if not len(questions):
            return np.zeros((0, 2))
        prompts = [self.prompt.replace("{question}", question) for question in questions]
        probability_NW = self.model.first_token_probs(images, prompts, (*YES, *NO))
        yes_no_N2 = np.stack([probability_NW[:, : len(YES)].sum(1), probability_NW[:, len(YES) :].sum(1)], 1)
        if not np.isfinite(yes_no_N2).all():
            row = int(np.flatnonzero(~np.isfinite(yes_no_N2).all(1))[0])
            raise RunError(f"the labeler gives {yes_no_N2[row].tolist()} for '{prompts[row][:80]}' (expected two probabilities)")
        for words, chance_N in zip((YES, NO), yes_no_N2.T, strict=True):
            if not chance_N.any():
                shown = " nor ".join(f"'{word}'" for word in words)
                raise RunError(
                    f"the labeler's vocabulary has neither {shown} as one token, so that it cannot be answered (expected a model that "
                    "answers by yes and no; for a small one more --pieces)"
                )
        return yes_no_N2
