"""Dialogues about pictures in the form of LLaVA (Liu et al., 2023, arXiv 2304.08485), as instruction data are published.

{"id": 7, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cup"}]}

`image` is a picture, or a list of several; a row without one, or whose file is not there, is left out with a reason. Any other row is
a sample whose questions are its pairs of turns. Rows about the same pictures are one group. "question", "answer" and "options" of a row,
if it has them, stand instead of its first pair: the question without its options. A row with "output_1", "output_2" and "preference", as
LLaVA-RLHF publishes comparisons, is a pair of answers to its last turn (`data.text.question_answering.preferences`); one that is no whole
pair is left out with a reason, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.quizzes.quiz_rows import Row, option_list, picture
from diptych.data.text.question_answering.preferences import PREFERENCE_FIELD, preference_of
from diptych.data.text.question_answering.questions import FIELD

MARK = "<image>"
TURNS = "conversations"


def holds(row: Row) -> bool:
    """True for a row that is a dialogue about pictures."""
    return TURNS in row and ("image" in row or "id" in row)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """One sample per row, with `media["images"]` if there are several pictures. Raises DataError that names row and field."""
    samples, left_out = [], list[str]()
    for number, row in enumerate(rows):
        given = row.get("image")
        if given is None:  # instruction data have dialogues about nothing seen among the others
            left_out.append(f"row {number}: a dialogue without a picture")
            continue
        several = isinstance(given, list)
        if several and not given:
            raise DataError("is an empty list", file=path, row=number, field="image", expected="a picture, or several")
        try:
            pictures: tuple[ImageSource, ...] = tuple(
                picture(one, path, number, "image", root) for one in (given if several else [given])
            )
            pair = _compared(row, f"row {number}") if "output_1" in row or "output_2" in row else None
        except DataError as error:
            left_out.append(str(error))
            continue
        media = {"images": MediaItem("images", pictures)} if len(pictures) > 1 else {}
        samples.append(
            Sample(
                f"{name}-{number:07d}".replace(".", "-").replace("/", "-"),
                None if media else pictures[0],
                media=media,
                group="+".join(sorted(one.name for one in pictures)),
                extras=pair or {FIELD: _questions(row, path, number)},
            )
        )
    if not samples:
        first = left_out[0] if left_out else "it is empty"
        raise DataError(f"has no row that can be used: {first}", file=path, field="image", expected="a picture in some row")
    pool = Pool.from_samples(samples, name=name)
    pool.quarantine += [QuarantineEntry("", "read", reason, str(path)) for reason in left_out]
    return pool


def _compared(row: Row, where: str) -> dict[str, Any]:
    return {PREFERENCE_FIELD: preference_of(Sample(where, extras=dict(row))).to_json()}


def _questions(row: Row, path: Path, number: int) -> list[dict[str, Any]]:
    kind = str(row.get("generator") or "")
    turns = _turns(row, path, number)
    questions: list[dict[str, Any]] = [{"question": asked, "answer": answer, "kind": kind} for asked, answer in turns]
    if row.get("options"):
        options, right = option_list(row["options"], str(row.get("answer")), path, number)
        questions[0] = {"question": str(row.get("question") or turns[0][0]), "answer": right, "choices": options, "kind": kind}
    return questions


def _turns(row: Row, path: Path, number: int) -> list[tuple[str, str]]:
    entries = row[TURNS]
    good = isinstance(entries, list) and len(entries) >= 2 and len(entries) % 2 == 0
    speakers = ("human", "gpt")
    for turn, entry in enumerate(entries if good else []):
        good = good and isinstance(entry, dict) and entry.get("from") == speakers[turn % 2] and bool(_words(entry))
    if not good:
        expected = '{"from": "human", "value": words} and {"from": "gpt", "value": words} in turn'
        raise DataError(f"are {str(entries)[:60]}", file=path, row=number, field=TURNS, expected=expected)
    words = [_words(entry) for entry in entries]
    return list(zip(words[::2], words[1::2], strict=True))


def _words(entry: Any) -> str:
    value = entry.get("value")
    return " ".join(value.replace(MARK, " ").split(" ")).strip() if isinstance(value, str) else ""
