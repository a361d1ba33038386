"""Relations between things in a room, descriptions that mean one of them, and questions. Truth comes from boxes.

"near", "closest to" and "farthest from" hold from everywhere; "left of", "right of", "in front of" and "after" are those of a viewer, the
first camera at the door, and every sentence with one of them says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.points.rgbd import Camera
from diptych.worlds.rooms.layout import Furniture

NEAR, APART = 1.0, 0.3
VIEWED = ("left of", "right of", "in front of", "behind")
VIEWPOINT = "door"
SEEN = ", seen from the door"


@dataclass(frozen=True, slots=True)
class SpatialRelation:
    """Subject and object by id; viewpoint "" if it holds from everywhere."""

    subject: int
    predicate: str
    object: int
    viewpoint: str = ""


def spatial_relations(objects: Sequence[Furniture], viewer: Camera) -> list[SpatialRelation]:
    """All relations that hold, ordered by subject and object. "closest to" and "farthest from" name one subject for each object."""
    if len(objects) < 2:
        return []
    centre_N3 = np.array([thing.box[:3] for thing in objects])
    distance_NN = np.linalg.norm(centre_N3[:, None, :2] - centre_N3[None, :, :2], axis=-1)
    right_3, forward_3 = viewer.matrix[:3, 0], viewer.matrix[:3, 2] * [1, 1, 0]
    across_NN = (centre_N3[:, None] - centre_N3[None]) @ right_3
    along_NN = (centre_N3[:, None] - centre_N3[None]) @ (forward_3 / np.linalg.norm(forward_3))
    closest_N = (distance_NN + np.diag(np.full(len(objects), np.inf))).argmin(0)
    farthest_N = distance_NN.argmax(0)
    relations = []
    for a in range(len(objects)):
        for b in range(len(objects)):
            if a == b:
                continue
            held = ["near"] if distance_NN[a, b] < NEAR else []
            held += ["closest to"] if closest_N[b] == a else []
            held += ["farthest from"] if farthest_N[b] == a else []
            relations += [SpatialRelation(a, name, b) for name in held]
            across, along = float(across_NN[a, b]), float(along_NN[a, b])
            if max(abs(across), abs(along)) < APART:
                continue
            sideways, lengthways = VIEWED[int(across > 0)], VIEWED[2 + int(along > 0)]
            seen = sideways if abs(across) > abs(along) else lengthways
            relations.append(SpatialRelation(a, seen, b, VIEWPOINT))
    return relations


def noun_phrase(thing: Furniture, words: Sequence[str]) -> str:
    """ "the small red chair", with the attributes of `words` ("size", "colour")."""
    parts = [getattr(thing, word) for word in ("size", "colour") if word in words]
    return " ".join(["the", *(part for part in parts if part), thing.label])


def matching(objects: Sequence[Furniture], thing: Furniture, words: Sequence[str]) -> list[int]:
    """Ids of things with the label and the named attributes of this one."""
    same = [o for o in objects if o.label == thing.label and all(getattr(o, word) == getattr(thing, word) for word in words)]
    return [o.id for o in same]


def descriptions(
    objects: Sequence[Furniture], relations: Sequence[SpatialRelation], rng: np.random.Generator, count: int
) -> list[dict[str, Any]]:
    """Up to `count` unambiguous descriptions of every thing.

    Each has object_id, object_name, ann_id, description, unique (the only thing of its class), viewpoint, anchors (ids of further things)
    and spans: half-open character spans with the ids of what they name, the first one the thing itself.
    """
    rows = []
    for thing in objects:
        forms = [
            _plain(thing, words) for words in ((), ("colour",), ("size", "colour")) if len(matching(objects, thing, words)) == 1
        ]
        forms += [
            form for relation in relations if relation.subject == thing.id for form in _related(objects, relations, relation)
        ]
        unique = len(matching(objects, thing, ())) == 1
        for number, chosen in enumerate(rng.permutation(len(forms))[:count]):
            text, spans, anchors, viewpoint = forms[int(chosen)]
            rows.append(
                {
                    "object_id": thing.id,
                    "object_name": thing.label,
                    "ann_id": number,
                    "description": text,
                    "unique": unique,
                    "viewpoint": viewpoint,
                    "anchors": anchors,
                    "spans": spans,
                }
            )
    return rows


def questions(objects: Sequence[Furniture], rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Up to `count` questions with answers and the ids of the things that they are about."""
    asked = []
    labels = sorted({thing.label for thing in objects})
    for label in labels:
        ids = [thing.id for thing in objects if thing.label == label]
        asked.append((f"how many {plural(label)} are in the room?", str(len(ids)), ids))
        if len(ids) == 1:
            asked.append((f"what color is the {label}?", objects[ids[0]].colour, ids))
            others = [o for o in objects if o.id != ids[0]]
            if others:
                here_2 = np.array(objects[ids[0]].box[:2])
                nearest = min(others, key=lambda o: float(np.linalg.norm(np.array(o.box[:2]) - here_2)))
                asked.append((f"what is closest to the {label}?", nearest.label, [nearest.id]))
    order = rng.permutation(len(asked))[:count]
    return [
        {"question_id": number, "question": asked[int(k)][0], "answers": [asked[int(k)][1]], "object_ids": asked[int(k)][2]}
        for number, k in enumerate(order)
    ]


def plural(label: str) -> str:
    return f"{label}es" if label.endswith(("x", "ch")) else f"{label}s"


def _plain(thing: Furniture, words: Sequence[str]) -> tuple[str, list[dict[str, Any]], list[int], str]:
    text = noun_phrase(thing, words)
    return text, [_span(text, text, [thing.id])], [], ""


def _related(
    objects: Sequence[Furniture], relations: Sequence[SpatialRelation], relation: SpatialRelation
) -> list[tuple[str, list[dict[str, Any]], list[int], str]]:
    """The description by this relation, where it and the thing at its other end are unambiguous."""
    thing, anchor = objects[relation.subject], objects[relation.object]
    words = next((w for w in ((), ("colour",), ("size", "colour")) if len(matching(objects, anchor, w)) == 1), None)
    rivals = [
        r
        for r in relations
        if (r.predicate, r.object) == (relation.predicate, anchor.id) and objects[r.subject].label == thing.label
    ]
    if words is None or len(rivals) > 1:
        return []
    head, tail = noun_phrase(thing, ()), noun_phrase(anchor, words)
    middle = f"{head} {relation.predicate} {tail}"
    text = middle + (SEEN if relation.viewpoint else "")
    spans = [_span(text, head, [thing.id]), {"start": len(middle) - len(tail), "end": len(middle), "object_ids": [anchor.id]}]
    return [(text, spans, [anchor.id], relation.viewpoint)]


def _span(text: str, phrase: str, ids: list[int]) -> dict[str, Any]:
    start = text.index(phrase)
    return {"start": start, "end": start + len(phrase), "object_ids": ids}
