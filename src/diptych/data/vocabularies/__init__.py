"""Class names of published benchmarks, in the order of their ids: `vocabulary("hico-det").triplets[0]`.

Names are words: spaces stand for the underscores that some annotation files have ("talk on phone"). Ids that files use are
positions in these tuples, plus one where the format counts from one; only COCO's object ids have gaps (`object_ids`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import UnknownName

NAMES = ("coco", "hico-det", "v-coco", "vg150", "open-images")
PERSON = "person"
MISSING = "missing objects"
"""V-COCO's 81st object class in RLIPv2: an object that plays a role and is not in the picture."""


@dataclass(frozen=True, slots=True)
class LabelVocabulary:
    """The closed set of labels of a benchmark.

    objects     object classes in order; empty where the user's own class file gives them (Open Images)
    predicates  predicates in order; for V-COCO the 29 action-roles ("hit instr", "hit obj"; "stand" has no role)
    triplets    (subject, predicate, object) classes in order; HICO-DET has 600, others none
    roles       V-COCO only: the 26 actions in order -> their roles besides the agent, in the order of the files
    object_ids  the ids by which annotation files name `objects` (COCO: 1..90 with gaps)
    texts       what a model reads for each of `predicates`, where published models were given other words: V-COCO's "sit instr" is
                "sit on/at" (RLIPv2, 2023); empty where the predicates are their own texts
    missing     V-COCO only: the object class after the last of `objects` that stands for "it is not in the picture"
    rare        positions in `triplets` of those with fewer than 10 training instances in the published training set
    """

    name: str
    objects: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    triplets: tuple[tuple[str, str, str], ...] = ()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    object_ids: tuple[int, ...] = ()
    rare: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    missing: str = ""

    @property
    def object_texts(self) -> tuple[str, ...]:
        """Object names of queries: `objects`, and the one for what is missing."""
        return (*self.objects, self.missing) if self.missing else self.objects

    @property
    def predicate_texts(self) -> tuple[str, ...]:
        """Relation names of queries, in the order of `predicates`.

        >>> vocabulary("v-coco").predicate_texts[2:4]
        ('sit on/at', 'ride on')
        """
        return self.texts or self.predicates

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Bool [predicates, objects]: which combinations are among `triplets` (HICO-DET's ``corre_hico.npy``)."""
        table_PO = np.zeros((len(self.predicates), len(self.objects)), bool)
        predicate, thing = ({name: n for n, name in enumerate(names)} for names in (self.predicates, self.objects))
        for _, verb, name in self.triplets:
            table_PO[predicate[verb], thing[name]] = True
        return table_PO


@cache
def vocabulary(name: str) -> LabelVocabulary:
    """The vocabulary of that name: coco, hico-det, v-coco, vg150 or open-images.

    >>> hico = vocabulary("hico-det")
    >>> len(hico.objects), len(hico.predicates), len(hico.triplets), hico.triplets[0]
    (80, 117, 600, ('person', 'board', 'airplane'))
    """
    if name not in NAMES:
        raise UnknownName("vocabulary", name, NAMES)
    fields: dict[str, Any] = json.loads(
        (resources.files("diptych.data.vocabularies") / f"{name}.json").read_text(encoding="utf-8")
    )
    things = vocabulary(fields["objects_of"]) if "objects_of" in fields else None
    roles = {action: tuple(names) for action, names in fields.get("roles", {}).items()}
    return LabelVocabulary(
        name,
        things.objects if things else tuple(fields.get("objects", ())),
        action_roles(roles) if roles else tuple(fields.get("predicates", ())),
        tuple((PERSON, verb, thing) for thing, verbs in fields.get("triplets", {}).items() for verb in verbs),
        roles,
        things.object_ids if things else tuple(fields.get("object_ids", ())),
        tuple(fields.get("rare", ())),
        tuple(fields.get("texts", ())),
        fields.get("missing", ""),
    )


def action_roles(roles: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """One predicate for each role of each action, the action alone if it has none.

    >>> action_roles({"hit": ("instr", "obj"), "stand": ()})
    ('hit instr', 'hit obj', 'stand')
    """
    return tuple(f"{action} {role}".strip() for action, names in roles.items() for role in names or ("",))
