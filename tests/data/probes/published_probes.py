"""Made-up probes in the published file formats, a few cases each, with a picture that is missing in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "grey": (90, 90, 90)}


def picture(path: Path, left: str, right: str, *, side: int = 40) -> None:
    """A picture of two halves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2], pixels[:, side // 2 :] = COLOURS[left], COLOURS[right]
    Image.fromarray(pixels).save(path)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def relation(image: str, name: str, true: str, false: str, box: tuple[float, ...] = (0, 0, 40, 40)) -> dict[str, Any]:
    keys = dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))
    return {
        "image_id": image.split(".")[0], "image_path": image, **keys,
        "relation_name": name, "true_caption": true, "false_caption": false,
    }  # fmt: skip


def attribution(image: str, words: tuple[str, str, str, str]) -> dict[str, Any]:
    one, first, two, second = words
    true, false = (f"the {a} {first} and the {b} {second}" for a, b in ((one, two), (two, one)))
    plain = relation(image, "", true, false) | {"attributes": [one, two], "obj1_name": first, "obj2_name": second}
    del plain["relation_name"]
    return plain


def aro(folder: Path) -> Path:
    picture(folder / "images" / "1.jpg", "red", "blue")
    picture(folder / "images" / "2.jpg", "blue", "red")
    picture(folder / "val2014" / "COCO_val2014_000000000001.jpg", "red", "blue")
    picture(folder / "flickr30k-images" / "7.jpg", "red", "blue")
    write(
        folder / "visual_genome_relation.json",
        [
            relation(
                "1.jpg",
                "to the left of",
                "the cup is to the left of the box",
                "the box is to the left of the cup",
                (2, 3, 20, 10),
            ),
            relation("2.jpg", "on", "the cup is on the box", "the box is on the cup"),
            relation("2.jpg", "near", "the cup is near the box", "the box is near the cup"),
            relation("gone.jpg", "on", "the cup is on the box", "the box is on the cup"),
            relation("2.jpg", "on", "the cup is on the Cup.", "the cup is on the cup"),
            relation("2.jpg", "on", "a", "b", (0, 0, 0, 5)),
            {"image_path": "1.jpg"},
        ],
    )
    write(
        folder / "visual_genome_attribution.json",
        [attribution("1.jpg", ("red", "cup", "blue", "box")), attribution("2.jpg", ("tall", "tree", "open", "door"))],
    )
    captions = ["A red cup stands left of a blue box.", "Two things on a plain table"]
    write(folder / "coco_karpathy_test.json", [{"image": "val2014/COCO_val2014_000000000001.jpg", "caption": captions}])
    write(folder / "flickr30k_test.json", [{"image": "flickr30k-images/7.jpg", "caption": captions[:1]}])
    return folder


def sugarcrepe(folder: Path, *, second: bool = False) -> Path:
    picture(folder / "val2017" / "000000000001.jpg", "red", "blue")
    entry = {
        "filename": "000000000001.jpg", "caption": "A red cup and a blue box.", "negative_caption": "A blue cup and a red box."
    }  # fmt: skip
    gone = {**entry, "filename": "000000000002.jpg"}
    if second:
        more = [{"id": i, **e, "caption2": "There is a box in blue and a cup in red."} for i, e in enumerate((entry, gone))]
        write(folder / "swap_att.json", more)
    else:
        write(folder / "swap_att.json", {"0": entry, "1": gone})
        write(folder / "replace_obj.json", {"0": {**entry, "negative_caption": "A red cup and a blue dog."}})
    return folder


def winoground(folder: Path) -> Path:
    for example in (0, 1):
        for side, colours in enumerate((("red", "blue"), ("blue", "red"))):
            if (example, side) != (1, 1):
                picture(folder / "images" / f"ex_{example}_img_{side}.png", *colours)
    lines = [
        {
            "id": example,
            "image_0": f"ex_{example}_img_0",
            "image_1": f"ex_{example}_img_1",
            "caption_0": "red left of blue",
            "caption_1": "blue left of red",
            "tag": "Adjective-Color",
            "secondary_tag": "",
            "num_main_preds": 1,
            "collapsed_tag": "Object",
        }
        for example in (0, 1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


def winoground_parquet(folder: Path) -> Path:
    """As the hub has it: one file that holds the pictures; of the second example one has no bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = winoground(folder / "plain")
    rows = [json.loads(line) for line in (plain / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for name in ("image_0", "image_1"):
            file = plain / "images" / f"{row[name]}.png"
            row[name] = {"bytes": file.read_bytes() if file.is_file() else None, "path": file.name}
    (folder / "hub" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "hub" / "data" / "test-00000-of-00001.parquet")
    return folder / "hub"


def winoground_hub(folder: Path) -> Path:
    """The hub's other form: the list in data/, the pictures unpacked beside it."""
    plain = winoground(folder / "plain")
    (folder / "hub" / "data").mkdir(parents=True)
    (plain / "examples.jsonl").rename(folder / "hub" / "data" / "examples.jsonl")
    (plain / "images").rename(folder / "hub" / "data" / "images")
    return folder / "hub"


def vl_checklist(folder: Path) -> Path:
    picture(folder / "vg" / "VG_100K" / "1.jpg", "red", "blue")
    picture(folder / "swig" / "calling_1.jpg", "red", "blue")
    write(
        folder / "data" / "Attribute" / "vg" / "color.json",
        [
            ["VG_100K/1.jpg", {"POS": ["red cup"], "NEG": ["green cup"]}],
            ["VG_100K/2.jpg", {"POS": ["red cup"], "NEG": ["green cup"]}],
            ["VG_100K/1.jpg", {"POS": [], "NEG": ["green cup"]}],
        ],
    )
    write(
        folder / "data" / "Relation" / "swig_action.json",
        [["calling_1.jpg", {"POS": ["a man calls", "a person phones"], "NEG": ["a man sings", "a person sings"]}]],
    )
    for name, anno, images in (
        ("Attribute/color/vg", "data/Attribute/vg/color.json", "vg"),
        ("Relation/action/swig", "data/Relation/swig_action.json", "swig/"),
        ("Relation/spatial/vg", "data/Relation/vg/spatial.json", "vg"),
    ):
        path = folder / "corpus" / "v1" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'ANNO_PATH: "{anno}"\nIMG_ROOT: "{images}"\nTYPE: "TUPLE_JSON"', encoding="utf-8")
    return folder
