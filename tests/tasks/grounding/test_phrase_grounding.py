"""Recall of phrases against the released evaluator of MDETR (ashkamath/mdetr) on made-up files of Flickr30k Entities (fixture)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.tasks.grounding.phrase_grounding import PhraseGrounding

STORED: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures/phrase_grounding_released.json").read_text())
SIDE = 40


@pytest.fixture
def data(tmp_path: Path) -> Pool:
    """Phrases of none, one and several boxes and kinds; sentences without a phrase. A picture's pixels are its number."""
    for folder in ("Sentences", "Annotations", "flickr30k-images"):
        (tmp_path / folder).mkdir()
    for number, picture in enumerate(STORED["pictures"]):
        key = picture["key"]
        Image.fromarray(np.full((SIDE, SIDE, 3), number, np.uint8)).save(tmp_path / f"flickr30k-images/{key}.png")
        (tmp_path / f"Sentences/{key}.txt").write_text("\n".join(picture["sentences"]) + "\n")
        objects = ""
        for entity, boxes in picture["entities"].items():
            for box in boxes:
                sides = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
                objects += f"<object><name>{entity}</name><bndbox>{sides}</bndbox></object>"
        (tmp_path / f"Annotations/{key}.xml").write_text(f"<annotation>{objects}</annotation>")
    return dp.read(tmp_path)


class Answers:
    """The stored boxes of each picture, sentence by sentence, best first."""

    name = "answers"

    def __init__(self) -> None:
        keys = [picture["key"] for picture in STORED["pictures"]]
        self.waiting: dict[int, list[list[list[list[float]]]]] = {n: [] for n in range(len(keys))}
        for row in STORED["predictions"]:
            self.waiting[keys.index(row["image_id"])].append(row["boxes"])

    def ground(self, images: Any, queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16) -> Any:
        answers = []
        for image, query in zip(images, queries, strict=True):
            boxes = self.waiting[int(decode(image, exact=True)[0, 0, 0])].pop(0)
            assert len(boxes) == len(query.phrases)
            answers.append(
                [PhraseBoxes(np.array(box, np.float32).reshape(-1, 4), -np.arange(len(box), dtype=np.float32)) for box in boxes]
            )
        return answers


@pytest.mark.parametrize("boxes", ["any", "merged"])
def test_recalls_of_all_phrases_and_of_every_kind_are_the_released_ones(
    boxes: Literal["any", "merged"], data: Pool, parity: Any
) -> None:
    task = PhraseGrounding(boxes=boxes, draws=0)
    metrics = task.score(task.predict(Answers(), data)).metrics
    pairs = []
    for k, by_kind in STORED["report"][boxes].items():
        name = "r@all" if k == "-1" else f"r@{k}"
        for kind, value in by_kind.items():
            pairs.append((metrics[name if kind == "all" else f"{name}/{kind}"].value, value))
    assert len(pairs) == len(metrics) == 20  # four recalls of all phrases and of four kinds
    assert len({value for _, value in pairs}) > 6
    parity("desco", f"recall of phrases, {boxes}", "ashkamath/mdetr, Flickr30kEntitiesRecallEvaluator", pairs, tolerance=1e-12)
