"""SocialGPT: records, matching of people, prompts, strict reading of replies, tuned segments, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.prompt import as_dialogue
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.masks import encode
from diptych.data.media.decode import decode
from diptych.pipelines._social.perception import (
    AGE,
    CAPTION,
    GENDER,
    DescribedObject,
    SceneRecords,
    matched_people,
    scaled_size,
)
from diptych.pipelines._social.prompts import PIPA, PISC, SEGMENTS, relation_in, training_question
from diptych.pipelines._social.segment_objective import SegmentObjective, Slot
from diptych.pipelines._social.segment_search import SegmentSearch
from diptych.pipelines.roles import start
from diptych.pipelines.socialgpt import PairRequest, SocialGPT, tune_segments

CANVAS = np.zeros((100, 200, 3), np.uint8)
CANVAS[20:80, 10:40] = (255, 0, 0)
CANVAS[20:80, 120:160] = (0, 0, 255)
IMAGE = ArrayImage(CANVAS, "pair")
FIRST, SECOND = (10.0, 20.0, 40.0, 80.0), (120.0, 20.0, 160.0, 80.0)
RELEASED_RECORDS = (
    "{<symbol>:[P1] , <coordinate>:[195, 14, 189, 242] , <caption>:[a man] , <age>:[30] , <gender>:[male]}; "
    "{<symbol>:[P2] , <coordinate>:[0, 40, 199, 216] , <caption>:[a boy] , <age>:[8] , <gender>:[boy]}; "
    "{<symbol>:[O1] , <coordinate>:[15, 4, 13, 33] , <caption>:[a cup]}; "
)
RELEASED_PROMPT = (
    "SYS USER: PRE\n\nREL\n\n" + "*" * 64 + "\nExample:\nEX\n" + "*" * 64 + "\n\n[1. image description]:\n<P1> pays <P2>.\n\n"
    "[2. Question]: \nWhat are the most likely social relationships between P1 and P2? Choose only one from {<friends>, "
    "<family-members>, <couple>, <professional>, <commercial>, <no-relationship>}..\n\n[3. Answer]: ASSISTANT: "
    "[The final answer is <commercial>]"
)


class Everything:
    """A generator that answers by what it is shown and asked, and remembers both."""

    name, fingerprint = "everything", "1"

    def __init__(self, reply: str = "[The final answer is <friends>]. They stand together.") -> None:
        self.reply = reply
        self.asked: list[tuple[Any, str]] = []

    def generate(self, images: Sequence[Any], prompts: Sequence[Any], *, max_tokens: int = 64) -> list[str]:
        return [self._one(image, as_dialogue(prompt)) for image, prompt in zip(images, prompts, strict=True)]

    def _one(self, image: Any, dialogue: Any) -> str:
        text = dialogue.turns[-1].text
        self.asked.append((image, text))
        if text == CAPTION:
            mean = decode(image, exact=True).reshape(-1, 3).mean(0)
            return "somebody red" if mean[0] > mean[2] + 100 else "somebody blue" if mean[2] > mean[0] + 100 else "two people"
        if text in (AGE, GENDER):
            return "30" if text == AGE else "woman"
        if "People and things:" in text:
            return " <P1> stands left of <P2>. "
        return self.reply


class Boxes:
    """A detector of two people and a ball."""

    name, fingerprint = "boxes", "1"

    def __init__(self, regions: tuple[Region, ...]) -> None:
        self.regions = regions

    def detect(self, images: Sequence[Any], *, objects: Sequence[str], **_: Any) -> list[SceneGraph]:
        assert "person" in objects
        return [SceneGraph(self.regions) for _ in images]


def mask_of(box: tuple[float, ...]) -> dict[str, Any]:
    mask_HW = np.zeros((100, 200), bool)
    mask_HW[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return encode(mask_HW)


REGIONS = (
    Region((9, 18, 42, 80), "person", score=0.9, mask=mask_of(FIRST)),
    Region((118, 20, 162, 80), "person", score=0.8),
    Region((60, 60, 70, 70), "ball", score=0.99),
    Region((8, 22, 40, 78), "person", score=0.3),
)


def test_the_story_is_written_from_records_and_read_behind_the_segments() -> None:
    model = Everything()
    answer = SocialGPT(model, detector=Boxes(REGIONS)).run(PairRequest(IMAGE, FIRST, SECOND))
    assert answer.relation == "friends"
    assert answer.story == "<P1> stands left of <P2>."
    assert answer.unnamed == ()
    assert answer.records.split("; ")[0] == (
        "{<symbol>:[P1] , <coordinate>:[17, 34, 63, 119] , <caption>:[somebody red] , <age>:[30] , <gender>:[woman]}"
    )
    assert "[P2]" in answer.records
    assert "somebody blue" in answer.records
    assert answer.records.endswith("<caption>:[two people]}; ")  # the ball, black
    assert "O2" not in answer.records, "what overlaps a person is no thing"
    story_prompt = next(text for _, text in model.asked if "People and things:" in text)
    assert "a. Size: 384x192" in story_prompt
    assert answer.records in story_prompt
    last = model.asked[-1][1]
    order = [last.index(part) for part in ("expert of social relations", "1. <father-child>", "Example:", answer.story)]
    assert order == sorted(order)
    assert last.count("between P1 and P2?") == 2  # of the example, and the one that is asked


def test_pixels_outside_of_a_mask_are_black() -> None:
    model = Everything()
    SocialGPT(model, detector=Boxes(REGIONS)).run(PairRequest(IMAGE, FIRST, SECOND))
    crop = next(decode(image, exact=True) for image, _ in model.asked if image.name.endswith("at P1"))
    assert crop.shape == (62, 33, 3)
    assert (crop[0] == 0).all()
    assert tuple(crop[30, 15]) == (255, 0, 0)
    assert tuple(crop[30, 0]) == (0, 0, 0)


def test_people_are_matched_above_the_threshold_once_each() -> None:
    people, things = matched_people([FIRST, FIRST], REGIONS[:1] + REGIONS[2:3], 0.42)
    assert [one.box for one in people] == [REGIONS[0].box, FIRST]
    assert [region.label for region in things] == ["ball"]
    alone, _ = matched_people([SECOND], REGIONS[:1], 0.42)
    assert alone[0].box == SECOND
    for repeated, others in (("drop", []), ("keep", [REGIONS[3]])):
        assert matched_people([FIRST], (REGIONS[0], REGIONS[3]), 0.42, repeated=repeated)[1] == others


def test_records_are_those_of_the_release(parity: Any) -> None:
    """`scale_coordinate_newbbox`, `resize_long_edge` and `get_semantic_region` of the release on its own example printed these."""
    size = scaled_size(1023, 682, 384)
    assert size == (384, 256)
    scale = (size[0] / 1023, size[1] / 682)
    people = [
        DescribedObject("P1", (520, 39, 1023, 682), "a man", "30", "male"),
        DescribedObject("P2", (0, 109, 531, 682), "a boy", "8", "boy"),
    ]
    records = SceneRecords("", "", (*people, DescribedObject("O1", (40, 13, 77, 99), "a cup")), *size, scale)
    pairs = [(np.array([*records.text.encode()]), np.array([*RELEASED_RECORDS.encode()]))]
    parity("socialgpt", "records of a scene", "Mengzibin/SocialGPT bccfa82", pairs, tolerance=0)


def test_training_prompt_is_in_the_released_frame() -> None:
    """The text that the release's own conversation with Vicuna gave for these segments."""
    asked = training_question("<P1> pays <P2>.", ("P1", "P2"), "commercial", PISC)
    texts = dict(zip(SEGMENTS, ("SYS", "PRE", "REL", "EX"), strict=True))
    prompt = "".join(texts[part.name] if isinstance(part, Slot) else part for part in asked.parts)
    assert prompt + asked.target == RELEASED_PROMPT


def test_the_surest_people_are_taken_where_none_is_given() -> None:
    answer = SocialGPT(Everything(), detector=Boxes(REGIONS)).run(PairRequest(IMAGE))
    assert answer.records.startswith("{<symbol>:[P1] , <coordinate>:[17, ")
    with pytest.raises(DataError, match="0 people were found"):
        SocialGPT(Everything()).run(PairRequest(IMAGE))
    with pytest.raises(ConfigError, match="one person is given"):
        SocialGPT(Everything()).run(PairRequest(IMAGE, FIRST))


def test_a_direct_question_shows_the_picture_and_no_story() -> None:
    model = Everything("friends.")
    answer = SocialGPT(model, how="direct", relations="pisc").run(PairRequest(IMAGE, FIRST, SECOND))
    assert (answer.relation, answer.story) == ("friends", "")
    ((image, text),) = model.asked
    assert image is IMAGE
    assert "P1 in the box [10, 20, 40, 80]" in text
    assert all(f"<{name}>" in text for name in PISC)


@pytest.mark.parametrize(
    ("reply", "strict", "released"),
    [
        ("[The final answer is <colleagues>]. Or friends.", ("colleagues",), ("colleagues",)),
        ("The final answer is: father-child", ("father-child",), ("father-child",)),
        ("They are Siblings", ("siblings",), ()),
        ("friends or siblings. friends", (), ("friends", "siblings")),
        ("[The final answer is <friends>], [The final answer is <siblings>].", (), ("friends", "siblings")),
        ("Nobody knows. friends", (), ()),
        ("the grandpa-grandchild pair", ("grandpa-grandchild",), ("grandpa-grandchild",)),
    ],
)
def test_replies_are_read_strictly_unless_as_released(
    reply: str, strict: tuple[str, ...], released: tuple[str, ...], parity: Any
) -> None:
    """The last column is what the released reader gave for these replies; it counts a list of guesses as right."""
    assert relation_in(reply, list(PIPA)) == strict
    assert relation_in(reply, list(PIPA), how="released") == released


def test_options_and_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "segments.json"
    file.write_text(json.dumps({"prelude": "PRELUDE", "ending": "x"}), encoding="utf-8")
    with pytest.raises(DataError, match="system, prelude, relationship, example"):
        SocialGPT(Everything(), segments=file).run(PairRequest(IMAGE, FIRST, SECOND))
    file.write_text(json.dumps({"prelude": "PRELUDE"}), encoding="utf-8")
    model = Everything()
    SocialGPT(model, segments=file).run(PairRequest(IMAGE, FIRST, SECOND))
    assert model.asked[-1][1].startswith("PRELUDE\n\n1. <father-child>")
    own = tmp_path / "relations.json"
    own.write_text(json.dumps({"rivals": "who compete", "allies": "who help"}), encoding="utf-8")
    assert (
        SocialGPT(Everything("rivals"), relations=str(own), how="direct").run(PairRequest(IMAGE, FIRST, SECOND)).relation
        == "rivals"
    )
    for options, message in (
        ({"how": "guess"}, "how is 'guess'"),
        ({"least": 2.0}, "least 2.0"),
        ({"relations": "vidal"}, "pipa | pisc"),
    ):
        with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
            SocialGPT(Everything(), **options).run(PairRequest(IMAGE, FIRST, SECOND))
    with pytest.raises(ConfigError, match="reasoner"):
        start("socialgpt", {})


def test_segments_are_tuned_to_labelled_stories(tmp_path: Path) -> None:
    """The model of the other test file; whatever it has learned, the result is no worse than the start."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=128, max_position_embeddings=1024, **sizes)).eval()
    candidates = {slot: [f"{slot} {word}" for word in ("one", "two", "three")] for slot in SEGMENTS}
    stories = [("<P1> sells bread to <P2>.", ("P1", "P2"), "commercial"), ("<P1> kisses <P2>.", ("P1", "P2"), "couple")]

    def encode(text: str) -> list[int]:
        return [sum(map(ord, word)) % 127 for word in text.split()]

    segments, result = tune_segments(model, encode, candidates, stories, PISC, search=SegmentSearch(steps=2, top=2, questions=0))
    assert all(getattr(segments, slot) in candidates[slot] for slot in SEGMENTS)
    made = SegmentObjective(model, encode, candidates)
    questions = [training_question(*story, PISC) for story in stories]
    first, best = made.losses([dict.fromkeys(SEGMENTS, 0), result.choice], questions).tolist()
    assert best <= first
    assert best == pytest.approx(result.loss, abs=1e-5)
    segments.write(tmp_path / "segments.json")
    assert SocialGPT(Everything(), relations="pisc", segments=tmp_path / "segments.json").prompt == segments
