"""Questions about long videos: Ego4D's natural language queries (time windows), and EgoSchema's (options)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError

OPTIONS = 5
"""Number of options of an EgoSchema question."""


@dataclass(frozen=True, slots=True)
class MemoryQuestion:
    """id       unique in the file
    key      of its video, as in the table of captions
    text     the question
    options  to choose from; none where an interval is asked for
    truth    the true window in seconds
    answer   the number of the right option
    """

    id: str
    key: tuple[str, ...]
    text: str
    options: tuple[str, ...] = ()
    truth: tuple[float, float] | None = None
    answer: int | None = None


def read_questions(path: Path, *, last: bool = False) -> list[MemoryQuestion]:
    """Reads the questions of a file in either format. Raises DataError naming the file and the missing field.

    last  only the questions of a clip's last annotation, as the published code reads Ego4D's
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="JSON of Ego4D NLQ or EgoSchema") from error
    try:
        if isinstance(value, Mapping) and "videos" in value:
            questions = list(_queries(value["videos"], last))
        elif isinstance(value, list):
            questions = [_question(entry) for entry in value]
        else:
            raise TypeError("neither an object with videos nor a list of questions")
    except (KeyError, TypeError, ValueError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            problem, file=path, expected="JSON of Ego4D NLQ (videos, clips, annotations) or EgoSchema (q_uid)"
        ) from error
    if not questions:
        raise DataError("has no question", file=path, expected="one or more")
    if len({question.id for question in questions}) < len(questions):
        raise DataError("has a question twice", file=path, field="q_uid", expected="ids of their own")
    return questions


def _queries(videos: Any, last: bool) -> Iterator[MemoryQuestion]:
    """Queries numbered from 1 over the whole file; empty ones are skipped but counted, as in the published code."""
    count = 0
    for video in videos:
        for clip in video["clips"]:
            for left, annotation in enumerate(clip["annotations"], 1 - len(clip["annotations"])):
                for query in annotation["language_queries"]:
                    count += 1
                    if query.get("query") and not (last and left):
                        window = query.get("clip_start_sec"), query.get("clip_end_sec")
                        truth = None if None in window else (float(window[0]), float(window[1]))
                        yield MemoryQuestion(str(count), (clip["clip_uid"], video["video_uid"]), query["query"], truth=truth)


def _question(entry: Any) -> MemoryQuestion:
    options = tuple(str(entry[f"option {number}"]) for number in range(OPTIONS))
    answer = entry.get("answer", entry.get("truth"))
    if answer is not None and int(answer) not in range(OPTIONS):
        raise ValueError(f"question {entry['q_uid']} has the answer {answer}, which is not an option")
    uid = str(entry["q_uid"])
    return MemoryQuestion(uid, (uid,), entry["question"], options, answer=None if answer is None else int(answer))
