"""Rewards and consistency of a conversation by a symbolic table, after Dr-LLaVA (Sun et al., 2024, arXiv 2405.19567).

A table is YAML:

    matching: words                    # or substrings
    questions: [usable, finding]
    rules:                             # of each question, in order; the first that fits gives the value
      usable:
        - {value: "yes", has: [[adequate, suitable]], lacks: ["not", "no", inadequate, unsuitable]}
        - {value: "no", has: [["not", "no", inadequate, unsuitable]]}
      finding: [...]
    rows:                              # what may be answered together, a value for each question
      NORMAL: ["yes", normal]
      TUMOUR: ["yes", abnormal]

A rule matches if the lower-case answer contains a keyword of every list of `has` and none of `lacks`. "words" compares whole
words, and a trailing star matches any letters; "substrings" also matches within words, as released, so "no" matches "abnormal".

    R = sum_i c_i + sum_{i >= 2} a_i + sum_i l_i
    c_i  1 where the value is that of the reference, -1/2 where no rule fits, else 0
    a_i  1 if the values of questions i - 1 and i occur together in a row of the table, right or wrong, else 0
    l_i  -|characters of the answer - characters of the reference| / 10 where that is below -1, else 0

The released code cannot run: it calls a function that does not exist, on the lengths of values of which one is a boolean.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from diptych.core.errors import DataError, RunError

TABLES = Path(__file__).parent / "tables"
UNMATCHED = -0.5
CHARACTERS = 10.0
"""Characters of length difference per unit of penalty; smaller differences cost nothing."""


@dataclass(frozen=True, slots=True)
class ValueRule:
    """value  of an answer that holds a keyword of each list of `has`, and none of `lacks`"""

    value: str
    has: tuple[tuple[str, ...], ...]
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SymbolicTable:
    """Questions, rules that map answers to values, and rows of compatible values."""

    questions: tuple[str, ...]
    rules: Mapping[str, tuple[ValueRule, ...]]
    rows: Mapping[str, tuple[str, ...]]
    substrings: bool = False

    def value_of(self, question: str, answer: str) -> str | None:
        """Value of an answer; None if no rule matches."""
        words = answer.lower()
        for rule in self.rules[question]:
            held = all(any(self._holds(words, keyword) for keyword in some) for some in rule.has)
            if held and not any(self._holds(words, keyword) for keyword in rule.lacks):
                return rule.value
        return None

    def _holds(self, words: str, keyword: str) -> bool:
        return keyword in words if self.substrings else _pattern(keyword).search(words) is not None

    def together(self, first: tuple[str, str | None], second: tuple[str, str | None]) -> bool:
        """True if two values, each with its question, occur together in a row."""
        (question, value), (other, value_there) = first, second
        columns = self.questions.index(question), self.questions.index(other)
        return any((row[columns[0]], row[columns[1]]) == (value, value_there) for row in self.rows.values())

    def row_of(self, values: Mapping[str, str | None]) -> str | None:
        """Name of the row that contains all of these values; None if there is no such row."""
        for name, row in self.rows.items():
            if all(row[self.questions.index(question)] == value for question, value in values.items()):
                return name
        return None


@dataclass(frozen=True, slots=True)
class RewardParts:
    """Reward of a conversation in its parts, and the values that were read.

    values, references  of the answers and of the references, None if no rule fits
    """

    correct: float
    consistent: float
    length: float
    values: tuple[str | None, ...]
    references: tuple[str | None, ...]

    @property
    def total(self) -> float:
        return self.correct + self.consistent + self.length

    @property
    def all_right(self) -> bool:
        """True if every answer has the value of its reference."""
        return None not in self.values and self.values == self.references


@dataclass(frozen=True, slots=True)
class TableReward:
    """The reward above of whole conversations. Weights of 0 leave a part out.

    correct, consistent, length  weights of the three sums
    """

    table: SymbolicTable
    correct: float = 1.0
    consistent: float = 1.0
    length: float = 1.0

    def __call__(self, questions: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> RewardParts:
        """questions  names, in the order asked. Raises RunError for a name that is not in the table, or if the lengths differ."""
        if not len(questions) == len(answers) == len(references):
            raise RunError(
                f"{len(questions)} questions, {len(answers)} answers, {len(references)} references (expected as many of each)"
            )
        if unknown := [name for name in questions if name not in self.table.rules]:
            raise RunError(f"the table has no question '{unknown[0]}' (expected {', '.join(self.table.questions)})")
        values = tuple(self.table.value_of(name, text) for name, text in zip(questions, answers, strict=True))
        true = tuple(self.table.value_of(name, text) for name, text in zip(questions, references, strict=True))
        right = sum(
            1.0 if value == there else UNMATCHED if value is None else 0.0 for value, there in zip(values, true, strict=True)
        )
        named = list(zip(questions, values, strict=True))
        pairs = itertools.pairwise(named)
        allowed = sum(float(None not in (one[1], other[1]) and self.table.together(one, other)) for one, other in pairs)
        gaps = [abs(len(answer) - len(reference)) / CHARACTERS for answer, reference in zip(answers, references, strict=True)]
        long = -sum(gap for gap in gaps if gap > 1)
        return RewardParts(self.correct * right, self.consistent * allowed, self.length * long, values, true)


def is_consistent(table: SymbolicTable, questions: Sequence[str], values: Sequence[str | None]) -> bool:
    """True if every two consecutive values occur together in a row of the table."""
    named = list(zip(questions, values, strict=True))
    return None not in values and all(table.together(one, other) for one, other in itertools.pairwise(named))


@lru_cache(maxsize=8)
def symbolic_table(source: str) -> SymbolicTable:
    """Loads a shipped table by name ("bone_marrow", "bone_marrow_released", "tissue"), or a YAML file. Raises DataError for an
    invalid table."""
    path = Path(source) if source.endswith((".yaml", ".yml")) else TABLES / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        raise DataError("no such table", file=path, expected=f"a YAML file, or one of {names}")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"no YAML: {str(error).splitlines()[0]}", file=path, expected="questions, rules and rows") from error
    return _checked(plain, path)


def _checked(plain: Any, path: Path) -> SymbolicTable:
    parts = plain if isinstance(plain, dict) else {}
    questions, rules, rows = parts.get("questions"), parts.get("rules"), parts.get("rows")
    if not isinstance(questions, list) or not isinstance(rules, dict) or not isinstance(rows, dict) or not questions:
        raise DataError("has no questions, rules or rows", file=path, expected="all three")
    if set(map(str, questions)) != set(rules):
        raise DataError(f"has rules for {sorted(rules)}", file=path, field="rules", expected=f"some for each of {questions}")
    for name, row in rows.items():
        if not isinstance(row, list) or len(row) != len(questions):
            raise DataError(f"row '{name}' is {row}", file=path, field="rows", expected=f"{len(questions)} values")
    if (matching := parts.get("matching", "words")) not in ("words", "substrings"):
        raise DataError(f"matching is {matching!r}", file=path, field="matching", expected="words or substrings")
    made = {str(name): tuple(_rule(rule, str(name), path) for rule in some) for name, some in rules.items()}
    values = {str(name): tuple(map(str, row)) for name, row in rows.items()}
    return SymbolicTable(tuple(map(str, questions)), made, values, matching == "substrings")


def _rule(plain: Any, name: str, path: Path) -> ValueRule:
    has = plain.get("has") if isinstance(plain, dict) else None
    lists = has if isinstance(has, list) else []
    keywords = [*lists, plain.get("lacks") or []] if isinstance(plain, dict) else [None]
    if not lists or not all(isinstance(some, list) and all(isinstance(word, str) for word in some) for some in keywords):
        expected = '{value: name, has: [[keyword, ...], ...], lacks: [keyword, ...]}, and quotes around "yes", "no" and "not"'
        raise DataError(f"a rule of '{name}' is {str(plain)[:60]}", file=path, field="rules", expected=expected)
    return ValueRule(str(plain["value"]), tuple(map(tuple, lists)), tuple(plain.get("lacks") or ()))


@lru_cache(maxsize=4096)
def _pattern(keyword: str) -> re.Pattern[str]:
    whole = re.escape(keyword.rstrip("*").strip())
    return re.compile(rf"(?<!\w){whole}" + ("" if keyword.endswith("*") else r"(?!\w)"))
