"""RLAIF-V: rounds in one run that go on wherever they were stopped, stored and living references, labels by likelihood, sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.curate.preferences.mining import PairOptions
from diptych.curate.preferences.yes_no import YesNoLabeler
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.shards.build import open_built
from diptych.data.text.question_answering.preferences import PreferencePair, preference_of
from diptych.models.towers.adapters import MARK
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_config import CandidateOptions, LabelOptions, PreferenceLoss
from diptych.recipes._shared.language.preference_pairs import carry_beneath_adapters
from diptych.recipes._shared.language.preference_rounds import PreferenceRound
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe
from diptych.recipes.alignment.rlaif_v import RLAIFV
from diptych.train.fit import fit, resume
from diptych.train.optimise import freeze
from diptych.train.options import TrainOptions
from diptych.worlds.claimed_pairs import claimed_pairs

DATA = claimed_pairs(24, seed=0).remembering()
OPTIONS = TrainOptions(progress=False, log_every=1, save_every=1, keep=9, precision="fp32", seed=3, device="cpu")
SMALL: dict[str, Any] = {"small_steps": 2, "image_weights": "", "image_tower": "vit_micro", "image_size": 48, "batch_size": 4}


def small(**changes: Any) -> RLAIFV:
    candidates = CandidateOptions(candidates=3, temperature=1.5, answer_tokens=6, instructions=6, at_once=3)
    mining = PairOptions(soft=True, difference=1e-6)
    made = replace(RLAIFV.tiny(), **SMALL, steps=6, instruct_batch_size=4, pair_batch_size=4, start_share=0.3, pair_lr=1e-3)
    return replace(made, sampling=candidates, mining=mining, **changes)


def pool_of_pairs(count: int = 6) -> Pool:
    samples = []
    for row in range(count):
        pair = PreferencePair("what is there ?", DATA[row].texts[0].string, DATA[row + 1].texts[0].string)
        samples.append(replace(DATA[row], extras={"preference": pair.to_json()}))
    return Pool.from_samples(samples, name="pairs")


@pytest.fixture(scope="module")
def prepared() -> RLAIFV:
    made = small().prepare(DATA)
    assert isinstance(made, RLAIFV)
    return made


def stop_within(monkeypatch: Any, calls: int) -> None:
    """The next run breaks when it judges its candidates for the `calls`-th time, and never again."""
    original, count = PreferenceRound.judge, [0]

    def judge(self: Any, *given: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            raise RuntimeError("stopped")
        return original(self, *given)

    monkeypatch.setattr(PreferenceRound, "judge", judge)


def test_a_run_stopped_within_a_round_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    whole = fit(small(), DATA, tmp_path / "whole", OPTIONS)
    begun = [line for line in whole.metrics() if line["kind"] == "train" and "preference" in line]
    assert begun[0]["preference"] == pytest.approx(np.log(2), abs=1e-4)
    rounds = [line for line in whole.metrics() if line["kind"] == "pairs"]
    assert [line["round"] for line in rounds] == [1, 2]
    stop_within(monkeypatch, 4)  # the second part of the second round
    with pytest.raises(RuntimeError, match="stopped"):
        fit(small(), DATA, tmp_path / "broken", OPTIONS)
    again = resume(tmp_path / "broken", DATA)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()
    pairs = [open_built(run.path / "stages/03-round2") for run in (whole, again)]
    assert [sample.extras for sample in pairs[0]] == [sample.extras for sample in pairs[1]]
    assert all(preference_of(sample).reference for sample in pairs[0])


def trained(recipe: RLAIFV, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Weights and the last loss after three steps on given pairs."""
    run = fit(replace(recipe, rounds=0, start_share=0.0), pool_of_pairs(), folder, replace(OPTIONS, steps=3, save_every=0))
    return load_file(run.model / "model.safetensors"), [line["loss"] for line in run.metrics() if line["kind"] == "train"][-1]


def test_a_stored_reference_is_a_living_one(tmp_path: Path, parity: Any) -> None:
    stored = trained(small(pair_lr=0.01), tmp_path / "stored")
    living = trained(small(pair_lr=0.01, loss=PreferenceLoss(reference="model")), tmp_path / "living")
    assert abs(stored[1] - np.log(2)) > 0.01
    pairs = [(stored[0][name], living[0][name]) for name in stored[0]] + [(np.array(stored[1]), np.array(living[1]))]
    parity("rlaif_v", "weights after three steps, reference stored", "a frozen copy asked in every step", pairs, tolerance=1e-4)


def test_pairs_are_scored_as_llava_scores_answers(prepared: RLAIFV) -> None:
    torch.manual_seed(0)
    recipe = prepared.paired()
    model = recipe.model().eval()
    (step,) = batches(pool_of_pairs(), recipe, seed=0, stop=1)
    assert len(step.batch) == 2 * recipe.batch_size
    assert step.batch.reference_B is None
    with torch.no_grad():
        features = recipe.features(model, step.batch)
    deployed = recipe.deploy(model)
    pool = pool_of_pairs()
    texts = {tuple(preference_of(sample).to_json().items()): sample for sample in pool}
    nlls = []
    for sample in texts.values():
        pair = preference_of(sample)
        nlls.append(deployed.answer_nll([sample.image], [pair.question], [[pair.chosen, pair.rejected]])[0][:, 0])
    found = features.nll_B.reshape(-1, 2).double().numpy()
    for row in found:
        assert min(np.abs(np.stack(nlls) - row).max(1)) < 1e-3
    with pytest.raises(DataError, match="no log-probabilities of a reference"):
        recipe.losses(features, step.batch)


def test_earlier_turns_are_read_and_not_scored(prepared: RLAIFV) -> None:
    pair = PreferencePair("is there a red cross top ?", "yes", "no", turns=(("what is there ?", "a red cross top"),))
    sample = replace(DATA[0], extras={"preference": pair.to_json()})
    recipe = replace(prepared.paired(), batch_size=1)
    (step,) = batches(Pool.from_samples([sample]), recipe, seed=0, stop=1)
    words = recipe.words()
    answers = [words.decode(ids[mask].tolist()) for ids, mask in zip(step.batch.id_BL, step.batch.answer_BL, strict=True)]
    assert answers == ["yes", "no"]


def test_first_tokens_are_those_of_generate(prepared: RLAIFV, parity: Any) -> None:
    """The scores that transformers' `generate` gives for the first token, as the released labeler reads them."""
    torch.manual_seed(1)
    deployed = prepared.deploy(prepared.model().eval())
    questions = ["is there a red cross", "is there a blue square top left"]
    images = [DATA[0].image, DATA[1].image]
    labeler = YesNoLabeler(deployed, "{question} ?")
    found = labeler(images, questions)
    rows = deployed._asked(images, [f"{question} ?" for question in questions])
    with torch.no_grad():
        embed_BLD, layout = deployed._read(rows, 1)
        written = deployed.bridge.language.inner.generate(
            inputs_embeds=embed_BLD, attention_mask=layout.mask_BL.long(), max_new_tokens=1, do_sample=False,
            output_scores=True, return_dict_in_generate=True, repetition_penalty=1.2,
        )  # fmt: skip
    chance_BV = written.scores[0].softmax(1)
    ids = {word: words[0] for word in ("yes", "Yes", "no", "No") if len(words := deployed.vocabulary.pieces(" " + word)) == 1}
    assert {"yes", "no"} <= ids.keys()
    theirs = torch.stack(
        [sum(chance_BV[:, ids[word]] for word in pair if word in ids) for pair in (("yes", "Yes"), ("no", "No"))], 1
    )
    parity("rlaif_v", "probabilities of yes and no", "scores of transformers' generate", [(found, theirs)], tolerance=1e-6)


def test_adapters_begin_as_the_model_beneath_and_are_merged(prepared: RLAIFV) -> None:
    recipe = replace(prepared, tuned=AdapterConfig(adapter_rank=2, adapter_dropout=0.0)).paired()
    torch.manual_seed(0)
    before, after = VisualInstructionRecipe.model(prepared), recipe.model()
    carry_beneath_adapters(before, after)
    (step,) = batches(pool_of_pairs(), recipe, seed=0, stop=1)
    with torch.no_grad():
        first, second = (recipe.features(one.eval(), step.batch).nll_B for one in (before, after))
    torch.testing.assert_close(first, second)
    learns = [name for name, parameter in after.named_parameters() if parameter.requires_grad]
    assert learns
    assert all(MARK in name for name in learns)
    for name, parameter in after.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    plain = VisualInstructionRecipe.model(prepared).eval()
    carry_beneath_adapters(after, plain)
    with torch.no_grad():
        torch.testing.assert_close(
            recipe.features(plain, step.batch).nll_B, recipe.features(after, step.batch).nll_B, rtol=1e-4, atol=1e-3
        )


def test_what_cannot_be_learned_from_is_named(prepared: RLAIFV, tmp_path: Path) -> None:
    alike = replace(small(), mining=PairOptions(difference=100.0))
    with pytest.raises(ConfigError, match="found no pair of answers"):
        fit(alike, DATA, tmp_path / "alike", OPTIONS)
    with pytest.raises(DataError, match="no pair of answers"):
        prepared.paired().load(Sample("a"), np.random.default_rng(0))
    bare = Pool.from_samples([replace(DATA[row], texts=(), extras={}) for row in range(4)], name="bare")
    with pytest.raises(
        ConfigError, match=r"'bare' has no samples for the stage '\w+' before the pairs \(expected some, or start_share 0"
    ):
        small(language_model="hf:nowhere").prepare(bare)  # before the language model is opened
    with pytest.raises(ConfigError, match="label_prompt"):
        LabelOptions(label_prompt="yes or no?")
    with pytest.raises(ConfigError, match="rounds is -1"):
        replace(RLAIFV.tiny(), rounds=-1)


def test_the_published_configuration() -> None:
    made = RLAIFV.paper()
    assert (made.steps, made.pair_lr, made.pair_batch_size, made.pair_weight_decay) == (10688, 5e-7, 8, 0.01)
    assert (made.loss.beta, made.loss.form, made.sampling.candidates, made.sampling.temperature) == (0.1, "sigmoid", 10, 0.7)
    assert [stage.name for stage in made.stages()] == ["round1", "round2", "round3", "round4"]
    adapted = RLAIFV.lora()
    assert (adapted.pair_lr, adapted.tuned.adapter_rank, adapted.tuned.adapter_alpha) == (1e-5, 64, 16.0)
    assert adapted.adapted_projector


@pytest.mark.parametrize("learns", [False, True])
def test_the_projector_learns_beside_adapters_as_in_the_release(prepared: RLAIFV, learns: bool) -> None:
    recipe = replace(prepared, tuned=AdapterConfig(adapter_rank=2), adapted_projector=learns).paired()
    model = recipe.model()
    freeze(model, recipe.optimiser())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any(MARK in name for name in names)
    assert any(name.startswith("connector.") for name in names) == learns
    assert all(MARK in name or name.startswith("connector.") for name in names)


def test_pairs_are_learned_beside_the_middle_of_an_image_and_answers_written_of_all_of_it(prepared: RLAIFV) -> None:
    assert RLAIFV.paper().pair_resize == RLAIFV.lora().pair_resize == "crop"
    assert RLAIFV.paper().resize == "square"
    pixel_HWC = np.zeros((48, 144, 3), np.uint8)
    pixel_HWC[:, 48:96] = 255
    wide = Sample("wide", ArrayImage(pixel_HWC, "wide"))
    pair = PreferencePair("what is there ?", "a red circle", "a blue cross")
    data = Pool.from_samples([replace(wide, extras={"preference": pair.to_json()})], name="wide")
    recipe = replace(prepared, pair_resize="crop", resize="square", own_pictures=True, pair_batch_size=1).paired()
    (step,) = batches(data, recipe, seed=0, stop=1)
    image_BCHW = step.batch.image_BCHW
    assert float(image_BCHW.std()) < 0.05 * float(image_BCHW.abs().mean()), "white alone, of the middle"
    assert recipe.deploy(recipe.model()).preprocess.resize == "square"
    assert replace(recipe, pair_resize="").preprocess.resize == "square"
