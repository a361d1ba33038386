"""What a trained FIBER answers: every capability after saving, maps of a text, questions and what their answers are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.api import load
from diptych.core.contracts import Draw, Embedder, Generator, MatchMapper, PairScorer
from diptych.core.errors import ConfigError, DataError
from diptych.data.load.stream import batches
from diptych.data.text.question_answering.answer_labels import answer_list, answer_targets
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.models.fiber.released import from_released
from diptych.models.pairs.matching.match_maps import grad_times_attention
from diptych.worlds.scenes.questions import questions

from .test_fiber import randomised, small


def test_any_question_of_a_picture_may_be_asked() -> None:
    sample = questions(4).to_pool()[0]
    known = {question.text for question in questions_of(sample)}
    assert len(known) > 1
    recipe = small(questions=1.0).prepare(questions(4))
    asked = [recipe._drawn_question(Draw(sample, np.random.default_rng(seed))) for seed in range(40)]
    assert {question.text for question in asked if question} == known
    assert recipe._drawn_question(Draw(replace(sample, extras={}), np.random.default_rng(0))) is None


def test_a_question_without_a_listed_answer_is_not_asked() -> None:
    """The released tables leave such questions out."""
    sample = questions(4).to_pool()[0]
    first, *others = questions_of(sample)
    recipe = replace(small(questions=1.0), answers=(first.answer,))
    asked = [recipe._drawn_question(Draw(sample, np.random.default_rng(seed))) for seed in range(40)]
    assert {question.answer for question in asked if question} == {first.answer}
    assert {question.answer for question in others} != {first.answer}
    none = replace(recipe, answers=("an answer of nobody",))
    assert none._drawn_question(Draw(sample, np.random.default_rng(0))) is None


def test_answers_are_worth_what_people_gave() -> None:
    asked = [Question("q", ("red",) * 3 + ("dark red",) * 7), None, Question("q", ("blue",)), Question("q", ("mauve",))]
    worth, there = answer_targets(asked, ("blue", "dark red", "red"), alike=str)
    assert worth.tolist() == [[0.0, 1.0, pytest.approx(0.9)], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert there.tolist() == [1, 0, 1, 1]
    some = [question for question in asked if question]
    assert answer_list(some, least=1, alike=str) == ("blue", "mauve", "red")
    with pytest.raises(DataError, match="no answer is given to 2 questions"):
        answer_list(some, least=2, alike=str)


def test_learns_all_five_terms_and_answers_every_capability(tmp_path: Path) -> None:
    rows = questions(24)
    recipe = small(caption=1.0, questions=1.0).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=1, stop=1)
    losses = recipe.losses(recipe.features(model, step.batch), step.batch)
    assert set(losses) == {"contrastive", "matching", "words", "caption", "questions"}
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    randomised(model)
    deployed = recipe.deploy(model.eval())
    deployed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    for capability in (Embedder, PairScorer, Generator, MatchMapper):
        assert isinstance(again, capability)
    images, asked = [rows[row].image for row in (0, 1)], ["", "what shape is red ?"]
    assert deployed.generate(images, asked, max_tokens=4) == again.generate(images, asked, max_tokens=4)
    assert again.generate(images, asked)[1] in recipe.answers
    scores = again.score_pairs(images, ["a red circle", "a star"], query="text")
    np.testing.assert_allclose(scores, deployed.score_pairs(images, ["a red circle", "a star"], query="text"), atol=1e-6)
    (found,) = again.map_match(images[0], ["a red circle"], layer=0)
    assert found.score == pytest.approx(float(scores[0, 0]), abs=1e-4)
    assert found.weight_LHW.shape == (len(found.offset_L2), 4, 4)
    assert found.weight_LHW.min() >= 0 < found.weight_LHW.max()
    assert "".join("a red circle"[start:stop] for start, stop in found.offset_L2) == "aredcircle"


def test_maps_of_a_text_do_not_depend_on_the_others() -> None:
    recipe = small().prepare(questions(24))
    torch.manual_seed(0)
    model = recipe.model()
    randomised(model)
    deployed, image = recipe.deploy(model.eval()), questions(24)[0].image
    assert image is not None
    (alone,) = deployed.map_match(image, ["a red circle"])
    both = deployed.map_match(image, ["a star", "a red circle"])
    np.testing.assert_allclose(alone.weight_LHW, both[1].weight_LHW, atol=1e-7)
    assert alone.weight_LHW.shape[1:] == (2, 2)
    assert not np.allclose(alone.weight_LHW.mean(), both[0].weight_LHW.mean())


def test_attention_times_gradient_takes_the_positive_part_of_the_gradient_alone() -> None:
    share = torch.rand(1, 2, 3, 4, requires_grad=True)
    weight = torch.randn(1, 2, 3, 4)
    found = grad_times_attention(share, (share * weight).sum())
    by_hand = (share.detach() * weight.clamp(min=0)).sum(1) / 2
    torch.testing.assert_close(found, by_hand)


def test_what_a_model_cannot_do_is_said() -> None:
    recipe = small().prepare(questions(24))
    deployed = recipe.deploy(recipe.model().eval())
    image = questions(24)[0].image
    with pytest.raises(ConfigError, match="trained neither to answer nor to write"):
        deployed.generate([image], [""])
    with pytest.raises(ConfigError, match=r"layer is 7 \(expected 0..1"):
        deployed.map_match(image, ["a star"], layer=7)
    with pytest.raises(ConfigError, match="31 pixels"):
        replace(recipe, image_size=31).model()
    with pytest.raises(DataError, match=r"text_transformer\.embeddings\.word_embeddings\.weight is missing"):
        from_released({"vit_model.norm.weight": torch.zeros(2)}, depths=(1,), text_layers=1, fused=1)
