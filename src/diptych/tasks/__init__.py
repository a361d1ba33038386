"""Evaluation protocols: predict -> records -> score. A task asks for a capability and never for a class of model.

`find` answers a name with a task; nothing heavy is imported before that.
"""

from __future__ import annotations

import importlib
from typing import Any

from diptych.core import systems
from diptych.core.config import from_plain
from diptych.core.contracts import Task
from diptych.core.errors import UnknownName

PROTOCOLS = {
    "retrieval": "diptych.tasks.retrieval:Retrieval",
    "zero_shot": "diptych.tasks.zero_shot:ZeroShot",
    "linear_probe": "diptych.tasks.linear_probe:LinearProbe",
    "probe": "diptych.tasks.probe:Probe",
    "vg150": "diptych.tasks.vg150:VG150",
    "vg150_sgcls": "diptych.tasks.vg150:VG150SGCls",
    "vg150_predcls": "diptych.tasks.vg150:VG150PredCls",
    "open_images_predicates": "diptych.tasks.open_images_relations:OpenImagesPredicates",
    "open_images_triplets": "diptych.tasks.open_images_triplets:OpenImagesTriplets",
    "hico_det": "diptych.tasks.hico_det:HicoDet",
    "v_coco": "diptych.tasks.v_coco:VCoco",
    "v_coco_triplets": "diptych.tasks.v_coco_triplets:VCocoTriplets",
}


def find(name: str, **options: Any) -> Task:
    """The task of that name with its options; published benchmarks are found by their slug.

    >>> find("zero_shot", label="group_name").label
    'group_name'
    """
    key = name.lower().replace("-", "_")
    if key in PROTOCOLS:
        module, _, attribute = PROTOCOLS[key].partition(":")
        kind = getattr(importlib.import_module(module), attribute)
    elif key in systems.slugs("tasks"):
        kind = systems.find(key, room="tasks").load()
    else:
        raise UnknownName("task", name, [*PROTOCOLS, *systems.slugs("tasks")], hint=f"among others: {', '.join(PROTOCOLS)}")
    task: Task = from_plain(kind, options)
    return task
