"""`published`: small made-up data in the exact form of each scene-graph release, written without any of our writers."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

try:
    import h5py
except ImportError:
    h5py = None

WIDE, TALL = (100, 80), (60, 90)


class Published:
    """Every method writes a folder and returns it. Two images: one of 100 x 80 pixels, one of 60 x 90."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, name: str, size: tuple[int, int] = WIDE) -> None:
        file = io.BytesIO()
        Image.new("RGB", size, (len(name), 90, 30)).save(file, "JPEG")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())

    def json(self, name: str, value: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        return path

    # ------------------------------------------------------------ one method a format

    def hico_det(self) -> Path:
        """Ids that are strings with a line break occur in the released files."""
        self.image("images/train2015/HICO_train2015_00000001.jpg")
        self.image("images/test2015/HICO_test2015_00000006.jpg", TALL)
        train = {
            "file_name": "HICO_train2015_00000001.jpg",
            "img_id": 1,
            "annotations": [
                {"bbox": [10, 5, 50, 75], "category_id": 1},
                {"bbox": [20, 40, 90, 78], "category_id": "15\n"},
                {"bbox": [60, 5, 95, 75], "category_id": 1},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": "88\n", "hoi_category_id": 246},
                {"subject_id": 0, "object_id": 2, "category_id": 40, "hoi_category_id": 1},
            ],
        }
        test = {"file_name": "HICO_test2015_00000006.jpg", "img_id": 6, "annotations": [], "hoi_annotation": []}
        self.json("annotations/trainval_hico.json", [train])
        self.json("annotations/test_hico.json", [test])
        return self.folder

    def hico_det_pairs(self) -> Path:
        """The same pairs as `hico_det`, for the training image; one box is in two pairs."""
        self.image("hico_20160224_det/images/train2015/HICO_train2015_00000001.jpg")
        pairs = {
            "boxes_h": [[10.0, 5.0, 50.0, 75.0], [10.0, 5.0, 50.0, 75.0]],
            "boxes_o": [[20.0, 40.0, 90.0, 78.0], [60.0, 5.0, 95.0, 75.0]],
            "hoi": [245, 0],
            "object": [0, 1],
            "verb": [1, 0],
        }
        value = {
            "annotation": [pairs],
            "filenames": ["HICO_train2015_00000001.jpg"],
            "empty": [],
            "objects": ["bench", "person"],
            "verbs": ["hug", "sit_on"],
            "correspondence": [],
            "size": [[100, 80]],
            "rare": [],
            "non_rare": [],
        }
        self.json("instances_train2015.json", value)
        return self.folder

    def v_coco(self) -> Path:
        """Three people: 11 hits a ball (13) with a racket (12), 14 rides nothing that is seen and stands, 15 is not in V-COCO."""
        self.image("train2014/COCO_train2014_000000000042.jpg")
        boxes = {11: [10, 5, 40, 70], 12: [30, 40, 60, 38], 13: [5, 5, 10, 10], 14: [50, 0, 20, 80], 15: [75, 1, 20, 70]}
        category = {11: 1, 12: 43, 13: 37, 14: 1, 15: 1}
        annotations = [
            {"id": n, "image_id": 42, "category_id": category[n], "bbox": box, "area": 1, "iscrowd": int(n == 15)}
            for n, box in boxes.items()
        ]
        names = {1: "person", 37: "sports ball", 43: "tennis racket"}
        images = [{"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 100, "height": 80}]
        categories = [{"id": n, "name": name} for n, name in names.items()]
        self.json("data/instances_vcoco_all_2014.json", {"images": images, "annotations": annotations, "categories": categories})
        actions = []
        for name, roles, labels, objects in (
            ("stand", ["agent"], [0, 1], []),
            ("hit", ["agent", "instr", "obj"], [1, 0], [12, 0, 13, 0]),
            ("ride", ["agent", "instr"], [0, 1], [0, 0]),
        ):
            people = {"image_id": [42, 42], "ann_id": [11, 14], "label": labels, "role_object_id": [11, 14, *objects]}
            actions.append({"action_name": name, "role_name": roles, "include": [[] for _ in roles], **people})
        self.json("data/vcoco/vcoco_train.json", actions)
        return self.folder

    def v_coco_hoia(self) -> Path:
        self.image("images/val2014/COCO_val2014_000000000007.jpg")
        value = {
            "file_name": "COCO_val2014_000000000007.jpg",
            "annotations": [
                {"bbox": [10, 5, 50, 75], "category_id": 1},
                {"bbox": [30, 40, 90, 78], "category_id": 43},
                {"bbox": [60, 5, 95, 75], "category_id": 1},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": 6},
                {"subject_id": 0, "object_id": -1, "category_id": 7},
                {"subject_id": 0, "object_id": -1, "category_id": 1},
            ],
        }
        self.json("annotations/test_vcoco.json", [value])
        return self.folder

    def visual_genome(self) -> Path:
        """An alias, a name of several, an empty synset, a merged object, and a relation whose object stands nowhere else."""
        self.image("VG_100K/1.jpg")
        self.image("VG_100K_2/2.jpg", TALL)

        def thing(number: int, box: list[int], name: list[str], merged: tuple[int, ...] = ()) -> dict[str, Any]:
            x, y, w, h = box
            return {
                "object_id": number,
                "x": x,
                "y": y,
                "w": w,
                "h": h,
                "names": name,
                "synsets": [],
                "merged_object_ids": merged,
            }

        tree, dog = thing(5, [10, 5, 40, 70], ["Trees "]), thing(6, [30, 40, 60, 38], ["dog", "puppy"], (9,))
        grass = {"object_id": 8, "x": 0, "y": 60, "w": 100, "h": 20, "name": "grass", "synsets": ["grass.n.01"]}
        relations = [
            {
                "relationship_id": 1,
                "predicate": "NEXT  TO",
                "synsets": [],
                "subject": thing(9, [1, 2, 3, 4], ["pup"]),
                "object": tree,
            },
            {"relationship_id": 2, "predicate": "ON", "synsets": ["on.r.01"], "subject": dog, "object": grass},
        ]
        self.json("objects.json", [{"image_id": 1, "objects": [tree, dog]}, {"image_id": 2, "objects": []}])
        self.json("relationships.json", [{"image_id": 1, "relationships": relations}, {"image_id": 2, "relationships": []}])
        self.json("attributes.json", [{"image_id": 1, "attributes": [{**dog, "attributes": ["Brown", "wet"]}]}])
        sizes = ((1, WIDE), (2, TALL))
        self.json(
            "image_data.json",
            [
                {"image_id": n, "width": w, "height": h, "url": f"https://x/VG_100K/{n}.jpg", "coco_id": None, "flickr_id": None}
                for n, (w, h) in sizes
            ],
        )
        (self.folder / "object_alias.txt").write_text("tree,trees,oak\n")
        (self.folder / "relationship_alias.txt").write_text("beside,next to\n")
        return self.folder

    def rlipv2(self) -> Path:
        self.image("VG_100K/7.jpg")
        self.image("train2017/000000000009.jpg", TALL)
        objects = [
            {"object_id": 10, "x": 10.0, "y": 5.0, "w": 40.0, "h": 70.0, "names": "cat"},
            {"object_id": 11, "x": 5.0, "y": 2.5, "w": 20.0, "h": 30.0, "names": "couch"},
        ]
        relation = {"relationship_id": 1, "predicate": "sitting on", "subject_id": 10, "object_id": 11}
        rows = [
            {"image_id": 7, "objects": objects, "relationships": [relation]},
            {
                "image_id": 9,
                "dataset": "coco2017",
                "data_split": "train2017",
                "objects": objects,
                "relationships": [{**relation, "confidence": 0.25}],
            },
        ]
        self.json("tagged.json", rows)
        return self.folder

    def coco(self) -> Path:
        self.image("images/a.jpg")
        value = {
            "images": [{"id": 3, "file_name": "a.jpg", "width": 100, "height": 80}],
            "annotations": [
                {"id": 70, "image_id": 3, "category_id": 2, "bbox": [10, 5, 40, 70], "iscrowd": 0, "area": 1},
                {
                    "id": 71,
                    "image_id": 3,
                    "category_id": 9,
                    "bbox": [30, 40, 60, 38],
                    "segmentation": [[30, 40, 90, 40, 90, 78]],
                    "iscrowd": 0,
                },
            ],
            "categories": [{"id": 2, "name": "man"}, {"id": 9, "name": "kite"}],
            "rel_categories": [{"id": 4, "name": "flying"}],
            "rel_annotations": [{"id": 1, "image_id": 3, "subject_id": 70, "object_id": 71, "predicate_id": 4}],
        }
        self.json("val.json", value)
        return self.folder

    def psg(self) -> Path:
        self.image("coco/train2017/000000000005.jpg")
        self.image("coco/val2017/000000000006.jpg", TALL)
        boxes = [
            {"bbox": [10, 5, 50, 75], "bbox_mode": 0, "category_id": 0},
            {"bbox": [0, 60, 100, 20], "bbox_mode": 1, "category_id": 2},
        ]
        shared = {"annotations": boxes, "relations": [[0, 1, 1]]}
        segments = [{"id": 77, "category_id": 0, "isthing": 1}, {"id": 5001, "category_id": 2, "isthing": 0}]
        rows = [
            {
                "image_id": "5",
                "file_name": "train2017/000000000005.jpg",
                "width": 100,
                "height": 80,
                "pan_seg_file_name": "panoptic_train2017/000000000005.png",
                "segments_info": segments,
                **shared,
            },
            {
                "image_id": "6",
                "file_name": "val2017/000000000006.jpg",
                "width": 60,
                "height": 90,
                "annotations": [],
                "relations": [],
            },
        ]
        classes = {"thing_classes": ["person", "dog"], "stuff_classes": ["grass"], "predicate_classes": ["over", "standing on"]}
        self.json("psg.json", {"data": rows, **classes, "test_image_ids": ["6"]})
        return self.folder

    def open_images(self) -> Path:
        self.image("images/00a1.jpg")
        row = {
            "img_fn": "00a1",
            "img_size": [100, 80],
            "bbox": [[10, 5, 50, 75], [30, 40, 90, 78]],
            "det_labels": [1, 0],
            "rel": [[0, 1, 0], [1, 0, 1]],
        }
        self.json("vrd-val-anno.json", [row])
        self.json("categories_dict.json", {"obj": ["Guitar", "Man"], "rel": ["plays", "inside_of"]})
        return self.folder

    def open_images_csv(self) -> Path:
        self.image("validation/00a1.jpg")
        head = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel"
        first, second = "0.100000,0.500000,0.050000,0.950000", "0.300000,0.900000,0.500000,0.975000"
        rows = [
            head,
            f"00a1,/m/04yx4,/m/0342h,{first},{second},plays",
            f"00a1,/m/0342h,/m/04yx4,{second},{first},inside_of",
            f"00a1,/m/0342h,/m/083vt,{second},{second},is",
        ]
        (self.folder / "oidv6-validation-annotations-vrd.csv").write_text("\n".join(rows) + "\n")
        boxes = [
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
            f"00a1,xclick,/m/04yx4,1,{first},0,0,0,0,0",
            "00a1,xclick,/m/0342h,1,0.000000,0.250000,0.000000,0.500000,0,0,0,0,0",
            "ffff,xclick,/m/04yx4,1,0.0,0.5,0.0,0.5,0,0,0,0,0",
        ]
        (self.folder / "validation-annotations-bbox.csv").write_text("\n".join(boxes) + "\n")
        (self.folder / "class-descriptions-boxable.csv").write_text("/m/04yx4,Man\n/m/0342h,Guitar\n")
        (self.folder / "oidv6-attributes-description.csv").write_text("/m/083vt,Wooden\n")
        return self.folder

    def vg150(self) -> Path:
        """Needs the fixture `h5`. Three images, the second without boxes; a fifth, corrupt one is in image_data.json only."""
        for number in (1, 2, 3):
            self.image(f"VG_100K/{number}.jpg")
        arrays = {
            "boxes_1024": np.array([[307, 410, 410, 717], [614, 604, 614, 389], [512, 410, 200, 200]], np.int32),
            "labels": np.array([[78], [37], [20]], np.int32),
            "attributes": np.array([[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]] + [[0] * 10] * 2, np.int64),
            "relationships": np.array([[0, 1], [1, 0]], np.int32),
            "predicates": np.array([[21], [29]], np.int32),
            "img_to_first_box": np.array([0, -1, 2]),
            "img_to_last_box": np.array([1, -1, 2]),
            "img_to_first_rel": np.array([0, -1, -1]),
            "img_to_last_rel": np.array([1, -1, -1]),
            "split": np.array([0, 0, 2]),
        }
        self.h5("VG-SGG-with-attri.h5", arrays)
        dicts = {
            "idx_to_label": {"78": "man", "37": "dog", "20": "boy"},
            "label_to_idx": {"man": 78, "dog": 37, "boy": 20},
            "idx_to_predicate": {"21": "holding", "29": "near"},
            "idx_to_attribute": {"2": "tall"},
        }
        self.json("VG-SGG-dicts-with-attri.json", dicts)
        numbers = (1, 2, 1592, 3)
        self.json("image_data.json", [{"image_id": n, "width": 100, "height": 80, "url": "", "coco_id": None} for n in numbers])
        return self.folder

    def h5(self, name: str, arrays: dict[str, Any]) -> Path:
        with sys.modules["h5py"].File(self.folder / name, "w") as file:
            for key, values in arrays.items():
                file.create_dataset(key, data=values)
        return self.folder / name


@pytest.fixture
def published(tmp_path: Path) -> Published:
    folder = tmp_path / "published"
    folder.mkdir()
    return Published(folder)


@pytest.fixture
def h5(monkeypatch: pytest.MonkeyPatch) -> None:
    """h5py, or a stand-in with the few calls that are used, over npz files."""
    if h5py is None:
        stand_in = ModuleType("h5py")
        stand_in.File = _File  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "h5py", stand_in)


class _Dataset:
    def __init__(self, values: np.ndarray) -> None:
        self._values, self.shape = values, values.shape

    def __getitem__(self, key: tuple[()]) -> np.ndarray:
        assert key == ()
        return self._values


class _File:
    """`h5py.File` as a context manager: iterate over names, index, create_dataset."""

    def __init__(self, path: Path, mode: str) -> None:
        self._path, self._mode = path, mode
        self._arrays: dict[str, np.ndarray] = {}
        if mode == "r":
            try:
                with np.load(path) as found:
                    self._arrays = dict(found)
            except Exception as error:
                raise OSError(f"Unable to synchronously open file (truncated file: {error})") from error

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        if self._mode == "w":
            with Path(self._path).open("wb") as file:
                np.savez(file, **self._arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __getitem__(self, name: str) -> _Dataset:
        return _Dataset(self._arrays[name])

    def create_dataset(self, name: str, data: np.ndarray) -> None:
        self._arrays[name] = np.asarray(data)
