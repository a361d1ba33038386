"""Multiple-choice items: a question with its pictures, its options, and the right one where there is one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import ImagePart, Part, PromptLike, TextPart
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import FIELD, Question, questions_of

PICTURE = "<image>"
"""Where this stands in a question or an option, the next picture is meant (MUIRBench, 2406.09411)."""
NUMBERED = re.compile(r"<image (\d+)>")


@dataclass(frozen=True, slots=True)
class Item:
    """uid       uid of the sample
    item        name of the question; its variants share it, so that their answers can be compared
    group       group that is resampled as a whole for intervals
    options     options in the order of the data
    answer      text of the right option; None if the data do not publish it
    answerable  True if an option other than "none of them" is right
    pictures    pictures in the order of the marks in the texts
    """

    uid: str
    item: str
    group: str
    kind: str
    question: str
    options: tuple[str, ...]
    answer: str | None
    pictures: tuple[ImageSource, ...]
    answerable: bool = True
    hints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    facets: dict[str, tuple[str, ...]] = field(default_factory=dict)


def items_of(data: Dataset, *, options: int, seed: int, none_option: str = "") -> list[Item]:
    """Every question of every sample. Where a question has no options of its own, its answer and others of its kind in the data
    are offered, drawn and shuffled under `seed`.

    none_option  text of the "none of them" option; a question with this right option counts as having no answer
    Raises DataError for data without questions, questions without pictures, and marks that are not as many as the pictures.
    """
    triples: list[tuple[Sample, int, Question]] = []
    for row in range(len(data)):
        sample = data[row]
        questions = questions_of(sample)
        if questions and not pictures_of(sample):
            raise DataError(f"sample '{sample.uid}' has questions and no image", file=data.name, row=row, field="image")
        triples += [(sample, number, question) for number, question in enumerate(questions)]
    if not triples:
        raise DataError(f"'{data.name}' has no question", field=FIELD, expected=f'extras["{FIELD}"] of samples')
    answers_of_kind: dict[str, dict[str, None]] = {}
    for _, _, question in triples:
        if question.answers:
            answers_of_kind.setdefault(question.kind, {})[question.answer] = None
    made = []
    for sample, number, question in triples:
        key = f"{sample.uid}/{number}"
        offered = question.choices or _draw_options(question, sorted(answers_of_kind[question.kind]), options, seed, key)
        answer = question.answer if question.answers else None
        text, given = _number_marks(
            question.text, offered, len(pictures_of(sample)), f"question '{question.text[:60]}' of {sample.uid}"
        )
        made.append(
            Item(
                sample.uid,
                question.same_as or question.id or key,
                question.same_as or sample.group or sample.uid,
                question.kind,
                text,
                given,
                None if answer is None else given[offered.index(answer)],
                pictures_of(sample),
                answerable=not none_option or answer != none_option,
                hints=question.hints,
                facets=question.facets,
            )
        )
    return made


def pictures_of(sample: Sample) -> tuple[ImageSource, ...]:
    """Pictures of a sample: several where it has some, else its one, if it has any."""
    if (several := sample.media.get("images")) is not None:
        return several.parts
    return () if sample.image is None else (sample.image,)


def unanswerable(item: Item, none_option: str) -> Item:
    """The same question without its right option, so that "none of them" is right."""
    left = tuple(option for option in item.options if option != item.answer)
    return replace(item, options=left, answer=none_option, answerable=False)


def with_none(item: Item, none_option: str) -> Item:
    """The same question with "none of them" among its options, where it is not there yet."""
    return item if none_option in item.options else replace(item, options=(*item.options, none_option))


def as_prompt(text: str, pictures: int) -> PromptLike:
    """Prompt parts of a text in which "<image 2>" is picture 2; without any such mark, the pictures come first.

    >>> as_prompt("what is it?", 1)
    'what is it?'
    """
    pieces = NUMBERED.split(text)
    if len(pieces) == 1:
        return text if pictures == 1 else (*(ImagePart(index) for index in range(pictures)), TextPart(text))
    parts: list[Part] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append(ImagePart(int(piece)))
        elif piece:
            parts.append(TextPart(piece))
    return tuple(parts)


def with_own_sources(prompt: PromptLike, pictures: Sequence[ImageSource]) -> PromptLike:
    """Prompt parts in which each further picture is a source of its own: models are given the first one alone."""
    if isinstance(prompt, str) or not isinstance(prompt, tuple):
        return prompt
    return tuple(
        ImagePart(source=pictures[part.place]) if isinstance(part, ImagePart) and part.source is None and part.place else part
        for part in prompt
    )


def _number_marks(text: str, options: Sequence[str], pictures: int, where: str) -> tuple[str, tuple[str, ...]]:
    """Text whose image marks carry the number of their picture, so that options can be reordered with their pictures."""
    marks = sum(one.count(PICTURE) for one in (text, *options))
    if not marks:
        return text, tuple(options)
    if marks != pictures:
        raise DataError(
            f"{where} has {marks} marks {PICTURE} and {pictures} pictures", field=FIELD, expected="as many, or no mark"
        )
    numbers = iter(range(pictures))
    made = [re.sub(PICTURE, lambda _: f"<image {next(numbers)}>", one) for one in (text, *options)]
    return made[0], tuple(made[1:])


def _draw_options(question: Question, answers: Sequence[str], options: int, seed: int, key: str) -> tuple[str, ...]:
    others = [answer for answer in answers if answer not in question.answers]
    if not others:
        raise DataError(
            f"question '{question.text[:60]}' of {key.rpartition('/')[0]} has no wrong answer to offer",
            field=FIELD,
            expected='"choices", or another answer of its kind in the data',
        )
    rng = keyed_rng("options", seed, key)
    drawn = [others[index] for index in rng.permutation(len(others))[: options - 1]]
    offered = [question.answer, *drawn]
    return tuple(offered[index] for index in rng.permutation(len(offered)))
