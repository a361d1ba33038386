"""Judges of open-ended answers: exact match, shared words, embeddings, likelihoods, or a model's written rating.

A judge returns a score from 0 to 1 and its reply; an unparsable reply has no score and is counted. Language models favour long
answers and the first of two (Zheng et al., 2023, 2306.05685), so a pairwise comparison is made in both orders and counts only if
they agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from diptych.core.contracts import Embedder, Generator, Ranker
from diptych.core.errors import ConfigError
from diptych.core.prompt import TextPart
from diptych.tasks._scoring.answers.answer_match import normalised

Kind = Literal["exact", "soft", "embedding", "likelihood", "model"]
Preference = Literal["first", "second", "tie", "unread"]
GRADED = (
    "A question about a picture was answered. Compare the answer with the reference, which is right.\n"
    "Question: {question}\nReference: {reference}\nReasoning: {reasoning}\nAnswer: {answer}\n"
    "Rate how right the answer is, from 0 (wrong) to 10 (right), in the form Rating: N."
)
SAME = "Question: {question}\nReference: {reference}\nAnswer: {answer}\nDoes the answer say the same as the reference?"
PAIRED = (
    "Two answers to a question about a picture. The reference is right.\n"
    "Question: {question}\nReference: {reference}\nReasoning: {reasoning}\nAnswer A: {first}\nAnswer B: {second}\n"
    "Which answer is better? Length does not matter. Reply in the form Better: A, Better: B or Better: tie."
)


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """Input of a judge: a question with its reference answer and reasoning, and the answer to be rated."""

    question: str
    reference: str
    answer: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class JudgeRating:
    """score  0 to 1; None if the judge's reply cannot be parsed. reply: text of the reply, or its number"""

    score: float | None
    reply: str = ""


def judge_answers(
    kind: Kind, answers: Sequence[JudgedAnswer], judge: Any = None, *, threshold: float = 0.8, max_tokens: int = 64
) -> list[JudgeRating]:
    """Rating of each answer by a judge.

    kind       exact: equal without articles and punctuation; soft: F1 of the words; embedding: 1 if the cosine is at least `threshold`;
               likelihood: probability of "yes" against "no"; model: rating from 0 to 10
    judge      an `Embedder`, `Ranker` or `Generator`, for the last three kinds
    Raises ConfigError for a judge without the capability.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"judged by {kind!r} (expected {' | '.join(get_args(Kind))})")
    if kind == "exact":
        return [JudgeRating(float(normalised(one.answer) == normalised(one.reference))) for one in answers]
    if kind == "soft":
        return [JudgeRating(word_f1(one.answer, one.reference)) for one in answers]
    if kind == "embedding" and isinstance(judge, Embedder):
        return _by_embedding(answers, judge, threshold)
    if kind == "likelihood" and isinstance(judge, Ranker):
        return _by_likelihood(answers, judge)
    if kind == "model" and isinstance(judge, Generator):
        replies = _replies(judge, [_filled(GRADED, one) for one in answers], max_tokens)
        return [JudgeRating(parse_rating(text), text) for text in replies]
    needs = {"embedding": "an Embedder", "likelihood": "a Ranker", "model": "a Generator"}[kind]
    name = "nobody" if judge is None else getattr(judge, "name", type(judge).__name__)
    raise ConfigError(f"judged by {kind} needs a judge that is {needs}, got {name} (expected --judge MODEL)")


def word_f1(answer: str, reference: str) -> float:
    """Word F1 without articles and punctuation (as in SQuAD); 1 if both are empty.

    >>> round(word_f1("a red bus", "the bus"), 3)
    0.667
    """
    a, b = Counter(normalised(answer).split()), Counter(normalised(reference).split())
    if not a or not b:
        return float(a == b)
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total())


def parse_rating(reply: str, most: int = 10) -> float | None:
    """Parses the rating in a reply as a fraction of `most`; None for no rating, several, or one above `most`.

    >>> [parse_rating(reply) for reply in ("Rating: 7", "10", "rating: 3/10", "Rating: 3, or rating: 5", "good", "Rating: 12")]
    [0.7, 1.0, 0.3, None, None, None]
    """
    numbers = re.findall(r"rating\W{0,4}(\d+(?:\.\d+)?)", reply, re.IGNORECASE) or re.findall(
        r"^\W*(\d+(?:\.\d+)?)(?:/10)?\W*$", reply
    )
    values = {float(number) for number in numbers}
    return values.pop() / most if len(values) == 1 and max(values) <= most else None


def _by_likelihood(answers: Sequence[JudgedAnswer], judge: Ranker) -> list[JudgeRating]:
    prompts = [(TextPart(_filled(SAME, one)),) for one in answers]
    nats = judge.answer_nll([None] * len(answers), prompts, [["yes", "no"]] * len(answers)) if answers else []
    shares = [1 / (1 + float(np.exp(table[0, 0] - table[1, 0]))) for table in nats]
    return [JudgeRating(share, f"{share:.4f}") for share in shares]


def _by_embedding(answers: Sequence[JudgedAnswer], judge: Embedder, threshold: float) -> list[JudgeRating]:
    if not answers:
        return []
    texts = list(dict.fromkeys(text for one in answers for text in (one.answer or " ", one.reference)))
    vector = dict(zip(texts, judge.embed_texts(texts), strict=True))
    cosines = [float(vector[one.answer or " "] @ vector[one.reference]) for one in answers]
    return [JudgeRating(float(cosine >= threshold), f"{cosine:.4f}") for cosine in cosines]


# ---------------------------------------------------------------- two answers


@dataclass(frozen=True, slots=True)
class PairwisePreference:
    """Result of a pairwise comparison of two answers, asked in both orders.

    better      "first" or "second" if both orders agree; "tie" if both give a tie or they disagree; "unread" if a reply cannot be parsed
    consistent  True if both orders agree; None if a reply cannot be parsed
    took_first  number of the two replies that prefer the answer shown first
    replies     both replies
    """

    better: Preference
    consistent: bool | None
    took_first: int
    replies: tuple[str, str]


def compare_answers(
    judge: Generator, answers: Sequence[JudgedAnswer], rivals: Sequence[str], *, max_tokens: int = 64
) -> list[PairwisePreference]:
    """Pairwise preferences between `answers` and those of `rivals`."""
    prompts = [_filled(PAIRED, one, first=one.answer, second=rival) for one, rival in zip(answers, rivals, strict=True)]
    swapped = [_filled(PAIRED, one, first=rival, second=one.answer) for one, rival in zip(answers, rivals, strict=True)]
    replies = _replies(judge, [*prompts, *swapped], max_tokens)
    return [_both_orders(here, there) for here, there in zip(replies[: len(answers)], replies[len(answers) :], strict=True)]


def _both_orders(here: str, there: str) -> PairwisePreference:
    first, other = parse_preference(here), parse_preference(there)
    second: Preference = {"first": "second", "second": "first"}.get(other, other)  # type: ignore[assignment]
    took = (first == "first") + (other == "first")
    if "unread" in (first, second):
        return PairwisePreference("unread", None, took, (here, there))
    return PairwisePreference(first if first == second else "tie", first == second, took, (here, there))


def parse_preference(reply: str) -> Preference:
    """Preferred answer in a judge's reply, of the two as they were shown.

    >>> [parse_preference(reply) for reply in ("Better: A", "**Better: b**", "Better: tie", "A", "A is long, so B", "Better: A. Better: B")]
    ['first', 'second', 'tie', 'first', 'unread', 'unread']
    """
    matches = re.findall(r"better\W{0,4}(a|b|tie)\b", reply, re.IGNORECASE) or re.findall(
        r"^\W*(a|b|tie)\W*$", reply, re.IGNORECASE
    )
    names = {name.lower() for name in matches}
    preferences: dict[str, Preference] = {"a": "first", "b": "second", "tie": "tie"}
    return preferences[names.pop()] if len(names) == 1 else "unread"


def _filled(form: str, one: JudgedAnswer, **answers: str) -> str:
    """Template with its fields filled; braces in the texts stay as they are."""
    fields = {"question": one.question, "reference": one.reference, "reasoning": one.reasoning, "answer": one.answer, **answers}
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], form)


def _replies(judge: Generator, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Replies of the judge; equal questions are asked once."""
    once = list(dict.fromkeys(texts))
    replies = judge.generate([None] * len(once), [(TextPart(text),) for text in once], max_tokens=max_tokens) if once else []
    reply_of = dict(zip(once, replies, strict=True))
    return [reply_of[text] for text in texts]
