"""Phrases to boxes, and the detector as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ArrayImage
from diptych.data.graphs.grounded import TokenRegions
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.spans import SpanText
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.phrase_detector import PhraseDetector, PhrasePrompt
from diptych.models.io.saved_model import open_model
from diptych.models.towers.towers import text_tower

SHAPE = GroundingConfig(
    queries=5, width=32, heads=4, mlp_width=32, encoder_layers=1, decoder_layers=1, levels=2, fusion_before=(0,),
    fusion_width=32, language_heads=2, language_mlp=32,
)  # fmt: skip
NAMES = ("red cup", "plate", "a box on the table")


def detector(seed: int = 0, length: int = 24, **prompt: Any) -> PhraseDetector:
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train([*NAMES, "Detect: the left of. "] * 2, 300)
    text = text_tower("text_micro", vocab_size=tokenizer.vocab_size, length=length, width=16, layers=1, heads=2)
    model = GroundingDetector(detection_backbone("conv_tiny", widths=(8, 16, 16)), text, SHAPE)
    return PhraseDetector(
        model, tokenizer, length, DetectionPreprocess(48, longest=64, stride=16), "small", prompt=PhrasePrompt(**prompt)
    )


def images(*sizes: tuple[int, int]) -> list[ArrayImage]:
    generator = np.random.default_rng(0)
    return [ArrayImage(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_it_answers_both_capabilities_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    made = detector()
    assert isinstance(made, Detector)
    assert isinstance(made, Grounder)
    made.save(tmp_path / "model")
    again = open_model(tmp_path / "model")
    assert again.fingerprint == made.fingerprint
    assert again.prompt == made.prompt
    query = SpanText.from_phrases("the red cup left of a plate", {0: "red cup", 1: "plate"}).query()
    pictures = images((40, 60), (50, 30))
    for ours, theirs in zip(made.ground(pictures, [query] * 2), again.ground(pictures, [query] * 2), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.box_N4, other.box_N4)
            np.testing.assert_array_equal(one.score_N, other.score_N)


def test_phrases_of_a_batch_are_scored_by_their_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's answer is made up: query q says token t exactly where q == t, counted from the start mark."""
    made = detector()
    queries = [
        SpanText.from_phrases("a plate", {0: "plate"}).query(),
        SpanText.from_phrases("a red cup on a plate", {"cup": "red cup", "plate": "plate"}).query(["plate", "cup"]),
    ]

    def said(self: Any, image: torch.Tensor, text_BL: torch.Tensor, mask_BL: torch.Tensor, **_: Any) -> TokenRegions:
        length = text_BL.shape[1]
        logit_QL = torch.full((length, length), -30.0).fill_diagonal_(30.0)
        box_Q4 = torch.tensor([[0.5, 0.5, 0.2, 0.4]]).expand(length, 4).clone()
        box_Q4[:, 0] = torch.arange(length) / 100 + 0.3
        return TokenRegions(box_Q4[None, None].expand(2, 1, -1, -1), logit_QL[None, None].expand(2, 1, -1, -1), mask_BL)

    monkeypatch.setattr(GroundingDetector, "forward", said)
    first, second = made.ground(images((40, 60), (50, 30)), queries)
    for grounded, text, words in (
        (first[0], queries[0].text, "plate"),
        (second[0], queries[1].text, "plate"),
        (second[1], queries[1].text, "red cup"),
    ):
        (inside_L,) = SpanText.from_phrases(text, {0: words}).tokens(made.tokenizer.offsets(text, 24)).values()
        count = int(inside_L.sum())
        np.testing.assert_allclose(grounded.score_N[:count], 1 / count, rtol=1e-5)
        np.testing.assert_allclose(grounded.score_N[count:], 0, atol=1e-9)
    # cxcywh (0.3 + token / 100, 0.5, 0.2, 0.4) of a picture 60 wide and 40 high
    token = np.flatnonzero(SpanText.from_phrases("a plate", {0: "plate"}).tokens(made.tokenizer.offsets("a plate", 24))[0])[0]
    np.testing.assert_allclose(first[0].box_N4[0], [(0.2 + token / 100) * 60, 12, (0.4 + token / 100) * 60, 28], rtol=1e-5)


def test_names_are_put_into_as_few_texts_as_fit() -> None:
    made = detector()
    assert [query.text for query in made._texts(NAMES)] == ["Detect: red cup. plate. a box on the table. "]
    assert [query.words() for query in detector(together=2)._texts(NAMES)] == [["red cup", "plate"], ["a box on the table"]]
    short = [query.words() for query in detector(length=12)._texts(NAMES)]
    assert [name for row in short for name in row] == list(NAMES)
    assert len(short) > 1
    found = detector(together=1).detect(images((40, 60)), objects=NAMES, top=7)
    apart = [detector().ground(images((40, 60))[0], PhrasePrompt(together=1).query([name]))[0] for name in NAMES]
    best = sorted((float(score) for answer in apart for score in answer.score_N), reverse=True)[:7]
    assert [region.score for region in found[0].regions] == pytest.approx(best)
    assert {region.label for region in found[0].regions} <= set(NAMES)


def test_one_image_alone_gets_one_answer() -> None:
    (answer,) = detector().ground(images((40, 60))[0], PhraseQuery.of(["plate"]), top=3)
    assert answer.box_N4.shape == (3, 4)
    assert (np.diff(answer.score_N) <= 0).all()


def test_what_cannot_be_asked_says_what_would_work() -> None:
    made, (picture,) = detector(length=8), images((40, 60))
    with pytest.raises(DataError, match="cannot read the phrase 'plate'"):
        made.ground([picture], [SpanText.from_phrases("a red cup on the table left of a plate", {0: "plate"}).query()])
    with pytest.raises(DataError, match="1 images but 2 queries"):
        made.ground([picture], [PhraseQuery.of(["cup"])] * 2)
    with pytest.raises(DataError, match="at least one phrase"):
        made.detect([picture], objects=[])
    with pytest.raises(ConfigError, match="does not predict relations"):
        made.detect([picture], objects=["cup"], relations=["on"])
    with pytest.raises(DataError, match="no phrase to locate"):
        PhraseQuery("a cup", ())
    with pytest.raises(DataError, match="phrase 1 is empty"):
        PhraseQuery.of(["cup", " "])
    with pytest.raises(DataError, match=r"the span \(2, 9\)"):
        PhraseQuery("a cup", (((2, 9),),))
    with pytest.raises(DataError, match="has no characters"):
        PhraseQuery("a cup", ((),))


def test_boxes_without_area_are_no_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = PhraseBoxes(np.array([[3, 3, 3, 9], [1, 1, 4, 4]], np.float32), np.array([0.9, 0.2], np.float32))
    monkeypatch.setattr(PhraseDetector, "ground", lambda self, images, queries, **_: [[flat]])
    (graph,) = detector().detect(images((40, 60)), objects=["cup"])
    assert [region.box for region in graph.regions] == [(1, 1, 4, 4)]
