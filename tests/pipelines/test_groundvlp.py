"""GroundVLP: grades of boxes by hand and as released, maps of words by their characters, categories, models with maps, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diptych.cli import main
from diptych.core.contracts import Grounder, MatchMap, MatchMapper, Pipeline
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.grounding import PhraseQuery
from diptych.core.image import ArrayImage
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.matchers import BlipMatcher, open_matcher
from diptych.pipelines.groundvlp import GroundVLP, ReferringExpression, box_grade, head_noun, main_words, token_mean, upsampled
from diptych.pipelines.roles import start
from diptych.report.heat import heat_picture

RELEASED = Path(__file__).parents[1] / "parity" / "released" / "groundvlp_grades.npz"
SOURCE = "om-ai-lab/GroundVLP f13e9d2, models/albef/engine.py"
PICTURE = ArrayImage(np.full((12, 16, 3), 200, np.uint8), "grey")
WORDS = Tokenizer.from_spec("clip")


class Looks:
    """Looks at a row of the grid of three for each token: tokens of "cup" at the last one, all others at the first."""

    name = "looks"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def map_match(self, image: Any, texts: Any, *, layer: int | None = None) -> list[MatchMap]:
        found = []
        for text in texts:
            self.asked.append((text, layer))
            offset_L2 = WORDS.offsets(text, 20)[: int(WORDS.encode([text], 20).mask_BL.sum())]
            weight_LHW = np.zeros((len(offset_L2), 3, 4), np.float32)
            for token, (begin, end) in enumerate(offset_L2):
                weight_LHW[token, 2 if text[begin:end] == "cup" else 0] = 1.0
            found.append(MatchMap(1.5, weight_LHW, offset_L2, (0.0, 0.0, 1.0, 1.0)))
        return found


class Proposes:
    """Two cups and a person."""

    name, fingerprint = "proposes", "0"
    regions = (
        Region((0.0, 0.0, 16.0, 4.0), "cup", score=0.9), Region((0.0, 8.0, 16.0, 12.0), "cup", score=0.2),
        Region((0.0, 4.0, 16.0, 8.0), "person", score=0.8),
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def detect(self, images: Any, *, objects: Any, relations: Any = (), **options: Any) -> list[SceneGraph]:
        self.asked.append(tuple(objects))
        return [SceneGraph(tuple(region for region in self.regions if region.label in objects))]


class Alike:
    """Texts with a word in common are alike."""

    name, fingerprint = "alike", "0"

    def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
        raise NotImplementedError

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> npt.NDArray[np.float32]:
        means = {"mug": "cup", "man": "person"}
        kinds = [means.get(text.split()[-1], text.split()[-1]) for text in texts]
        rows = np.array([[float(kind == other) for other in ("cup", "person", "dog")] for kind in kinds], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def pipeline(**changes: Any) -> GroundVLP:
    return GroundVLP(**{"model": Looks(), "detector": Proposes(), **changes})


# ------------------------------------------------------------ grades


def test_the_exponent_is_between_sum_and_mean(parity: Any) -> None:
    heat = np.zeros((10, 10))
    heat[2:5, 2:5] = 1
    boxes = {"own": (2, 2, 5, 5), "all": (0, 0, 10, 10), "part": (3, 3, 4, 4)}
    found = {
        name: [box_grade(heat, tuple(map(float, box)), exponent=power) for power in (0.5, 0.0, 1.0)]
        for name, box in boxes.items()
    }
    by_hand = {"own": [3.0, 9.0, 1.0], "all": [0.9, 9.0, 0.09], "part": [1.0, 1.0, 1.0]}
    parity("groundvlp", "grades of three boxes on a map of ten by ten", "counting by hand", [
        (np.array(found[name]), np.array(by_hand[name])) for name in boxes
    ], tolerance=1e-12)  # fmt: skip


def test_the_best_box_is_the_released_one(parity: Any) -> None:
    stored, pairs = np.load(RELEASED), []
    for case in range(6):
        heat, boxes, scores = (stored[f"{name}_{case}"] for name in ("map", "boxes", "scores"))
        grades = [box_grade(heat, tuple(box), score) for box, score in zip(boxes, scores, strict=True)]
        if max(grades) > 0:
            pairs.append((boxes[int(np.argmax(grades))], stored[f"best_{case}"]))
        else:
            assert not stored[f"best_{case}"].any(), "the release answers a box of no area"
    assert len(pairs) == 5
    parity("groundvlp", "the box that wins", SOURCE, pairs, tolerance=0)


def test_a_grade_equals_a_loop_over_pixels() -> None:
    heat = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    box = (1.6, 0.2, 6.9, 8.4)
    total = sum(float(heat[y, x]) for y in range(8) for x in range(1, 6))
    assert box_grade(heat, box, 0.7) == pytest.approx(0.7 * total / (5.3 * 8.2) ** 0.5)


# ------------------------------------------------------------ maps


def test_rows_of_words_are_found_by_their_characters() -> None:
    text = "there is a tall cup"
    offset_L2 = WORDS.offsets(text, 12)[:7]
    found = MatchMap(0.0, np.arange(7, dtype=np.float32)[:, None, None] * np.ones((7, 2, 2), np.float32), offset_L2, (0, 0, 1, 1))
    assert token_mean(found, [(11, 15), (16, 19)])[0, 0] == pytest.approx((0 + 4 + 5) / 3), "two words and the begin mark"
    assert token_mean(found, [])[0, 0] == pytest.approx(3.0), "all tokens where no word can be seen"


def test_words_that_can_be_seen_are_those_of_the_text_and_not_of_its_template() -> None:
    model = Looks()
    answer = pipeline(model=model, layer=4).run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert model.asked == [("there is a the cup", 4)]
    assert answer.words == ("cup",)
    assert answer.heat_HW[10].mean() > 0.4
    assert answer.heat_HW[:2].mean() == pytest.approx(0.5, abs=0.1)
    every = pipeline(rows="all").run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert every.heat_HW[10].mean() < answer.heat_HW[10].mean()


def test_maps_are_laid_over_the_part_that_was_seen() -> None:
    grid = np.arange(4, dtype=np.float32).reshape(2, 2)
    whole = upsampled(grid, (0.0, 0.0, 1.0, 1.0), 6, 8)
    expected = F.interpolate(torch.from_numpy(grid)[None, None], size=(6, 8), mode="bicubic", align_corners=False)[0, 0]
    np.testing.assert_allclose(whole, expected.numpy())
    crop = upsampled(grid, (0.25, 0.0, 0.75, 1.0), 6, 8)
    assert not crop[:, :2].any()
    assert not crop[:, 6:].any()
    assert crop[:, 2:6].any()
    padded = upsampled(grid, (0.0, -0.5, 1.0, 1.5), 6, 8)
    square = F.interpolate(torch.from_numpy(grid)[None, None], size=(12, 8), mode="bicubic", align_corners=False)[0, 0]
    np.testing.assert_allclose(padded, square.numpy()[3:9])
    with pytest.raises(ShapeError, match="expected an area"):
        upsampled(grid, (0.5, 0.0, 0.5, 1.0), 6, 8)


# ------------------------------------------------------------ candidates


def test_agent_and_category() -> None:
    assert [head_noun(text) for text in ("the man with two dogs", "wooden chairs", "running")] == ["man", "chairs", ""]
    by_name = pipeline(names=("cup", "person", "chair"))
    assert [by_name.category_of(word) for word in ("cup", "chairs", "mug", "")] == ["cup", "chair", "", ""]
    by_text = pipeline(names=("cup", "person"), embedder=Alike())
    assert [by_text.category_of(word) for word in ("mug", "man")] == ["cup", "person"]
    assert len(pipeline().categories()) == 80


def test_thresholds_for_given_and_for_predicted_categories() -> None:
    detector = Proposes()
    given = pipeline(detector=detector).run(ReferringExpression(PICTURE, "the thing", category="cup"))
    assert [region.score for region in given.regions] == [0.9, 0.2]
    assert detector.asked == [("cup",)]
    at_least = pipeline(least_given=0.2).run(ReferringExpression(PICTURE, "the thing", category="cup"))
    assert [region.score for region in at_least.regions] == [0.9], "above it, as the released detector leaves boxes out"
    predicted = pipeline().run(ReferringExpression(PICTURE, "the cup"))
    assert [region.score for region in predicted.regions] == [0.9]
    assert predicted.category == "cup"
    nothing = pipeline(names=("cup", "person")).run(ReferringExpression(PICTURE, "the dog"))
    assert [(region.label, region.score) for region in nothing.regions] == [("cup", 1.0), ("cup", 1.0), ("person", 1.0)]
    strict = pipeline(least_given=0.95).run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert [region.score for region in strict.regions] == [1.0, 1.0] or len(strict.regions) == 3
    halved = pipeline(least_given=0.95, halve=True).run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert [region.score for region in halved.regions] == [0.9]


def test_map_and_score_weigh_together() -> None:
    """The lower cup is where the word looks; at equal scores it wins, at its own score of 0.2 the map decides by how much."""
    answer = pipeline().run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert answer.best == 0
    detector = Proposes()
    detector.regions = (Region((0.0, 0.0, 16.0, 4.0), "cup", score=0.5), Region((0.0, 8.0, 16.0, 12.0), "cup", score=0.5))
    equal = pipeline(detector=detector).run(ReferringExpression(PICTURE, "cup cup", category="cup"))
    assert equal.best == 1
    assert equal.grades[1] > equal.grades[0]


def test_it_grounds_phrases_for_every_protocol() -> None:
    made = pipeline()
    assert isinstance(made, Grounder)
    assert isinstance(made, Pipeline)
    query = PhraseQuery.of(["the cup", "the person"])
    (row,) = made.ground([PICTURE], [query], top=1)
    assert [answer.box_N4.shape for answer in row] == [(1, 4), (1, 4)]
    assert row[1].box_N4[0, 1] == 4.0


# ------------------------------------------------------------ models


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cup", "there", "is", "the", "left"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 12, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48}
    torch.manual_seed(0)
    config = transformers.BlipConfig(text_config=text, vision_config={**vision, "patch_size": 16}, image_text_hidden_size=8)
    transformers.BlipForImageTextRetrieval(config).eval().save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_maps_of_blip_are_attention_times_gradient(blip: Path, parity: Any) -> None:
    """Against transformers' own attention, and its gradient by nudging each share."""
    import transformers

    model = open_matcher(f"hf:{blip}")
    assert isinstance(model, BlipMatcher)
    assert isinstance(model, MatchMapper)
    image = ArrayImage(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8), "noise")
    (found,) = model.map_match(image, ["there is a red cup"])
    assert found.weight_LHW.shape == (7, 3, 3)
    assert found.offset_L2[3].tolist() == [9, 10]
    assert found.score == pytest.approx(float(model.score_pairs([image], ["there is a red cup"], query="text")[0, 0]), abs=1e-5)

    theirs = transformers.BlipForImageTextRetrieval.from_pretrained(blip).double().eval()
    given = transformers.AutoTokenizer.from_pretrained(blip)(["there is a red cup"], return_tensors="pt")
    pixels = model.preprocess([image.pixels_HWC]).double()
    reading = theirs.text_encoder.encoder.layer[2].crossattention.self
    kept: dict[str, Any] = {}

    def nudged(nudge: Any) -> Any:
        def dropout(share: Any) -> Any:
            kept["share"] = share
            return share + nudge

        return dropout

    def logit(nudge: Any) -> float:
        reading.dropout.forward = nudged(nudge)
        with torch.no_grad():
            return float(
                theirs(input_ids=given["input_ids"], pixel_values=pixels, attention_mask=given["attention_mask"]).itm_score[0, 1]
            )

    logit(0.0)
    share, step = kept["share"].clone(), 1e-5
    grad = torch.zeros_like(share)
    for place in np.ndindex(*share.shape):
        nudge = torch.zeros_like(share)
        nudge[place] = step
        grad[place] = (logit(nudge) - logit(-nudge)) / (2 * step)
    by_hand = (share * grad.clamp(min=0)).mean(1)[0, :, 1:].reshape(7, 3, 3)
    parity("groundvlp", "maps of a BLIP for retrieval", "transformers' attention, gradients by finite differences", [
        (found.weight_LHW, by_hand)
    ], tolerance=1e-6)  # fmt: skip


def test_a_blip_by_address_is_opened_with_its_matching_head(blip: Path) -> None:
    made: Any = start("groundvlp", {"model": f"hf:{blip}", "detector": Proposes(), "embedder": None})
    assert isinstance(made.model, BlipMatcher)
    assert made.run(ReferringExpression(PICTURE, "the red cup", category="cup")).best is not None
    with pytest.raises(ConfigError, match=r"layer is 9 \(expected 0..2"):
        made.model.map_match(PICTURE, ["a cup"], layer=9)


def test_fiber_gives_maps_too() -> None:
    from diptych.recipes.grounding.fiber import FIBER
    from diptych.worlds.scenes.world import scenes

    recipe = replace(
        FIBER.tiny(), caption=0.0, image_size=32, swin_width=8, swin_depths=(1, 2, 1), swin_heads=(1, 2, 2), text_width=32,
        text_layers=3, text_heads=2, fused_layers=2, width=32, pieces=320, queue=0,
    ).prepare(scenes(8))  # fmt: skip
    torch.manual_seed(0)
    model = recipe.model()
    for name, parameter in model.named_parameters():
        if name.endswith("alpha_1"):
            parameter.data.fill_(1.0)
    answer = pipeline(model=recipe.deploy(model.eval())).run(ReferringExpression(PICTURE, "the cup", category="cup"))
    assert answer.heat_HW.shape == (12, 16)
    assert np.isfinite(answer.grades).all()
    assert answer.heat_HW.std() > 0


# ------------------------------------------------------------ what is said and drawn


def test_the_picture_shows_map_and_boxes() -> None:
    answer = pipeline().run(ReferringExpression(PICTURE, "the cup", category="cup"))
    drawn = answer.picture()
    assert drawn.shape == (360 + 26, 960, 3)
    assert drawn.dtype == np.uint8
    left, right = drawn[:360, :480].astype(int), drawn[:360, 480:].astype(int)
    hot, cold = left[330:350, 100:300].mean((0, 1)), left[150:200, 100:300].mean((0, 1))
    assert np.abs(hot - 200).max() > np.abs(cold - 200).max() + 20, "colour is where the word looks"
    assert (right != 200).any()
    with pytest.raises(ShapeError, match="expected one size"):
        heat_picture(PICTURE.pixels_HWC, np.zeros((3, 3), np.float32), "", (), None)
    assert "0.9" in " ".join(answer.lines())
    assert json.loads(json.dumps(answer.to_json()))["best"] == answer.best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "there is"}, "expected one {}"),
        ({"weighing": "median"}, "weighing is 'median'"),
        ({"least_given": -1.0}, "least_given is -1.0"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**changes)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(DataError, match="the text is empty"):
        pipeline().run(ReferringExpression(PICTURE, " "))
    assert main_words("on the") == ()


def test_the_command_asks_and_draws(blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import diptych.tasks.roles as roles

    opened = roles.open_address
    monkeypatch.setattr(
        roles, "open_address", lambda address, **options: Proposes() if address == "boxes" else opened(address, **options)
    )
    Image.fromarray(np.full((48, 48, 3), 90, np.uint8)).save(tmp_path / "cup.png")
    out = tmp_path / "drawn.png"
    asked = ["--image", str(tmp_path / "cup.png"), "--text", "the red cup", "--category", "cup", "--layer", "1"]
    arguments = ["run", "groundvlp", "--model", f"hf:{blip}", "--detector", "boxes", *asked, "--out", str(out), "--json"]
    assert main(arguments) == 0
    assert len(json.loads(capsys.readouterr().out)["candidates"]) == 2
    assert Image.open(out).size == (960, 506)
    assert main([*arguments[:-3], "--out", "x.gif"]) != 0
    assert "ends in .png" in capsys.readouterr().err
