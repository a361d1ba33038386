"""Rewards of generated text by name: overlap with references, rules about the text, and controls.

Rewards of GRUE (Ramamurthy et al., 2022, 2210.01241). Metrics without their own tokeniser use the words of the COCO evaluation
code (`words_of`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.core import registry
from diptych.core.errors import ConfigError, MissingExtra, UnknownName
from diptych.tasks._scoring.captions.metrics import bleu_counts, cider_d, longest_common, words_of
from diptych.tasks._scoring.rewards.meteor import meteor
from diptych.tasks._scoring.rewards.naturalness import repetition
from diptych.tasks._scoring.rewards.nltk_meteor import nltk_meteor
from diptych.tasks._scoring.rewards.parent import parent_of_prompt
from diptych.tasks._scoring.rewards.reward import Reward, checked_rewards
from diptych.tasks._scoring.rewards.scene_tuples import tuple_f1

Texts = Sequence[str]
References = Sequence[Sequence[str]]
COMMONGEN_PREFIX = "generate a sentence with: "
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def text_reward(name: str, *, classifier: Reward | None = None, intent: Reward | None = None) -> Reward:
    """Returns a reward by name, one of REWARDS or of another package; "+" adds rewards ("meteor+commongen_penalty"), "-NAME" negates
    one, "0.5*NAME" scales one.

    classifier, intent  what these names stand for

    >>> text_reward("increasing_numbers:20")([""], ["1 2 3 2 x"], [[]])
    [0.3]
    """
    own = {name: reward for name, reward in (("classifier", classifier), ("intent", intent)) if reward is not None}
    parts = [(part.strip(), _one(part.strip(), own)) for part in name.split("+")]

    def added(prompts: Texts, answers: Texts, references: References) -> list[float]:
        columns = [checked_rewards(part, reward, prompts, answers, references) for part, reward in parts]
        return [float(sum(row)) for row in zip(*columns, strict=True)]

    return added


def reward_names(name: str) -> set[str]:
    """Names in a reward, without signs, weights and arguments.

    >>> sorted(reward_names("0.75*intent+-length:20"))
    ['intent', 'length']
    """
    return {part.strip().removeprefix("-").rpartition("*")[2].partition(":")[0] for part in name.split("+")}


def _one(name: str, own: Mapping[str, Reward]) -> Reward:
    sign = -1.0 if name.startswith("-") else 1.0
    share, _, named = name.removeprefix("-").rpartition("*")
    weight = sign * _number(named, share, 1.0)
    key, _, argument = named.partition(":")
    if key in own:
        reward = own[key]
    elif key in REWARDS:
        reward = REWARDS[key](argument)
    elif key in registry.REWARDS:
        reward = registry.REWARDS.load(_argument_free(key, argument))
    else:
        raise UnknownName("reward", key, (*REWARDS, *registry.REWARDS, "classifier", "intent"))
    if weight == 1:
        return reward
    return lambda prompts, answers, references: [weight * float(score) for score in reward(prompts, answers, references)]


# ---------------------------------------------------------------- overlap with references


@lru_cache(maxsize=4)
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtra("rouge-score", "rl", needed_for="ROUGE as a reward") from None
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


@lru_cache(maxsize=1)
def _stemmed_words() -> Callable[[str], list[str]]:
    """Tokeniser: lower-case alphanumeric words, the first 100 of a text, stemmed if longer than three characters."""
    try:
        from nltk.stem.porter import PorterStemmer
        from rouge_score.tokenize import tokenize
    except ImportError:
        raise MissingExtra("rouge-score", "rl", needed_for="ROUGE as a reward") from None
    stemmer = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
    return lambda text: list(tokenize(" ".join(text.split()[:100]), stemmer))


def _rouge(kinds: Sequence[str], argument: str) -> Reward:
    """Mean F-measure of the kinds against the first reference; with argument "best", against the best reference."""
    scorer, best = _rouge_scorer(), _argument("rouge", argument, ("", "best")) == "best"

    def score(answer: str, reference: str) -> float:
        scores = scorer.score(reference, answer)
        return float(sum(scores[kind].fmeasure for kind in kinds) / len(kinds))

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        chosen = [some if best else some[:1] for some in _referred("rouge", references)]
        return [max(score(answer, one) for one in some) for answer, some in zip(answers, chosen, strict=True)]

    return reward


def _rouge_l_max(argument: str) -> Reward:
    """ROUGE-L of NarrativeQA: the best F over the references, from precision and recall to the power 1 / 1.2, on Porter stems of
    the first 100 words. The released code first looks up irregular stems in WordNet; this one does not."""
    words = _stemmed_words()

    def score(answer: Sequence[str], reference: Sequence[str]) -> float:
        common = longest_common(answer, reference)
        precision, recall = ((common / len(text)) ** (1 / 1.2) if text else 0.0 for text in (answer, reference))
        return 2 * precision * recall / (precision + recall) if common else 0.0

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        some = _referred("rouge_l_max", references)
        return [max(score(words(answer), words(one)) for one in own) for answer, own in zip(answers, some, strict=True)]

    return reward


def _sacrebleu(kind: str, argument: str) -> Reward:
    """Sentence-level BLEU, chrF or 1 - TER of sacrebleu, divided by 100. As released, answers of fewer than four tokens have BLEU
    0."""
    try:
        import sacrebleu
    except ImportError:
        raise MissingExtra("sacrebleu", "rl", needed_for=f"{kind} as a reward") from None
    scorer: Any = {
        "sacrebleu": lambda: sacrebleu.BLEU(tokenize=argument or None),
        "chrf": sacrebleu.CHRF,
        "ter": sacrebleu.TER,
    }[kind]()

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        some = _referred(kind, references)
        scores = [
            scorer.corpus_score([answer], [[one] for one in own]).score / 100 if answer.strip() else float(kind == "ter")
            for answer, own in zip(answers, some, strict=True)
        ]
        return [1 - score for score in scores] if kind == "ter" else scores

    return reward


def _bleu(argument: str) -> Reward:
    """BLEU on whitespace tokens, without smoothing; the brevity penalty uses the shortest reference."""

    def score(answer: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        counts = bleu_counts([answer], [references])
        correct_4, possible_4 = counts.correct_N4[0], counts.possible_N4[0]
        if not correct_4.all():
            return 0.0
        shortest = min(map(len, references))
        return float(np.exp(np.log(correct_4 / possible_4).mean() + min(0.0, 1 - shortest / len(answer))))

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        some = _referred("bleu", references)
        return [score(answer.split(), [one.split() for one in own]) for answer, own in zip(answers, some, strict=True)]

    return reward


def _meteor(argument: str) -> Reward:
    """Without a thesaurus; with a folder of NLTK's data as argument, NLTK's."""
    if argument:
        scored = nltk_meteor(argument)
        return lambda prompts, answers, references: [
            scored(answer, own) for answer, own in zip(answers, _referred("meteor", references), strict=True)
        ]

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        some = _referred("meteor", references)
        return [meteor(words_of(answer), [words_of(one) for one in own]) for answer, own in zip(answers, some, strict=True)]

    return reward


def _cider(argument: str) -> Reward:
    """CIDEr-D divided by 10; document frequencies come from the references of the answers that are scored together."""

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        words = [[words_of(one) for one in own] for own in _referred("cider", references)]
        return [float(score) / 10 for score in cider_d([words_of(answer) for answer in answers], words)]

    return reward


def _parent(argument: str) -> Reward:
    """PARENT of ToTTo's evaluation, with the table that the prompt holds (`prompt_table`)."""
    _argument("parent", argument, ("",))

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        some = _referred("parent", references)
        return [parent_of_prompt(*row) for row in zip(prompts, answers, some, strict=True)]

    return reward


def _scene_tuples(argument: str) -> Reward:
    """F of scene-graph tuples: SPICE's idea by a parser of rules, whose values are not SPICE's."""
    _argument("scene_tuples", argument, ("",))

    def reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
        return [tuple_f1(*row) for row in zip(answers, _referred("scene_tuples", references), strict=True)]

    return reward


def _bert_score(argument: str) -> Reward:
    """F of BERTScore by the encoder in a folder of transformers: "bert_score:FOLDER,layer=9,idf,baseline=FILE"."""
    from diptych.tasks._scoring.rewards.bert_score import bert_score

    scorer = bert_score(argument)
    return lambda prompts, answers, references: scorer(answers, _referred("bert_score", references))


def _pair_scores(name: str, argument: str) -> Reward:
    """BLEURT or entailment by the classifier in a folder of transformers: "bleurt:FOLDER", "entailment:FOLDER,label=0"."""
    from diptych.tasks._scoring.rewards import pair_scores

    scored = pair_scores.bleurt if name == "bleurt" else pair_scores.entailment
    scored(argument, [], [])
    return lambda prompts, answers, references: scored(argument, answers, _referred(name, references))


def _referred(name: str, references: References) -> References:
    if lacking := [row for row, own in enumerate(references) if not own]:
        raise ConfigError(f"reward '{name}': row {lacking[0]} has no reference (expected one or more texts)")
    return references


# ---------------------------------------------------------------- rules about the text


def increasing_numbers(text: str, least: int = 20) -> float:
    """Length of the leading increasing run among the numbers of a text, divided by its number of words (at least least / 2)."""
    words = text.split()
    numbers = [float(word) for word in words if _is_number(word)]
    run = 0
    for number in numbers:
        if run and not number > numbers[run - 1]:  # NaN ends the run
            break
        run += 1
    return run / max(len(words), least / 2) if run else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def commongen_penalty(prompt: str, answer: str, prefix: str = COMMONGEN_PREFIX) -> float:
    """-1 for an answer that copies its prompt: the concepts in their order, or words of the instruction."""
    concepts = prompt.partition(prefix)[2].removesuffix(".").strip().lower() if prefix in prompt else prompt.strip().lower()
    lower = answer.lower()
    instruction = (prefix.strip(), "generate", "sentence") if prefix in prompt else ()
    return -1.0 if (concepts and concepts in lower) or any(word in lower for word in instruction) else 0.0


def date_reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
    """1 for an answer with a date such as 2024-05-01."""
    return [float(DATE.search(answer) is not None) for answer in answers]


def repetition_reward(prompts: Texts, answers: Texts, references: References) -> list[float]:
    """Share of an answer's word pairs that it repeats."""
    return [repetition(answer.split()) for answer in answers]


def _argument(name: str, argument: str, allowed: Sequence[str]) -> str:
    if argument not in allowed:
        raise ConfigError(
            f"reward '{name}:{argument}' (expected {' | '.join(one or 'nothing' for one in allowed)} behind the colon)"
        )
    return argument


def _argument_free(name: str, argument: str) -> str:
    _argument(name, argument, ("",))
    return name


def _number(name: str, argument: str, default: float) -> float:
    if argument and not (_is_number(argument) and math.isfinite(float(argument))):
        raise ConfigError(f"reward '{name}:{argument}' (expected a number behind the colon)")
    return float(argument or default)


def _of_answers(score: Callable[[str], float]) -> Reward:
    return lambda prompts, answers, references: [score(answer) for answer in answers]


def _increasing(least: int) -> Reward:
    return _of_answers(lambda text: increasing_numbers(text, least))


def _lengths(unit: float) -> Reward:
    return _of_answers(lambda text: len(text.split()) / unit)


REWARDS: dict[str, Callable[[str], Reward]] = {
    "rouge1": lambda argument: _rouge(("rouge1",), argument),
    "rouge2": lambda argument: _rouge(("rouge2",), argument),
    "rougeL": lambda argument: _rouge(("rougeL",), argument),
    "rouge_combined": lambda argument: _rouge(("rouge1", "rouge2", "rougeL"), argument),
    "rouge_l_max": _rouge_l_max,
    "bleu": _bleu,
    "sacrebleu": lambda argument: _sacrebleu("sacrebleu", argument),
    "chrf": lambda argument: _sacrebleu("chrf", argument),
    "ter": lambda argument: _sacrebleu("ter", argument),
    "meteor": _meteor,
    "cider": _cider,
    "parent": _parent,
    "scene_tuples": _scene_tuples,
    "bert_score": _bert_score,
    "bleurt": lambda argument: _pair_scores("bleurt", argument),
    "entailment": lambda argument: _pair_scores("entailment", argument),
    "increasing_numbers": lambda argument: _increasing(int(_number("increasing_numbers", argument, 20))),
    "commongen_penalty": lambda argument: (
        lambda prompts, answers, references: [
            commongen_penalty(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]
    ),
    "length": lambda argument: _lengths(_number("length", argument, 20)),
}
"""Name -> factory that takes the argument after the colon: "increasing_numbers:20", "rougeL:best", "length:20"."""
