"""Two answers to a question about a sample, of which one is preferred.

`extras["preference"]` of a sample holds one pair:

    {"question": "What is this?", "chosen": "A cup.", "rejected": "Two cups.",
     "reference_chosen": -3.2, "reference_rejected": -5.1,      # log-probabilities by a reference model, nats, summed
     "turns": [["Is it red?", "Yes."]]}                         # what was asked and answered before

Columns of data sets of others are read in its place:

    trl            prompt, chosen, rejected: texts, or lists of {"role", "content"}; without prompt both begin alike
    LLaVA-RLHF     conversations, whose last answer is replaced by output_1 and output_2, of which `preference` (1 or 2) is the better
    RLAIF-V        question, chosen, rejected, with or without `logps`, the six reference log-probabilities
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample

PREFERENCE_FIELD = "preference"
RANKED = ("chosen", "rejected")
ANSWER_FIELDS = (*RANKED, "output_1", "output_2")
"""Columns of which each belongs to a pair."""
IMAGE_MARK = "<image>"


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """question  what both answer; turns: questions and answers before it
    reference_chosen, reference_rejected  log-probabilities by a reference model, summed over the answer's tokens; None: not stored
    """

    question: str
    chosen: str
    rejected: str
    turns: tuple[tuple[str, str], ...] = ()
    reference_chosen: float | None = None
    reference_rejected: float | None = None

    @property
    def reference(self) -> tuple[float, float] | None:
        """Both reference log-probabilities, chosen first; None if one is not stored."""
        if self.reference_chosen is None or self.reference_rejected is None:
            return None
        return self.reference_chosen, self.reference_rejected

    def to_json(self) -> dict[str, Any]:
        """The value of `extras["preference"]`."""
        plain: dict[str, Any] = {"question": self.question, "chosen": self.chosen, "rejected": self.rejected}
        if self.turns:
            plain["turns"] = [list(turn) for turn in self.turns]
        if self.reference is not None:
            plain |= {"reference_chosen": self.reference_chosen, "reference_rejected": self.reference_rejected}
        return plain


def has_preference(sample: Sample) -> bool:
    """True if a sample has a pair in one of the layouts."""
    return isinstance(sample.extras.get(PREFERENCE_FIELD), Mapping) or _given(sample, ("output_1",)) or _given(sample, RANKED)


def holds_answers(sample: Sample) -> bool:
    """True if a sample has a pair, or a part of one that lacks the other."""
    return any(_given(sample, (name,)) for name in (PREFERENCE_FIELD, *ANSWER_FIELDS))


def _given(sample: Sample, names: Sequence[str]) -> bool:
    return all(sample.extras.get(name) is not None for name in names)


def distinct_pair(sample: Sample) -> PreferencePair:
    """The pair of a sample, of which nothing can be learned if both answers are the same. Raises DataError that names sample and field."""
    pair = preference_of(sample)
    if pair.chosen.strip() == pair.rejected.strip():
        raise DataError(f"sample '{sample.uid}' has one answer twice", field="rejected", expected="another one than chosen")
    return pair


def preference_of(sample: Sample) -> PreferencePair:
    """The pair of a sample. Raises DataError that names sample and field."""
    where, extras = f"sample '{sample.uid}'", sample.extras
    stored = extras.get(PREFERENCE_FIELD)
    if isinstance(stored, Mapping):
        return _checked(_stored(stored, where), where)
    if _given(sample, ("output_1",)):
        return _checked(_compared(extras, where), where)
    if _given(sample, RANKED):
        return _checked(_ranked(extras, where), where)
    given = [name for name in ANSWER_FIELDS if _given(sample, (name,))]
    lacking = {"chosen": "rejected", "rejected": "chosen"}.get(given[0], "output_1") if given else PREFERENCE_FIELD
    raise DataError(f"{where} has no pair of answers", field=lacking, expected="chosen and rejected, or output_1 and output_2")


def _stored(entry: Mapping[str, Any], where: str) -> PreferencePair:
    turns = tuple(_turn(turn, where) for turn in entry.get("turns") or ())
    values = [_number(entry.get(name), where, name) for name in ("reference_chosen", "reference_rejected")]
    return PreferencePair(
        _text(entry, "question", where), _text(entry, "chosen", where), _text(entry, "rejected", where), turns, *values
    )


def _turn(given: Any, where: str) -> tuple[str, str]:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise DataError(f"{where} has {str(given)[:40]!r}", field="turns", expected="question and answer of each turn")
    return str(given[0]), str(given[1])


def _compared(row: Mapping[str, Any], where: str) -> PreferencePair:
    """The layout of LLaVA-RLHF."""
    dialogue = list(row.get("conversations") or ())
    if len(dialogue) == 1 and isinstance(dialogue[0], Sequence) and not isinstance(dialogue[0], str | Mapping):
        dialogue = list(dialogue[0])
    words = [str(turn.get("value", "")) for turn in dialogue if isinstance(turn, Mapping)]
    if len(words) < 2 or len(words) % 2 or dialogue[-1].get("from") != "gpt":
        raise DataError(
            f"{where} has {len(words)} turns", field="conversations", expected="question, answer, ..., the answer last"
        )
    outputs = [_value(row.get(name), where, name) for name in ("output_1", "output_2")]
    if (better := row.get(PREFERENCE_FIELD)) not in (1, 2):
        raise DataError(f"{where} prefers {better!r}", field=PREFERENCE_FIELD, expected="1 or 2")
    questions = [_without_mark(text) for text in words[::2]]
    turns = tuple(zip(questions[:-1], words[1:-1:2], strict=True))
    return PreferencePair(questions[-1], outputs[int(better) - 1], outputs[2 - int(better)], turns)


def _ranked(row: Mapping[str, Any], where: str) -> PreferencePair:
    """The layouts of trl and RLAIF-V."""
    chosen, rejected = _parsed(row["chosen"]), _parsed(row["rejected"])
    prompt = _parsed(row.get("prompt") or row.get("question") or "")
    for name, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str | Sequence):
            raise DataError(f"{where} has {str(value)[:40]!r}", field=name, expected="words, or a list of messages")
    before: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else list(prompt or ())
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not before:
            chosen, rejected, before = _common_start(chosen, rejected)
    else:
        if not before:
            shared = sum(1 for _ in _shared(chosen, rejected))
            before, chosen, rejected = list(chosen[:shared]), chosen[shared:], rejected[shared:]
        chosen, rejected = (_content(side, where, name) for side, name in ((chosen, "chosen"), (rejected, "rejected")))
    words = [_words(message) for message in before if not (isinstance(message, Mapping) and message.get("role") == "system")]
    if len(words) % 2 == 0:
        raise DataError(f"{where} has {len(words)} turns before the answers", field="prompt", expected="the question last")
    questions = [_without_mark(text) for text in words[::2]]
    turns = tuple(zip(questions[:-1], words[1::2], strict=True))
    return PreferencePair(questions[-1], chosen, rejected, turns, *_log_probs(row.get("logps"), where))


def _log_probs(given: Any, where: str) -> tuple[float | None, float | None]:
    """Summed reference log-probabilities of RLAIF-V's six: sum, mean and tokens of the chosen answer, then of the rejected one."""
    given = _parsed(given) if isinstance(given, str) else given
    given = given.get("logps") if isinstance(given, Mapping) else given
    if given is None:
        return None, None
    if not isinstance(given, Sequence) or len(given) != 6:
        raise DataError(f"{where} has {str(given)[:40]!r}", field="logps", expected="six values, as RLAIF-V stores them")
    return _number(given[0], where, "logps"), _number(given[3], where, "logps")


def _common_start(chosen: str, rejected: str) -> tuple[str, str, list[Any]]:
    """Two whole texts cut where they begin to differ, at a word."""
    length = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    start = chosen[:length].rfind(" ") + 1
    return chosen[start:], rejected[start:], [chosen[:start].strip()] if start else []


def _shared(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    same = []
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same.append(one)
    return same


def _content(side: Any, where: str, name: str) -> str:
    if isinstance(side, str):
        return side
    if not isinstance(side, Sequence) or len(side) != 1:
        raise DataError(f"{where} has {str(side)[:60]}", field=name, expected="one answer behind the prompt")
    return _words(side[0])


def _words(message: Any) -> str:
    content = message.get("content", message.get("value", "")) if isinstance(message, Mapping) else message
    if isinstance(content, Sequence) and not isinstance(content, str):  # parts, of which pictures come beside the sample
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content)


def _without_mark(text: str) -> str:
    return text.replace(IMAGE_MARK + "\n", "").replace("\n" + IMAGE_MARK, "").replace(IMAGE_MARK, "").strip()


def _parsed(value: Any) -> Any:
    """Lists and objects that a table keeps as JSON."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := entry.get(name), str):
        raise DataError(f"{where} has {value!r}", field=name, expected="words")
    return value


def _value(given: Any, where: str, name: str) -> str:
    given = given.get("value") if isinstance(given, Mapping) else given
    if not isinstance(given, str):
        raise DataError(f"{where} has {str(given)[:40]!r}", field=name, expected='{"from": "llava", "value": words}')
    return given


def _number(value: Any, where: str, name: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where} has {value!r}", field=name, expected="a log-probability in nats")
    return float(value)


def _checked(pair: PreferencePair, where: str) -> PreferencePair:
    for name in ("chosen", "rejected"):
        if not getattr(pair, name).strip():
            raise DataError(f"{where} has an empty answer", field=name, expected="words")
    return pair
