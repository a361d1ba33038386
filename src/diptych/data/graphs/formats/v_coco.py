"""V-COCO as published: what people of COCO do, and to what.

    data/vcoco/vcoco_{train,val,trainval,test}.json   26 actions: {"action_name", "role_name", "include", "image_id", "ann_id",
                                                      "label", "role_object_id"}
    data/instances_vcoco_all_2014.json                COCO's boxes of these images
    data/splits/vcoco_{train,...}.ids                 an image id a line: also those without people   may be missing
    train2014/  val2014/                              COCO's images

``role_object_id`` lists all first roles, then all second ones, and so on; the order of roles differs from action to action.
A person who does something is the subject of a relation for each role of the action: "hit instr" and "hit obj" with the objects, or
with the person itself where the role is empty, and "stand" with itself. The column `annotated` says, box by box, who is one of
V-COCO's people: other people of COCO count neither for nor against a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector, gather
from diptych.data.graphs.entries import ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import need, split_of
from diptych.data.graphs.find import files_of, load_json, load_list, matching_files
from diptych.data.graphs.formats.coco import Instances, coco_rows
from diptych.data.graphs.formats.hico_det import hoia_boxes, hoia_row
from diptych.data.graphs.image_export import ImageExporter, by_split, image_ids, label_id, per_region_column
from diptych.data.vocabularies import PERSON, vocabulary

PLACES = ("", "vcoco/", "data/vcoco/", "annotations/")
INSTANCES = ("instances_vcoco*.json", "data/instances_vcoco*.json", "annotations/instances_vcoco*.json")
HOIA = ("*_vcoco.json", "annotations/*_vcoco.json")
ANNOTATED = "annotated"


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One ``vcoco_*.json``, or a folder with several; ``trainval`` is read where train and val are not there."""
    if source.is_file():
        files, folders = [source], [source.parent, source.parent.parent]
    else:
        files = matching_files(source, *(f"{folder}vcoco_*.json" for folder in PLACES))
        folders = [source, *(file.parent for file in files[:1])]
    by_name = {file.stem: file for file in files}
    if {"vcoco_train", "vcoco_val"} & set(by_name):
        by_name.pop("vcoco_trainval", None)
    instances = next((matches[0] for folder in folders if (matches := matching_files(folder, *INSTANCES))), None)
    if not by_name or instances is None:
        what = "vcoco_*.json" if not by_name else "instances_vcoco_all_2014.json"
        raise DataError(
            f"contains no {what}", file=source, expected="vcoco_{train,val,test}.json and COCO's instances beside them"
        )
    coco = Instances(instances, load_json(instances), named=True)
    collect = Collector(source, files[0], root=root)
    for file in by_name.values():
        collect.open(file)
        collect.each(*_people(file, coco, _split_images(file)))
    return collect.pool(name)


def _split_images(file: Path) -> list[int]:
    """The images of a split from its file of ids, if there is one."""
    folders = (file.parent, file.parent / "splits", file.parent.parent / "splits")
    ids = next((path for folder in folders if (path := folder / f"{file.stem}.ids").is_file()), None)
    try:
        return [] if ids is None else [int(line) for line in ids.read_text().split()]
    except ValueError as error:
        raise DataError(f"is not a list of image ids: {error}", file=ids) from None


def _people(file: Path, coco: Instances, listed: Sequence[int]) -> tuple[list[tuple[int, int]], Any]:
    """The images of one file (row of its first person, id), and what makes an entry of one."""
    actions = load_list(file, "actions")
    people: dict[int, dict[int, int]] = {}  # image -> person -> row
    links: dict[int, list[RelationAnnotation]] = {}
    for row, action in enumerate(actions):
        try:
            for at, image, person, person_links in _people_of_action(action):
                people.setdefault(image, {}).setdefault(person, at)
                links.setdefault(image, []).extend(person_links)
        except DataError as error:
            raise DataError(error.problem, file=file, row=row, field=error.field, expected=error.expected) from None
    for image in listed:
        people.setdefault(image, {})
    split = split_of(file)

    def entry(row: int, image: int) -> ImageAnnotation:
        made = coco.entry(row, image)
        made.per_region[ANNOTATED] = [box.key in people[image] for box in made.boxes]
        made.links, made.extras = links.get(image, []), {"split": split}
        return made

    return [(min(rows.values(), default=at), image) for at, (image, rows) in enumerate(people.items())], entry


def _people_of_action(action: Any) -> Iterator[tuple[int, int, int, list[RelationAnnotation]]]:
    """For each person of one action: row, image, person, and its relations (none where the label is 0)."""
    name = str(need(action, "action_name", str)).replace("_", " ")
    roles = need(action, "role_name", list)[1:]
    images, people, labels, objects = (_ints(action, key) for key in ("image_id", "ann_id", "label", "role_object_id"))
    if not len(images) == len(people) == len(labels) or len(objects) != len(people) * (len(roles) + 1):
        counts = ", ".join(map(str, (len(images), len(people), len(labels), len(objects))))
        raise DataError(
            f"'{name}' has {counts} image_id, ann_id, label, role_object_id",
            expected=f"as many people in each, and {len(roles) + 1} times as many role_object_id",
        )
    role_RN = [objects[start : start + len(people)] for start in range(0, len(objects), len(people) or 1)]
    if not people:
        return
    if role_RN[0] != people:
        raise DataError(f"role_object_id of '{name}' does not begin with the people", expected="all first roles, then all second")
    for at, (image, person, label) in enumerate(zip(images, people, labels, strict=True)):
        links = []
        if label == 1 and not roles:
            links = [RelationAnnotation(person, name, person)]
        elif label == 1:
            links = [
                RelationAnnotation(person, f"{name} {role}", ids[at] or person)
                for role, ids in zip(roles, role_RN[1:], strict=True)
            ]
        yield at, image, person, links


def _ints(action: Any, key: str) -> list[int]:
    values: list[Any] = need(action, key, list)
    if wrong := [value for value in values if not isinstance(value, int)]:
        raise DataError(f"holds {wrong[0]!r}", field=key, expected="whole numbers")
    return values


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """The instances of all samples, and a file for each split ("" becomes train). Each box gets a new annotation id.

    Without a column `annotated`, V-COCO's people are those who do something. Of two objects in one role the first is written.
    """
    actions = {action: _Action(action, roles) for action, roles in vocabulary("v-coco").roles.items()}
    roles_by_predicate = {
        f"{action} {role}".strip(): (action, role) for action, made in actions.items() for role in made.roles or ("",)
    }
    first, ids = 1, image_ids(samples)
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    paths = []
    for split, members in by_split(samples).items():
        for made in actions.values():
            made.clear()
        for sample in members:
            image_id = ids[sample.uid]
            placed = placer.put(sample, sample.uid, "val2014" if split in ("val", "test") else "train2014")
            images.append({"id": image_id, "file_name": placed.name, "width": placed.width, "height": placed.height})
            rows += coco_rows(sample, image_id, first, _object_ids())
            for made in actions.values():
                made.open(sample, image_id, first)
            for relation in sample.relations:
                if relation.predicate not in roles_by_predicate:
                    label_id(dict.fromkeys(roles_by_predicate, 0), relation.predicate, "action and role", sample)
                action, role = roles_by_predicate[relation.predicate]
                actions[action].fill(sample, relation.subject, role, relation.object)
            first += len(sample.regions)
        stem = f"vcoco_{split or 'train'}"
        paths.append(folder / "data" / "vcoco" / f"{stem}.json")
        write_atomic(paths[-1], json.dumps([made.to_json() for made in actions.values()]))
        write_atomic(folder / "data" / "splits" / f"{stem}.ids", "".join(f"{ids[sample.uid]}\n" for sample in members))
    categories = [{"id": n, "name": label} for label, n in _object_ids().items()]
    instances = {"images": images, "annotations": rows, "categories": categories}
    paths.append(folder / "data" / "instances_vcoco_all_2014.json")
    write_atomic(paths[-1], json.dumps(instances))
    write_atomic(folder / "data" / "splits" / "vcoco_all.ids", "".join(f"{image['id']}\n" for image in images))
    return paths


class _Action:
    """One of the 26 lists while it is written: a row for each of V-COCO's people, whatever their action."""

    def __init__(self, name: str, roles: tuple[str, ...]) -> None:
        self.name, self.roles = name, roles
        self.clear()

    def clear(self) -> None:
        self.images: list[int] = []
        self.people: list[int] = []
        self.labels: list[int] = []
        self.objects: list[list[int]] = [[] for _ in self.roles]
        self._row: dict[int, int] = {}

    def open(self, sample: Sample, image_id: int, first: int) -> None:
        """Add the people of a sample, idle so far. `first` is the annotation id of its first box."""
        self._row, self._first = {}, first
        doing = {relation.subject for relation in sample.relations}
        default = [n in doing for n in range(len(sample.regions))]
        chosen = [a or b for a, b in zip(per_region_column(sample, ANNOTATED, False), default, strict=True)]
        for n, region in enumerate(sample.regions):
            if chosen[n]:
                if region.label != PERSON:
                    raise DataError(f"sample '{sample.uid}': a {region.label} does something", expected="a person as subject")
                self._row[n] = len(self.people)
                self.images.append(image_id)
                self.people.append(first + n)
                self.labels.append(0)
                for column in self.objects:
                    column.append(0)

    def fill(self, sample: Sample, person: int, role: str, thing: int) -> None:
        row = self._row[person]
        self.labels[row] = 1
        if role and thing != person and not self.objects[self.roles.index(role)][row]:
            self.objects[self.roles.index(role)][row] = self._first + thing

    def to_json(self) -> dict[str, Any]:
        return {
            "action_name": self.name.replace(" ", "_"),
            "role_name": ["agent", *self.roles],
            "include": [[] for _ in range(len(self.roles) + 1)],
            "image_id": self.images,
            "ann_id": self.people,
            "label": self.labels,
            "role_object_id": [*self.people, *(thing for column in self.objects for thing in column)],
        }


def _object_ids() -> dict[str, int]:
    coco = vocabulary("coco")
    return dict(zip(coco.objects, coco.object_ids, strict=True))


# ---------------------------------------------------------------- the form that QPIC and its followers read


def read_hoia(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """``trainval_vcoco.json`` and ``test_vcoco.json``: boxes and triplets as for HICO-DET, 29 action-roles, object -1 for none.

    Who of the people without any action was looked at is not in these files: `annotated` are those who do something.
    """
    return gather(source, files_of(source, HOIA, "V-COCO annotations"), _hoia_entry, name=name, root=root)


def _hoia_entry(row: int, value: Any, split: str) -> ImageAnnotation:
    boxes = hoia_boxes(value)
    verbs = vocabulary("v-coco").predicates
    links = []
    for hoi in need(value, "hoi_annotation", list):
        subject, thing, verb = (need(hoi, key, int) for key in ("subject_id", "object_id", "category_id"))
        fault = "" if 0 <= verb < len(verbs) else f"category_id {verb} is not one of the {len(verbs)} action-roles"
        links.append(RelationAnnotation(subject, "" if fault else verbs[verb], subject if thing == -1 else thing, fault=fault))
    doing = {link.subject for link in links}
    file = need(value, "file_name", str)
    digits = "".join(c for c in Path(file).stem.rpartition("_")[2] if c.isdigit())
    entry = ImageAnnotation(row, int(digits or row), [file], boxes=boxes, links=links, extras={"split": split}, key=file)
    entry.per_region[ANNOTATED] = [box.key in doing for box in boxes]
    return entry


def write_hoia(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """Split "test" to ``test_vcoco.json``, everything else to ``trainval_vcoco.json``."""
    verbs = {verb: n for n, verb in enumerate(vocabulary("v-coco").predicates)}
    made: dict[str, list[dict[str, Any]]] = {}
    for split, members in by_split(samples).items():
        file, images = ("test_vcoco", "val2014") if split == "test" else ("trainval_vcoco", "train2014")
        for sample in members:
            hois = [
                {
                    "subject_id": r.subject,
                    "object_id": -1 if r.object == r.subject else r.object,
                    "category_id": label_id(verbs, r.predicate, "action and role", sample),
                }
                for r in sample.relations
            ]
            row = hoia_row(sample, placer.put(sample, sample.uid, f"images/{images}").name)
            made.setdefault(file, []).append({**row, "hoi_annotation": hois})
    paths = []
    for file, rows in made.items():
        paths.append(folder / "annotations" / f"{file}.json")
        write_atomic(paths[-1], json.dumps(rows))
    return paths
