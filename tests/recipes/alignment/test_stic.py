"""STIC: pairs of its own descriptions, the regulariser, released scoring, descriptions before questions, stages that resume, sizes."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych
from diptych.core.errors import ConfigError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.media.augment.corruptions import corrupt_image
from diptych.data.shards.build import open_built
from diptych.data.text.prompts.comprehension_prompts import IMAGINATIVE, NEUTRAL, STEP_BY_STEP, with_description
from diptych.data.text.question_answering.preferences import PreferencePair, preference_of
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.towers.adapters import MARK
from diptych.recipes._shared.language.preference_config import CandidateOptions
from diptych.recipes._shared.language.self_descriptions import (
    DescriptionRequests,
    SelfMadePairs,
    careless_plan,
    described_sample,
)
from diptych.recipes.alignment.stic import STIC
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.claimed_pairs import claimed_pairs

DATA = claimed_pairs(24, seed=0).remembering()
OPTIONS = TrainOptions(progress=False, log_every=1, save_every=1, keep=9, precision="fp32", seed=3, device="cpu")
SMALL: dict[str, Any] = {"small_steps": 2, "image_weights": "", "image_tower": "vit_micro", "image_size": 48, "batch_size": 4}


def small(**changes: Any) -> STIC:
    sampling = CandidateOptions(candidates=1, temperature=1.5, answer_tokens=6, at_once=4)
    made = replace(STIC.tiny(), **SMALL, steps=8, instruct_batch_size=4, pair_batch_size=4, answer_batch_size=4, start_share=0.3)
    return replace(made, sampling=sampling, images=8, answer_rows=6, **changes)


@pytest.fixture(scope="module")
def prepared() -> STIC:
    made = small().prepare(DATA)
    assert isinstance(made, STIC)
    return made


def test_a_stopped_run_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    whole = fit(small(), DATA, tmp_path / "whole", OPTIONS)
    lines = list(whole.metrics())
    first = next(line for line in lines if line["kind"] == "train" and "preference" in line)
    assert first["preference"] == pytest.approx(np.log(2), abs=1e-4)
    assert first["chosen"] == pytest.approx(-first["chosen_log_prob"] / 1024, rel=1e-4)
    assert [line["images"] for line in lines if line["kind"] == "pairs"] == [8]
    original, calls = SelfMadePairs.described, [0]

    def described(self: Any, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("stopped")
        return original(self, *given)

    monkeypatch.setattr(SelfMadePairs, "described", described)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(small(), DATA, tmp_path / "broken", OPTIONS)
    again = resume(tmp_path / "broken", DATA)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()
    pairs, answers = (open_built(whole.path / "stages" / name) for name in ("02-descriptions", "03-answers"))
    assert {preference_of(sample).question for sample in pairs} == {"what is there ?"}
    texts = [questions_of(sample)[0].text for sample in answers]
    assert all(text.startswith("Image description:\n") for text in texts)
    assert [questions_of(sample)[1].text.startswith("Image") for sample in answers] == [False] * len(answers)


def test_released_scoring_takes_the_likeliest_other_token(prepared: STIC) -> None:
    recipe = replace(prepared, released_scoring=True).paired()
    torch.manual_seed(0)
    model = recipe.model().eval()
    pairs = Pool.from_samples(
        [
            replace(
                DATA[row],
                extras={"preference": PreferencePair("what is there ?", "a red cross", f"a blue circle {row}").to_json()},
            )
            for row in range(4)
        ]
    )
    (step,) = batches(pairs, recipe, seed=0, stop=1)
    with torch.no_grad():
        features = recipe.features(model, step.batch)
        plain = replace(prepared.paired(), released_scoring=False)
        true_B = -plain.features(model, step.batch).nll_B
        score_B = recipe.row_scores(features)
        embed_BLD, _ = model.embed(model.picture(step.batch.image_BCHW), step.batch.layout)
        logit_BLV = model.language.inner(
            inputs_embeds=embed_BLD, attention_mask=step.batch.mask_BL.long(), position_ids=step.batch.layout.positions()
        ).logits
    torch.testing.assert_close(score_B[::2], true_B[::2])
    for row in range(1, 8, 2):
        total = 0.0
        for column in step.batch.answer_BL[row].nonzero()[:, 0].tolist():
            log_V = logit_BLV[row, column - 1].log_softmax(0).clone()
            log_V[step.batch.id_BL[row, column]] = -torch.inf
            total += float(log_V.max())
        assert float(score_B[row]) == pytest.approx(total, rel=1e-4)


def test_no_pair_is_said_in_words_of_its_options(prepared: STIC) -> None:
    with pytest.raises(
        ConfigError, match=r"'stic' found no pair of answers to learn from \(expected images whose two descriptions"
    ):
        prepared.with_references(None, [])  # type: ignore[arg-type]


def test_equal_descriptions_stay_a_pair_and_empty_ones_do_not(prepared: STIC) -> None:
    made = SelfMadePairs(prepared.paired(), prepared.requests, prepared.sampling, 1)
    row = {"question": "what is there ?", "chosen": "a red cross", "rejected": "a red cross"}
    same = made.pair(DATA[0], row)
    assert same is not None
    assert preference_of(same).chosen == preference_of(same).rejected == "a red cross"
    assert made.pair(DATA[0], row | {"rejected": " "}) is None


def test_requests_are_the_published_ones() -> None:
    made = json.dumps([STEP_BY_STEP, list(NEUTRAL), list(IMAGINATIVE)]).encode()
    assert hashlib.sha256(made).hexdigest() == "18192dd25fe29c4a8591e984f64474da683e689ec73046327912b814232a4cbf"


def test_half_of_the_careless_descriptions_are_imagined_and_half_of_the_rest_shrunk() -> None:
    requests, rng = STIC.paper().requests, np.random.default_rng(0)
    plans = [careless_plan(requests, rng) for _ in range(2000)]
    imagined = [plan for plan in plans if plan.imaginative]
    assert 0.45 < len(imagined) / 2000 < 0.55
    assert not any(plan.corruption for plan in imagined)
    corrupted = [plan for plan in plans if not plan.imaginative]
    assert 0.45 < sum(plan.corruption == "shrink" for plan in corrupted) / len(corrupted) < 0.55
    assert {plan.neutral for plan in plans} == set(NEUTRAL)
    with pytest.raises(ConfigError, match="no request"):
        DescriptionRequests("careful", ())


def test_corrupted_images_are_torchvisions() -> None:
    from PIL import Image
    from torchvision.transforms import ColorJitter, Resize

    image_HWC = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    assert corrupt_image(image_HWC, "shrink", np.random.default_rng(0)).shape == (30, 20, 3)
    assert np.array_equal(
        corrupt_image(image_HWC, "shrink", np.random.default_rng(0)), np.asarray(Resize(20)(Image.fromarray(image_HWC)))
    )
    before = torch.random.get_rng_state()
    made = corrupt_image(image_HWC, "colours", np.random.default_rng(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(int(np.random.default_rng(0).integers(2**31)))
    assert np.array_equal(made, np.asarray(ColorJitter(brightness=0.5, hue=0.3)(Image.fromarray(image_HWC))))
    with pytest.raises(ConfigError, match="hue"):
        corrupt_image(image_HWC, "colours", np.random.default_rng(0), hue=0.7)


def test_the_model_describes_before_it_answers(prepared: STIC, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prepared.model().eval()
    plain, describing = prepared.deploy(model), replace(prepared, describes_first=True, request="").deploy(model)
    images = [DATA[0].image, DATA[1].image]
    (first, second) = plain.generate(images, ["what is there ?"] * 2, max_tokens=6)
    questions = ["is there a red cross top ?", "is there a circle ?"]
    behind = [with_description(question, text) for question, text in zip(questions, (first, second), strict=True)]
    expected = plain.generate(images, behind, max_tokens=4)
    assert describing.generate(images, questions, max_tokens=4) == expected
    first_answer = plain.generate(images[0], with_description(questions[0], first), max_tokens=6)
    assert (
        diptych.ask(plain, images[0], questions[0], describe="what is there ?", description_tokens=6, max_tokens=6)
        == first_answer
    )
    with pytest.raises(ConfigError, match="without an image"):
        diptych.ask(plain, None, questions[0], describe="what is there ?")
    ranked = describing.answer_nll(images, questions, [["yes", "no"]] * 2)
    np.testing.assert_allclose(ranked, plain.answer_nll(images, behind, [["yes", "no"]] * 2), rtol=1e-5)
    assert describing.generate(images, ["what is there ?"] * 2, max_tokens=6) == [first, second]
    describing.save(tmp_path / "model")
    again = diptych.load(tmp_path / "model")
    assert again.generate(images, questions, max_tokens=4) == expected


def test_a_description_stands_before_the_first_question_alone() -> None:
    made = described_sample(DATA[0], "Two things.")
    asked, given = questions_of(made), questions_of(DATA[0])
    assert asked[0].text == f"Image description:\nTwo things.\n\n{given[0].text}"
    assert asked[1:] == given[1:]
    assert described_sample(DATA[0], "") is DATA[0]


def test_adapters_learn_in_both_stages_and_the_projector_in_the_second(prepared: STIC) -> None:
    from diptych.train.optimise import freeze

    first, second = (stage.recipe for stage in prepared.stages()[-2:])
    for recipe, projector in ((first, False), (second, True)):
        model = recipe.model()
        freeze(model, recipe.optimiser())
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert any(MARK in name for name in names)
        assert any(name.startswith("connector") for name in names) == projector
        assert all(MARK in name or name.startswith("connector") for name in names)


@pytest.mark.parametrize("share", [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_signal_stops_between_descriptions_and_the_run_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    recipe = replace(small(), start_share=share)
    whole = fit(recipe, DATA, tmp_path / "whole", OPTIONS)
    described, calls = SelfMadePairs.described, list[int]()

    def interrupted(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return described(self, *given)

    monkeypatch.setattr(SelfMadePairs, "described", interrupted)
    broken = fit(recipe, DATA, tmp_path / "broken", OPTIONS)
    assert len(calls) == 1, "of two parts"
    assert (broken.state["status"], broken.state["signal"]) == ("stopped", signal.SIGINT)
    run = resume(broken.path, DATA, kind=STIC)
    assert len(calls) == 2
    assert (whole.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()


def test_the_published_configuration() -> None:
    made = STIC.paper()
    assert (made.loss.chosen_weight, made.loss.beta, made.pair_lr, made.pair_batch_size) == (1 / 1024, 0.1, 1e-7, 8)
    assert (made.tuned.adapter_rank, made.tuned.adapter_alpha, made.tuned.adapter_dropout) == (128, 256.0, 0.0)
    stages = made.stages()
    assert [stage.name for stage in stages] == ["descriptions", "answers"]
    assert [round(stage.share * made.steps) for stage in stages] == [750, 157]
    assert stages[1].recipe.tuned.adapter_dropout == 0.05
    assert (stages[1].recipe.lr, stages[1].recipe.batch_size) == (2e-5, 32)
    assert [stage.recipe.group_by_length for stage in stages] == [False, True]  # type: ignore[attr-defined]
    assert [stage.recipe._resize for stage in stages] == ["square", "square"]  # type: ignore[attr-defined]
