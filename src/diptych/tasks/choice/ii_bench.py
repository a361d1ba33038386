"""II-Bench: the implied meaning of a picture, by multiple choice. Protocol `ii_bench`, version 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_json
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import ImagePart, PromptLike, TextPart
from diptych.core.registry import EXTRACTORS
from diptych.core.result import Result
from diptych.tasks._scoring.answers.choices import LETTERS
from diptych.tasks.choice.items import Item, items_of
from diptych.tasks.choice.multiple_choice import MultipleChoice, OrderBy, OrderedQuestion

Mode = Literal["none", "cot", "domain", "emotion", "rhetoric", "1-shot", "2-shot", "3-shot"]
ASKED = "Instruction: Please try to answer the single-answer multiple choice question below based on the"
THINKING = " picture provided. Let's think through each option. Let's think step by step."
SHOTS: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("dev-1", (0, 5, 3, 4, 1, 2), "D"),
    ("dev-20", (4, 1, 2, 5, 3, 0), "A"),
    ("dev-35", (1, 0, 2, 4, 5, 3), "E"),
)
"""The published few-shot examples: questions of the development split, with reordered options and the letter of the answer."""
STOPPED = ("dev-20", 3)
"""An option that ends in a full stop in the published examples and not in the data."""
SHORT, LONG = 32, 1000
"""Tokens of an answer: as lmms-eval asks, and as the release asks for, which chains of thought need."""


@dataclass(frozen=True)
class IIBench(MultipleChoice):
    """II-Bench (Liu et al., 2024, arXiv 2406.05862): the implied meaning of memes, comics, posters and art, among six options.

    `accuracy` divides by all questions, so unread and refused ones count as wrong, with breakdowns by kind of image,
    difficulty, domain, emotion and rhetoric. Data are `dev.json` or `test.json` with their images; the answers of the test split
    are not public, so `submission` writes a file for EvalAI. The notes also hold accuracy, errors and misses as counted by the
    released code; `compat` = "ii_bench" uses the released extractor.

    Departures, each a field: `order` "shuffle" asks in several orders, where the release asks in the given one; `unanswerable`
    and `none_option` ask without the right option; the blind row is off, as it is no part of the benchmark.

    mode        "none"; "cot" asks for steps; "domain", "emotion", "rhetoric" give that word of the data as key words; "1-shot"
                to "3-shot" put the published examples and their pictures before the question
    examples    development split, the source of the examples
    max_tokens  maximum number of tokens of an answer; 0 takes 32, and 1,000 for "cot"
    submission  output file of answers for EvalAI; "" writes none
    """

    slug: ClassVar[str] = "ii_bench"
    name: ClassVar[str] = "ii_bench"
    version: ClassVar[int] = 1

    mode: Mode = "none"
    order: OrderBy = "given"
    blind: bool = False
    max_tokens: int = 0
    submission: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"mode is {self.mode!r} (expected {' | '.join(get_args(Mode))})")
        if bool(self.examples) != self.mode.endswith("-shot") or self.shots or self.hint:
            expected = "examples=dev.json with a mode of examples, and neither shots nor hint, which the mode stands for"
            raise ConfigError(f"mode is '{self.mode}' and examples {self.examples!r} (expected {expected})")
        if self.how != "write":
            raise ConfigError(
                f"how is '{self.how}' (expected write: the benchmark scores generated replies; multiple_choice can rank options)"
            )
        if not self.max_tokens:
            object.__setattr__(self, "max_tokens", LONG if self.mode == "cot" else SHORT)
        object.__setattr__(self, "shots", int(self.mode[0]) if self.examples else 0)
        super().__post_init__()

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        records = super().predict(model, data)
        if self.submission:
            write_json(Path(self.submission), submitted_rows(records, self._extractor))
        return records

    def text(self, item: Item, options: Sequence[str], *, answered: str = "") -> str:
        lines = [f"Question: {item.question}", *_with_letters(options)]
        if self.mode == "cot":
            return "\n".join([f"{ASKED}{THINKING}", *lines, "Explanation: ", "Answer:\n"])
        if self.mode == "none":
            return "\n".join([f"{ASKED} picture provided.", *lines, "Answer:\n"])
        if self.mode not in item.hints:
            raise DataError(
                f"question '{item.item}' has no {self.mode}", field="meta_data", expected="the words of II-Bench's data"
            )
        words = ",".join(item.hints[self.mode])
        return "\n".join([f"{ASKED} picture and the key words.", f"Key words: {words}", *lines, "Answer:\n"])

    def _prompt(self, ask: OrderedQuestion, pictures: Sequence[ImageSource], shots: Sequence[Item]) -> PromptLike:
        if not shots:
            return super()._prompt(ask, pictures, shots)
        several = "s" if len(shots) > 1 else ""
        blocks = [f"{ASKED} example{several}(with answer{several}) and the corresponding picture{several}.\n"]
        for number, (shot, (name, order, letter)) in enumerate(zip(shots, SHOTS, strict=False), 1):
            options = [shot.options[one] + "." * ((name, one) == STOPPED) for one in order]
            lines = [
                f"Question: {shot.question}",
                f"Picture: <Picture {number}>",
                *_with_letters(options),
                f"Answer: ({letter})\n",
            ]
            blocks.append("\n".join(lines) + "\n" * (number < len(shots)))
        last = [
            f"Question: {ask.item.question}",
            f"Picture: <Picture {len(shots) + 1}>",
            *_with_letters(ask.options),
            "Answer:\n",
        ]
        text = "".join(blocks) + "\n" + "\n".join(last)
        return (*(ImagePart(source=shot.pictures[0]) for shot in shots), ImagePart(), TextPart(text))

    def _shots(self) -> list[Item]:
        if not self.shots:
            return []
        from diptych.worlds.address import open_data

        by_name = {item.item: item for item in items_of(open_data(self.examples), options=self.options, seed=self.seed)}
        if missing := [name for name, *_ in SHOTS[: self.shots] if name not in by_name]:
            raise DataError(f"has no question '{missing[0]}'", file=self.examples, expected="II-Bench's dev.json")
        examples = [by_name[name] for name, *_ in SHOTS[: self.shots]]
        for item, (name, order, letter) in zip(examples, SHOTS, strict=False):
            if item.answer != item.options[order[LETTERS.index(letter)]]:
                raise DataError(f"question '{name}' has another answer than the published one", file=self.examples)
        return examples

    def score(self, records: pa.Table) -> Result:
        result = super().score(records)
        result.notes["released"] = released_rates(records)
        return result


def released_rates(records: pa.Table) -> dict[str, float]:
    """Accuracy, errors and misses as the release counts them, over all questions: an empty reply is neither an error nor a miss."""
    extract = EXTRACTORS.load("ii_bench")
    right = missed = failed = 0
    columns = (records.column(name).to_pylist() for name in ("reply", "fault", "options", "order", "answer"))
    for reply, fault, options, order, answer in zip(*columns, strict=True):
        index = None if fault else extract(reply, [options[one] for one in order])
        failed += bool(fault)
        missed += not fault and bool(reply) and index is None
        right += index is not None and index < len(order) and answer is not None and options[order[index]] == answer
    return {"accuracy": right / len(records), "errors": failed / len(records), "misses": missed / len(records)}


def submitted_rows(records: pa.Table, extractor: str) -> list[dict[str, Any]]:
    """EvalAI submission for the test split: the letter of each question in the order of the data, null where none was read."""
    extract = EXTRACTORS.load(extractor)
    submission = []
    columns = (records.column(name).to_pylist() for name in ("item", "reply", "fault", "options", "order"))
    for item, reply, fault, options, order in zip(*columns, strict=True):
        index = None if fault else extract(reply, [options[one] for one in order])
        letter = None if index is None or index >= len(order) else LETTERS[order[index]]
        submission.append({"id": item, "predict_answer": letter, "response": reply})
    return submission


def _with_letters(options: Sequence[str]) -> list[str]:
    return [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
