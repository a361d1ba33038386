"""Published result files in the place of a model: (question, answer) rows, scored by any task that reads what a model writes.

    [{"question_id": "dev-1", "response": "(C)"}, ...]      {"id": "dev-1", "questions": [{"question": "...", "response": "(C)"}]}
    [{"image_id": 139, "caption": "a room"}, ...]           index<TAB>question<TAB>prediction

JSON, JSON lines, CSV or TSV. A row belongs to the question that has its name (`question_id`, `id`, `index`), else to the picture (`image`,
`image_id`, `uid`) and, where the row holds the words of a question, to what is asked about it in these words; rows without any name belong
to the question with their words. Several rows of one question are its variants (orders of its options), in the order of the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.core.contracts import Dataset, Reply
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import Dialogue, PromptLike, TextPart
from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import questions_of

ANSWERS = ("prediction", "response", "reply", "output", "caption", "text", "answer", "predict_answer")
QUESTIONS = ("question", "prompt", "query")
QUESTION_IDS = ("question_id", "id", "index", "idx", "uid")
PICTURE_IDS = ("image_id", "image", "image_path", "file_name", "filename", "img", "uid", "id")
LISTS = ("results", "answers", "predictions", "annotations")
_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:^|.*_)(\d{6,})$")


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One row of a result file.

    reply      the answer; a fault if the row has no text
    question   text of the question, "" if the row has none
    names, pictures   names of the question and of the picture, in every possible spelling
    """

    reply: Reply
    question: str
    names: frozenset[str]
    pictures: frozenset[str]


class HeldRows:
    """A `Dataset` whose samples are read once, so that a picture is identified by its object."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.samples = [data[row] for row in range(len(data))]

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    @property
    def uids(self) -> Sequence[str]:
        return self.data.uids

    @property
    def groups(self) -> Sequence[str]:
        return self.data.groups

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Sample:
        return self.samples[row]

    def select(self, rows: Sequence[int]) -> Dataset:
        return self.data.select(rows)

    def split(self, name: str) -> Dataset:
        return self.data.split(name)


class AnswersOfFile:
    """A `Generator` that answers questions about `data` with the rows of a file.

    Raises DataError for a question without a row.
    """

    def __init__(self, rows: Sequence[AnswerRow], data: HeldRows, *, file: Path) -> None:
        self.rows, self.data, self.file = rows, data, file
        self.name = file.name
        self.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [reply.text for reply in self.replies(images, prompts, max_tokens=max_tokens)]

    def replies(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64
    ) -> list[Reply]:
        """The reply of each question's row. `max_tokens` cuts nothing off."""
        asked: dict[tuple[int, ...], dict[tuple[int, str], int]] = defaultdict(dict)
        replies, missing = list[Reply](), list[str]()
        for image, prompt in zip(images, prompts, strict=True):
            text = _plain(text_of(prompt))
            rows = self._rows(image, text)
            variants = asked[tuple(rows)]
            # The same words about the same picture are the same question; other words are its next variant.
            variant = variants.setdefault((id(image), text), len(variants))
            if variant < len(rows):
                replies.append(self.rows[rows[variant]].reply)
            else:
                missing.append(
                    f"{text[-80:]!r} about '{self._samples.get(id(image), [Sample('?')])[0].uid}', asked {variant + 1} times"
                )
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(prompts):,} questions of '{self.data.name}' have no answer, such as {missing[0]}",
                file=self.file,
                expected="a row for each question and order of its options (order=given asks once)",
            )
        return replies

    def _rows(self, image: ImageSource | None, prompt: str) -> list[int]:
        """Indices of the rows that may answer a prompt, in the order of the file."""
        samples = self._samples.get(id(image), [])
        asked = [(sample, one) for sample in samples for one in questions_of(sample) if _plain(one.text) in prompt]
        longest = max((len(one.text) for _, one in asked), default=0)
        asked = [(sample, one) for sample, one in asked if len(one.text) == longest]
        names = {name for _, one in asked for name in (one.id, one.same_as) if name}
        if rows := self._matching(names, self._by_name, prompt):
            return rows
        uids = [sample.uid for sample in samples]
        pictures = {name for uid in (*uids, getattr(image, "name", "")) for name in spellings(uid)}
        if rows := self._matching(pictures, self._by_picture, prompt):
            return rows
        words = {_plain(one.text) for _, one in asked} or {prompt}
        return [row for word in sorted(words) for row in self._by_words.get(word, ())]

    def _matching(self, names: Iterable[str], index: Mapping[str, Sequence[int]], prompt: str) -> list[int]:
        rows = sorted({row for name in names for row in index.get(name, ())})
        return [row for row in rows if _plain(self.rows[row].question) in prompt]

    @cached_property
    def _samples(self) -> dict[int, list[Sample]]:
        by_image = defaultdict(list)
        for sample in self.data.samples:
            if sample.image is not None:
                by_image[id(sample.image)].append(sample)
        return by_image

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        return _index((row.names, index) for index, row in enumerate(self.rows))

    @cached_property
    def _by_picture(self) -> dict[str, list[int]]:
        return _index((row.pictures, index) for index, row in enumerate(self.rows))

    @cached_property
    def _by_words(self) -> dict[str, list[int]]:
        unnamed = (index for index, row in enumerate(self.rows) if row.question and not row.names and not row.pictures)
        return _index(({_plain(self.rows[index].question)}, index) for index in unnamed)


def read_answers(path: str | Path, *, column: str = "") -> list[AnswerRow]:
    """The rows of a result file.

    column   the field of the answers; "" takes the first there is of prediction, response, reply, output, caption, text, answer,
             predict_answer, where "text" is the question in a file that has "answer" too and no other question

    Raises DataError, with the row, for a file of another form.
    """
    path = Path(path)
    entries = _entries(path)
    if not entries:
        raise DataError("contains no answer", file=path, expected="one row or more")
    first = entries[0]
    aside = {"text"} if "answer" in first and not {*QUESTIONS} & {*first} else set[str]()
    answer = column or next((name for name in ANSWERS if name in first and name not in aside), "")
    question = next((name for name in (*QUESTIONS, *aside) if name in first and name != answer), "")
    rows = []
    for row, entry in enumerate(entries):
        if not answer or answer not in entry:
            field_names = ", ".join(map(str, list(entry)[:8]))
            expected = answer or " | ".join(ANSWERS)
            raise DataError(f"has the fields {field_names}", file=path, row=row, field=answer or "answer", expected=expected)
        given = entry[answer]
        reply = Reply(given) if isinstance(given, str) else Reply("", fault=f"no words: {str(given)[:60]}")
        names = frozenset(str(entry[name]) for name in QUESTION_IDS if _named(entry, name))
        pictures = (spelling for name in PICTURE_IDS if _named(entry, name) for spelling in spellings(str(entry[name])))
        rows.append(AnswerRow(reply, str(entry.get(question) or "") if question else "", names, frozenset(pictures)))
    return rows


def spellings(name: str) -> set[str]:
    """Names that a picture may be called by: its name without folder and ending, and the number at its end.

    >>> sorted(spellings("val2014/COCO_val2014_000000000139.jpg")), sorted(spellings("139"))
    (['139', 'COCO_val2014_000000000139'], ['139'])
    """
    stem = _SUFFIX.sub("", name.replace("\\", "/").rpartition("/")[2])
    numbered = _NUMBERED.match(stem)
    names = {str(int(stem)) if stem.isdecimal() else stem} | ({str(int(numbered[1]))} if numbered else set())
    return names - {""}


def text_of(prompt: PromptLike) -> str:
    """All words of a prompt or dialogue, other parts left out."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Dialogue):
        return "\n".join(turn.text for turn in prompt.turns)
    return "".join(part.text for part in prompt if isinstance(part, TextPart))


def _entries(path: Path) -> list[dict[str, Any]]:
    """Rows as dictionaries; those of a row with "questions" inherit the name of it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="JSON, JSON lines, CSV or TSV") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter="," if path.suffix.lower() == ".csv" else "\t"))
    try:
        plain = (
            json.loads(text) if path.suffix.lower() == ".json" else [json.loads(one) for one in text.splitlines() if one.strip()]
        )
    except json.JSONDecodeError as error:
        raise DataError(f"is not valid JSON: {error}", file=path, expected="JSON, JSON lines, CSV or TSV") from error
    if isinstance(plain, dict):
        inner = next((plain[name] for name in LISTS if isinstance(plain.get(name), list)), None)
        plain = [{"id": name, "answer": answer} for name, answer in plain.items()] if inner is None else inner
    entries = []
    for row, entry in enumerate(plain):
        if not isinstance(entry, dict):
            raise DataError(
                f"is {str(entry)[:60]}", file=path, row=row, expected="an object with the name and the answer of a question"
            )
        several = entry.get("questions")
        entries += (
            [{"id": entry.get("id"), **one} for one in several if isinstance(one, dict)] if isinstance(several, list) else [entry]
        )
    return entries


def _named(entry: Mapping[str, Any], name: str) -> bool:
    return isinstance(entry.get(name), str | int) and str(entry[name]) != ""


def _index(pairs: Iterable[tuple[Iterable[str], int]]) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for names, row in pairs:
        for name in names:
            rows[name].append(row)
    return rows


def _plain(text: str) -> str:
    """Marks of pictures and runs of blanks as one blank."""
    return " ".join(re.sub(r"<image(?: \d+)?>", " ", text).split())
