"""Things in a room and texts about them: objects with boxes, descriptions that mean one or several of them, and questions.

    objects       list of {id, label, box}: centre x, y, z and extents, in metres
    descriptions  list of {description, object_id or object_ids, object_name, ann_id, unique, spans}
    questions     list of {question, answers, question_id}

They are extras of a sample, as the world `rooms` has them; `read_scanrefer`, `read_multi3drefer` and `read_scanqa` read the
published files into the same records. Letters: N objects.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

Records = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class RoomObject:
    """A thing in a room: its id there, its class, and centre and extents of its box."""

    id: int
    label: str
    box: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RoomDescription:
    """A sentence and the ids of the things that it means, none or several; `unique`: the only thing of its class; spans: (start,
    end, ids) of phrases, half open."""

    text: str
    object_ids: tuple[int, ...]
    unique: bool
    ann_id: int = 0
    spans: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


def room_objects(sample: Sample) -> list[RoomObject]:
    """The things of a room. Raises DataError for a sample without them, and for boxes that are not six finite numbers."""
    rows = _rows(sample, "objects", "a list of {id, label, box}")
    made = []
    for row in rows:
        box = np.asarray(row.get("box", ()), np.float64).ravel()
        if len(box) != 6 or not np.isfinite(box).all() or (box[3:] < 0).any() or not isinstance(row.get("id"), int):
            raise DataError(
                f"sample '{sample.uid}': object {row.get('id')} has box {row.get('box')}",
                field="objects",
                expected="a whole id, and centre and extents, six finite numbers",
            )
        made.append(RoomObject(row["id"], str(row.get("label", "")), tuple(box.tolist())))
    if len({thing.id for thing in made}) < len(made):
        raise DataError(f"sample '{sample.uid}' has two objects with one id", field="objects", expected="different ids")
    return made


def boxes_of_objects(objects: Sequence[RoomObject]) -> npt.NDArray[np.float64]:
    """[N, 6]."""
    return np.array([thing.box for thing in objects], np.float64).reshape(-1, 6)


def room_descriptions(sample: Sample) -> list[RoomDescription]:
    """Descriptions of a room. Without "unique" a thing is the only one of its class where no other object has its label."""
    objects = room_objects(sample)
    labels, by_id = Counter(thing.label for thing in objects), {thing.id: thing for thing in objects}
    made = []
    for row in _rows(sample, "descriptions", "a list of {description, object_id}"):
        ids = tuple(row["object_ids"]) if row.get("object_ids") is not None else (row.get("object_id"),)
        if not isinstance(row.get("description"), str) or any(number not in by_id for number in ids):
            raise DataError(
                f"sample '{sample.uid}': a description means objects {list(ids)}",
                field="descriptions",
                expected="a text, and ids among those of `objects`",
            )
        unique = row.get("unique")
        unique = all(labels[by_id[n].label] == 1 for n in ids) if unique is None else bool(unique)
        spans = tuple((int(s["start"]), int(s["end"]), tuple(s["object_ids"])) for s in row.get("spans") or ())
        made.append(RoomDescription(row["description"], ids, unique, int(row.get("ann_id", 0)), spans))
    return made


def room_questions(sample: Sample) -> list[tuple[str, tuple[str, ...]]]:
    """Questions of a room with their accepted answers."""
    rows = _rows(sample, "questions", "a list of {question, answers}")
    return [(str(row["question"]), tuple(map(str, row["answers"]))) for row in rows]


def read_scanrefer(file: str | Path) -> Records:
    """Descriptions by scene from ScanRefer's json (Chen et al., 2020, 1912.08830).

    unique    the thing is the only described one of its name in that file, as the released lookup has it, but by names: its mapping of
              names to ScanNet's classes is not in the file
    Raises DataError for a file of another form.
    """
    rows = _listed(file, ("scene_id", "object_id", "object_name", "ann_id", "description"), "ScanRefer's json")
    ids: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        ids[row["scene_id"], row["object_name"]].add(int(row["object_id"]))
    scenes: Records = defaultdict(list)
    for row in rows:
        scenes[row["scene_id"]].append(
            {
                "object_id": int(row["object_id"]),
                "object_name": row["object_name"].replace("_", " "),
                "ann_id": int(row["ann_id"]),
                "description": row["description"],
                "unique": len(ids[row["scene_id"], row["object_name"]]) == 1,
                "spans": [],
            }
        )
    return dict(scenes)


def read_multi3drefer(file: str | Path) -> Records:
    """Descriptions by scene from Multi3DRefer's json (Zhang et al., 2023, 2309.05251): each means none, one or several things. `kind` is
    its eval_type: zt_w_d, zt_wo_d, st_w_d, st_wo_d or mt."""
    scenes: Records = defaultdict(list)
    for row in _listed(file, ("scene_id", "object_ids", "description"), "Multi3DRefer's json"):
        ids = [int(number) for number in row["object_ids"]]
        kind = str(row.get("eval_type", ""))
        scenes[row["scene_id"]].append({"object_ids": ids, "description": row["description"], "kind": kind, "spans": []})
    return dict(scenes)


def read_scanqa(file: str | Path) -> Records:
    """Questions by scene from ScanQA's json (Azuma et al., 2022, 2112.10482); test files have no answers."""
    scenes: Records = defaultdict(list)
    for row in _listed(file, ("scene_id", "question"), "ScanQA's json"):
        scenes[row["scene_id"]].append(
            {
                "question_id": str(row.get("question_id", "")),
                "question": row["question"],
                "answers": [str(answer) for answer in row.get("answers", ())],
                "object_ids": [int(number) for number in row.get("object_ids", ())],
            }
        )
    return dict(scenes)


def with_room_language(
    data: Iterable[Sample], *, descriptions: Mapping[str, Any] | None = None, questions: Mapping[str, Any] | None = None
) -> Pool:
    """Samples of rooms whose uid is the scene id, with descriptions and questions of these files; rooms without any are left out.

    Raises DataError if no scene of the files is among the samples.
    """
    descriptions, questions = descriptions or {}, questions or {}
    kept, seen = [], []
    for sample in data:
        seen.append(sample.uid)
        own, asked = descriptions.get(sample.uid, []), questions.get(sample.uid, [])
        if own or asked:
            texts = tuple(Text(row["description"], "en", "caption") for row in own)
            extras = {**sample.extras, "descriptions": own, "questions": asked}
            kept.append(replace(sample, texts=sample.texts + texts, extras=extras))
    if not kept:
        scenes = sorted({*descriptions, *questions})
        raise DataError(
            f"none of the {len(scenes)} scenes ({', '.join(scenes[:3])}, ...) is among {len(seen)} samples",
            field="scene_id",
            expected="samples whose uid is a scene id",
        )
    return Pool.from_samples(kept)


def _rows(sample: Sample, field: str, expected: str) -> list[Mapping[str, Any]]:
    value = sample.extras.get(field)
    if not isinstance(value, list | tuple) or not all(isinstance(row, Mapping) for row in value):
        raise DataError(f"sample '{sample.uid}' has no {field}", field=field, expected=expected)
    return list(value)


def _listed(file: str | Path, fields: Sequence[str], what: str) -> list[dict[str, Any]]:
    path = Path(file)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"is not read: {error}", file=path, expected=what) from error
    if not isinstance(rows, list):
        raise DataError("is not a list", file=path, expected=what)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or (lost := [name for name in fields if name not in row]):
            raise DataError(
                f"has no {', '.join(lost) if isinstance(row, dict) else 'fields'}", file=path, row=number, expected=what
            )
    return rows
