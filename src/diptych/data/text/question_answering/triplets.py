"""Questions with answer and reasoning, the ability that each tests and the evidence in the picture (2311.14580).

A file holds one JSON object a line:

    {"uid": "17", "ability": "perception", "sub_ability": "count", "question": "How many dogs are there?", "answer": "two",
     "options": ["one", "two"], "reasoning": "There are dogs at 0 and 2.", "support": ["0 dog", "2 dog"], "by": "program"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError

ABILITIES: Mapping[str, tuple[str, ...]] = {
    "perception": ("object", "count", "attribute", "location", "relation", "action", "text", "scene"),
    "reasoning": ("comparison", "predictive", "explanatory", "counterfactual", "knowledge", "physical", "biological"),
    "planning": ("short_term", "long_term"),
    "value": ("privacy", "security", "ethics"),
}
"""Four abilities, as in the paper, and kinds below them. The paper has sixteen; some of these names are ours."""


@dataclass(frozen=True, slots=True)
class Triplet:
    """options    of a closed question, the answer among them; none for an open one
    support    the symbols that the answer follows from
    by         "program", or the model that wrote it
    """

    uid: str
    ability: str
    sub_ability: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    reasoning: str = ""
    support: tuple[str, ...] = ()
    by: str = "program"


def lines_of(triplets: Iterable[Triplet]) -> bytes:
    """JSON, a triplet a line, in UTF-8."""
    return "".join(json.dumps(asdict(triplet), ensure_ascii=False) + "\n" for triplet in triplets).encode()


def read_triplets(path: Path) -> list[Triplet]:
    """Raises DataError that names file, row and field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="JSON lines of triplets") from error
    triplets = [_triplet(line, path, row) for row, line in enumerate(lines, start=1) if line.strip()]
    if not triplets:
        raise DataError("contains no question", file=path, expected="one JSON object per line")
    return triplets


def _triplet(line: str, file: Path, row: int) -> Triplet:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg}", file=file, row=row, expected="an object with uid, question and answer"
        ) from error
    if not isinstance(value, Mapping):
        raise DataError(f"is a {type(value).__name__}", file=file, row=row, expected="an object with uid, question and answer")
    return triplet_from(value, file=file, row=row)


def triplet_from(value: Mapping[str, Any], *, file: Path | None = None, row: int | None = None) -> Triplet:
    """A triplet from plain values."""
    names = [field.name for field in fields(Triplet)]
    if unknown := sorted(set(value) - set(names)):
        raise DataError("unknown field", file=file, row=row, field=unknown[0], expected=", ".join(names))
    for name in ("uid", "ability", "sub_ability", "question", "answer"):
        if not isinstance(value.get(name), str) or not value[name].strip():
            raise DataError(f"is {value.get(name)!r}", file=file, row=row, field=name, expected="words")
    if value["sub_ability"] not in ABILITIES.get(value["ability"], ()):
        expected = ", ".join(ABILITIES.get(value["ability"], ABILITIES))
        raise DataError(
            f"is {value['ability']}/{value['sub_ability']}", file=file, row=row, field="sub_ability", expected=expected
        )
    options = value.get("options") or []
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) and option.strip() for option in options):
        raise DataError(f"are {str(options)[:60]}", file=file, row=row, field="options", expected="a list of texts")
    if options and (len(set(options)) < len(options) or value["answer"] not in options):
        problem = "hold a text twice" if len(set(options)) < len(options) else f"lack the answer '{value['answer']}'"
        raise DataError(problem, file=file, row=row, field="options", expected="different ones, the answer among them")
    words: dict[str, Any] = {name: value[name] for name in ("uid", "ability", "sub_ability", "question", "answer")}
    words |= {"reasoning": str(value.get("reasoning", "")), "by": str(value.get("by", "program"))}
    return Triplet(**words, options=tuple(options), support=tuple(map(str, value.get("support") or ())))
