"""Parsing of yes-or-no answers, and their scores (accuracy, precision, recall, F1).

Published harnesses read answers differently, by several points of F1 on models that write sentences:

first     the first "yes" or "no" that is a word of its own; otherwise unread (ours)
released  the evaluation code of POPE (Li et al., 2023): the first sentence is a no where "No", "no" or "not" is a word of it, else a yes,
          so that an empty answer is a yes
single    VLMEvalKit: a yes or a no where exactly one of them is a word, else unread; words stand between spaces once marks are taken out as
          the VQA evaluation code takes them out, so that "no," and "no-one" have a no, and "no'" and "yes:" neither
prefix    the evaluation code of MME (Fu et al., 2023): a yes where the first four letters hold one, else a no where they do ("None" too),
          else unread
contained the evaluation code of VCD (Leng et al., 2023), with which MMRel was measured: right where the right word is anywhere in the
          answer ("no" in "know" too), else the opposite of right
whole     lmms-eval: the whole answer has to be "yes" or "no", so that "Yes." is unread; unread answers leave the recall

An unread answer is wrong, and is no yes.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.tasks._scoring.answers.answer_match import strip_punctuation

Reader = Literal["first", "released", "single", "whole", "prefix", "contained"]
READERS: tuple[Reader, ...] = ("first", "released", "single", "whole", "prefix", "contained")
Floats = npt.NDArray[np.float64]
_WORD = re.compile(r"[a-z]+")


def parse_yes_no(answer: str, reader: Reader = "first", *, truth: bool | None = None) -> bool | None:
    """True for yes, False for no, None if it is neither.

    truth  the right answer, on which "contained" depends; without it an answer that has both words or neither is None

    >>> [parse_yes_no("There is no dog. Yes, I am sure.", reader) for reader in READERS]
    [False, False, None, None, None, None]
    >>> [parse_yes_no("I know that it is so.", "contained", truth=truth) for truth in (True, False)]
    [False, False]
    """
    if reader == "contained":
        lowered = answer.lower()
        if truth is not None:
            return truth if ("yes" if truth else "no") in lowered else not truth
        return None if ("yes" in lowered) == ("no" in lowered) else "yes" in lowered
    if reader == "released":
        words = answer.split(".")[0].replace(",", "").split(" ")
        return not {"No", "not", "no"} & set(words)
    if reader == "prefix":
        begun = answer.lower()[:4]
        return True if "yes" in begun else False if "no" in begun else None
    if reader == "whole":
        return {"yes": True, "no": False}.get(answer.strip().lower())
    if reader == "single":
        spoken = {"yes", "no"} & set(strip_punctuation(answer.lower()).split())
        return spoken == {"yes"} if len(spoken) == 1 else None
    verdicts = [word == "yes" for word in _WORD.findall(answer.lower()) if word in ("yes", "no")]
    return verdicts[0] if verdicts else None


def confusion(truth_N: npt.NDArray[np.bool_], answers: list[bool | None], reader: Reader) -> Floats:
    """Confusion columns [N, 5] of zeros and ones: true positive, false positive, false negative, correct, answered yes."""
    yes_N = np.array([answer is True for answer in answers])
    read_N = np.array([answer is not None for answer in answers])
    missed_N = truth_N & ~yes_N & (read_N if reader == "whole" else True)
    right_N = read_N & (yes_N == truth_N)
    return np.stack([truth_N & yes_N, ~truth_N & yes_N, missed_N, right_N, yes_N], 1).astype(np.float64)


def scores(mean_5: Floats) -> dict[str, Floats]:
    """accuracy, precision, recall, f1 and the share of yes, from means of the columns of `confusion` ([..., 5]).

    Without any yes, precision is NaN and F1 is 0, where the released code divides by zero.
    """
    true, wrong, missed, right, yes = np.moveaxis(mean_5, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = true / (true + wrong), true / (true + missed)
        f1 = 2 * true / (2 * true + wrong + missed)
    return {"accuracy": right, "precision": precision, "recall": recall, "f1": f1, "yes": yes}
