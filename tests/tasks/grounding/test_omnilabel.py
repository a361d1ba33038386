"""The OmniLabel protocol against numbers of its released evaluator on made-up data (fixture), read from a file in its exact form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.tasks.grounding.omnilabel import OmniLabel

STORED: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures/omnilabel_released.json").read_text())


class Answers:
    """What was found, by the number of the picture (the value of its pixels) and the text."""

    name = "answers"

    def __init__(self) -> None:
        texts = {entry["id"]: entry["text"] for entry in STORED["truth"]["descriptions"]}
        self.rows: dict[tuple[int, str], list[tuple[list[float], float]]] = {}
        self.asked: list[str] = []
        for row in STORED["found"]:
            x, y, width, height = row["bbox"]
            for one, score in zip(row["description_ids"], row["scores"], strict=True):
                self.rows.setdefault((row["image_id"], texts[one]), []).append(([x, y, x + width, y + height], score))

    def ground(self, images: Any, queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16) -> Any:
        self.asked += [query.text for query in queries]
        numbers = [int(decode(image, exact=True)[0, 0, 0]) for image in images]
        return [[self._best(n, words, top) for words in query.words()] for n, query in zip(numbers, queries, strict=True)]

    def _best(self, number: int, words: str, top: int) -> PhraseBoxes:
        rows = sorted(self.rows.get((number, words), ()), key=lambda row: -row[1])[:top]
        box_N4 = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
        return PhraseBoxes(box_N4, np.array([score for _, score in rows], np.float32))


@pytest.fixture
def data(tmp_path: Path) -> Pool:
    for image in STORED["truth"]["images"]:
        width, height = STORED["size"]
        Image.fromarray(np.full((height, width, 3), image["id"], np.uint8)).save(tmp_path / image["file_name"])
    (tmp_path / "dataset_made_val.json").write_text(json.dumps(STORED["truth"]))
    return dp.read(tmp_path / "dataset_made_val.json")


@pytest.mark.parametrize("together", [1, 20])
def test_numbers_are_those_of_the_released_evaluator(data: Pool, together: int) -> None:
    model = Answers()
    result = dp.evaluate(model, "omnilabel", data=data, together=together)
    got = {name: metric.value for name, metric in result.metrics.items()}
    assert got == pytest.approx(STORED["numbers"], abs=1e-12)
    assert result.main == "ap"
    assert len(set(model.asked)) == len(model.asked) or together == 1  # a text a picture, or alone in several pictures


def test_a_part_without_a_true_box_has_no_number_and_faults_are_said() -> None:
    image = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    asked = {"text": "a cup", "phrases": [{"spans": [[0, 5]], "regions": [], "kind": "category"}]}
    rows = Pool.from_samples([Sample("a", image, extras={"grounding": [asked]})], name="nothing there")
    result = OmniLabel().score(OmniLabel().predict(Answers(), rows))
    assert np.isnan([metric.value for metric in result.metrics.values()]).all()
    with pytest.raises(DataError, match="no description that is looked for"):
        OmniLabel().predict(Answers(), Pool.from_samples([Sample("a", image)], name="plain"))
    with pytest.raises(ConfigError, match="together is 0"):
        OmniLabel(together=0)
