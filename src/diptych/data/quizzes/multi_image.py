"""Questions about several pictures: MUIRBench (Wang et al., 2024, arXiv 2406.09411) and files of that kind.

{"images": ["a.png", "b.png"], "question": "Which is <image>?", "options": ["...", "..."], "answer": "B", "group_id": "7", "variant": 0}

`images`, `image_list` or `image_paths` are pictures or paths; `answer` is a letter or the text of an option. Rows of one
`group_id` are one question asked in several ways. `counterpart_idx` names the row that asks the same without its answer: the
two are one unit of an interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import Row, option_list, picture, words
from diptych.data.text.question_answering.questions import FIELD

IMAGES = ("images", "image_list", "image_paths")
NAMES = ("id", "idx", "index")
ABOUT = ("image_relation", "image_type", "range")


def holds(row: Row) -> bool:
    """True if a row is a question with options about one picture or several."""
    return {"question", "options", "answer"} <= set(row) and any(name in row for name in IMAGES)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """One sample per row, with `media["images"]` if there are several pictures."""
    samples, seen = [], dict[str, int]()
    for number, row in enumerate(rows):
        field = next(one for one in IMAGES if one in row)
        given = row[field]
        if isinstance(given, str) or not hasattr(given, "__iter__") or not list(given):
            raise DataError(f"is {str(given)[:60]}", file=path, row=number, field=field, expected="a list of pictures")
        pictures: tuple[ImageSource, ...] = tuple(picture(one, path, number, field, root) for one in given)
        answer = row.get("answer")
        options, right = option_list(row.get("options"), None if answer in (None, "") else str(answer), path, number)
        uid = _name(row, number)
        if uid in seen:
            raise DataError(
                f"row {seen[uid]} has the name '{uid}' too", file=path, row=number, field="id", expected="different names"
            )
        seen[uid] = number
        variants = row.get("group_id")
        question = {
            "id": uid,
            "question": words(row, "question", path, number),
            "answer": right,
            "choices": options,
            "kind": str(row.get("task") or row.get("kind") or ""),
            "same_as": "" if variants in (None, "") else str(variants),
            "facets": {one: str(row[one]) for one in ABOUT if row.get(one)},
        }
        media = {"images": MediaItem("images", pictures)} if len(pictures) > 1 else {}
        image = None if media else pictures[0]
        samples.append(Sample(uid, image, media=media, group=_group(row, uid), extras={FIELD: [question]}))
    return Pool.from_samples(samples, name=name)


def _name(row: Row, number: int) -> str:
    given: Any = next((row[one] for one in NAMES if row.get(one) not in (None, "")), f"row-{number}")
    return str(given).replace("/", "-").replace(".", "-")


def _group(row: Row, uid: str) -> str:
    other = row.get("counterpart_idx")
    return uid if other in (None, "", -1) else "+".join(sorted((uid, str(other))))
