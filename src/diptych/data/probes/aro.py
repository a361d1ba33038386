"""ARO's files (Yuksekgonul et al., 2023, arXiv 2210.01936), which SNARE (2308.12898) reads, too.

`visual_genome_relation.json` and `visual_genome_attribution.json` are lists of a picture each, with the box that holds both things, a true
and a false caption. The picture is cut to the box. `coco_karpathy_test.json` and `flickr30k_test.json` (or `_val`) are lists of pictures
with their captions, as BLIP's authors give them; wrong captions are made from those by the tasks.

A sample has `extras["relation"]` (name, true, false) or `extras["attribution"]` (attributes, objects, true, false).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.graphs.find import load_list
from diptych.data.media.cropped import CroppedImage
from diptych.data.probes.collect import ProbeCollector, uid_of

RELATION, ATTRIBUTION = "visual_genome_relation.json", "visual_genome_attribution.json"
CAPTIONS = ("coco_karpathy_test.json", "coco_karpathy_val.json", "flickr30k_test.json", "flickr30k_val.json")
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_PAIR: dict[str, tuple[type, ...]] = {
    "image_path": (str,), **dict.fromkeys(BOX, (int, float)), "true_caption": (str,), "false_caption": (str,)
}  # fmt: skip


def holds(folder: Path) -> bool:
    """True if a folder has a file of ARO."""
    return any((folder / name).is_file() for name in (RELATION, ATTRIBUTION, *CAPTIONS))


def read(folder: Path, name: str, root: Path | None = None, within: str | None = None) -> Pool:
    """Every one of the files that the folder holds, a split each."""
    collector = ProbeCollector(folder, root, within)
    if (file := folder / RELATION).is_file():
        fields = {**_PAIR, "relation_name": (str,)}
        for row, entry in collector.entries(file, load_list(file, "cases"), fields):
            facts = {"name": entry["relation_name"], "true": entry["true_caption"], "false": entry["false_caption"]}
            _add(collector, file, row, entry, {"relation": facts})
    if (file := folder / ATTRIBUTION).is_file():
        fields = {**_PAIR, "attributes": (list,), "obj1_name": (str,), "obj2_name": (str,)}
        for row, entry in collector.entries(file, load_list(file, "cases"), fields):
            if len(entry["attributes"]) != 2 or not all(isinstance(word, str) and word for word in entry["attributes"]):
                collector.leave_out(file, row, f"its attributes are {str(entry['attributes'])[:60]}, not two words")
                continue
            facts = {
                "attributes": list(entry["attributes"]),
                "objects": [entry["obj1_name"], entry["obj2_name"]],
                "true": entry["true_caption"],
                "false": entry["false_caption"],
            }
            _add(collector, file, row, entry, {"attribution": facts})
    for captioned in CAPTIONS:
        if (file := folder / captioned).is_file():
            _captions(collector, file)
    return collector.pool(name)


def _add(collector: ProbeCollector, file: Path, row: int, entry: dict[str, Any], facts: dict[str, Any]) -> None:
    left, top, width, height = (entry[side] for side in BOX)
    if not all(map(math.isfinite, (left, top, width, height))) or width < 1 or height < 1:
        collector.leave_out(file, row, f"its box is {[left, top, width, height]}, which has no area")
        return
    image = collector.image(file, row, [entry["image_path"]])
    if image is None:
        return
    box = (round(left), round(top), round(left + width), round(top + height))
    collector.samples.append(
        Sample(
            uid_of(file, row),
            CroppedImage(image, box),
            (Text(entry["true_caption"], "en"),),
            group=entry["image_path"],
            source="aro",
            extras={"split": file.stem, **facts},
        )
    )


def _captions(collector: ProbeCollector, file: Path) -> None:
    for row, entry in collector.entries(file, load_list(file), {"image": (str,), "caption": (list, str)}):
        captions = [entry["caption"]] if isinstance(entry["caption"], str) else entry["caption"]
        texts = tuple(Text(caption, "en") for caption in captions if isinstance(caption, str) and caption.strip())
        if len(texts) < len(captions):
            collector.leave_out(file, row, f"{len(captions) - len(texts)} of its captions are not texts", stage="text")
        if texts and (image := collector.image(file, row, [entry["image"]])):
            collector.samples.append(
                Sample(uid_of(file, row), image, texts, group=entry["image"], source="aro", extras={"split": file.stem})
            )
