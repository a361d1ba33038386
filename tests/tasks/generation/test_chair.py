"""CHAIR: what captions name, as the released code has it, and captions whose score is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.tasks._scoring.captions.mentions import ObjectVocabulary
from diptych.tasks.generation.chair import CHAIR
from diptych.worlds.scenes.world import scenes

RELEASED: dict[str, Any] = json.loads(Path(__file__).with_name("released_chair.json").read_text())


def test_mentions_and_scores_are_those_of_the_released_code(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(RELEASED["vocabulary"]))
    known = ObjectVocabulary.read(tmp_path / "words.txt")
    assert [known.mentions(caption) for caption in RELEASED["captions"]] == RELEASED["named"]
    samples = [
        Sample(f"u{row:02d}", ArrayImage(np.zeros((8, 8, 3), np.uint8)), regions=tuple(Region((0, 0, 1, 1), n) for n in truth))
        for row, truth in enumerate(RELEASED["truth"])
    ]
    task = CHAIR(vocabulary=str(tmp_path / "words.txt"), blind=False, draws=20)
    records = task.predict(Says(RELEASED["captions"]), Pool.from_samples(samples))
    found = task.score(records)
    assert found.value == pytest.approx(RELEASED["chair_i"], abs=1e-12)
    assert found.metrics["chair_s"].value == pytest.approx(RELEASED["chair_s"], abs=1e-12)
    assert task.item_values(records, "chair_s")[:, 0].tolist() == RELEASED["hallucinated"]  # type: ignore[index]


class Says:
    """One given caption after the other; about grey pictures, always the last one."""

    name = "says"

    def __init__(self, captions: list[str]) -> None:
        self.captions, self.asked = captions, 0

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked += 1
        return self.captions if self.asked == 1 else [self.captions[-1]] * len(images)


def pool() -> Pool:
    def sample(uid: str, *labels: str, text: str = "") -> Sample:
        regions = tuple(Region((0, 0, 1, 1), label) for label in labels)
        texts = (Text(text, "en"),) if text else ()
        return Sample(uid, ArrayImage(np.zeros((8, 8, 3), np.uint8), uid), texts, regions)

    samples = [sample("a", "dog", "hot dog"), sample("b", "cat", text="a cat and a bus"), sample("c", "bus")]
    return Pool.from_samples(samples, name="three")


def test_a_score_that_was_worked_out_by_hand() -> None:
    captions = ["Two hot dogs and a cat, a CAT!", "A cat on buses.", "nothing"]
    task = CHAIR(draws=20)
    found = task.score(task.predict(Says(captions), pool())).metrics
    assert found["chair_i"].value == pytest.approx(2 / 5), "the cats of the first, of five mentions"
    assert found["chair_s"].value == pytest.approx(1 / 3)
    assert found["recall"].value == pytest.approx((1 + 2 + 0) / 5), "what the text of b names is there"
    assert found["mentions"].value == pytest.approx(5 / 3)
    assert found["words"].value == pytest.approx((8 + 4 + 1) / 3)
    assert np.isnan(found["chair_i/blind"].value), "no mention, no share"
    assert found["recall/blind"].value == 0
    assert not found["chair_i"].higher_is_better
    alone = CHAIR(texts=False, blind=False, draws=20)
    assert alone.score(alone.predict(Says(captions), pool())).value == pytest.approx(3 / 5), "the bus of b is in its text only"


def test_the_true_captions_of_a_world_name_nothing_that_is_not_there() -> None:
    world = scenes(20, negatives=False, lengths=("dense",))
    task = CHAIR(texts=False, draws=20)
    true = [world[row].positives("en")[0].string for row in range(20)]
    found = task.score(task.predict(Says(true), world)).metrics
    assert found["chair_i"].value == 0
    assert found["recall"].value == 1
    assert found["chair_i/blind"].value > 0.2, "the caption of another scene"


def test_words_and_phrases(tmp_path: Path) -> None:
    known = ObjectVocabulary.of(["dog", "hot dog", "knife", "bus", "traffic light"])
    assert known.mentions("Hot dogs, dogs; knives near two buses, not a dogma") == ["hot dog", "dog", "knife", "bus"]
    assert known.mentions("a traffic-light is one word") == []
    assert known.mentions("") == []
    (tmp_path / "v.txt").write_text("dog, puppy\n\n-, hot dog\n")
    assert ObjectVocabulary.read(tmp_path / "v.txt").mentions("a hot dog and puppies") == ["dog"]
    for text, said in (("dog,,cat\n", "empty word"), ("\n", "is empty")):
        (tmp_path / "v.txt").write_text(text)
        with pytest.raises(DataError, match=said):
            ObjectVocabulary.read(tmp_path / "v.txt")
    with pytest.raises(DataError, match="cannot be read"):
        ObjectVocabulary.read(tmp_path / "none.txt")


def test_bad_input_is_one_line() -> None:
    bare = Pool.from_samples([Sample("a", ArrayImage(np.zeros((8, 8, 3), np.uint8)))])
    with pytest.raises(DataError, match="has no labelled objects"):
        CHAIR().predict(Says([""]), bare)
    with pytest.raises(DataError, match="has no image"):
        CHAIR().predict(Says([""]), Pool.from_samples([Sample("a", None, regions=(Region((0, 0, 1, 1), "dog"),))]))
