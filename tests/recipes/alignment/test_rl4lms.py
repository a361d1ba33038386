"""RL4LMs: rollouts of tokens against loops by hand, masks, controllers, warm start, resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import diptych as dp
from diptych.cli.commands.ask import main as ask_command
from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError, DiptychError, RunError
from diptych.data.load.stream import batches
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.policy.language_policy import LanguagePolicy, answer_logits
from diptych.models.policy.sampled_answers import SamplingRules, StepwiseLogits, sample_answers
from diptych.objectives.policy.action_masks import drawn_actions, top_p_mask
from diptych.recipes._shared.text_policy.grue import TASKS
from diptych.recipes._shared.text_policy.prompted_text import PromptBatch
from diptych.recipes._shared.text_policy.token_transitions import AnswerEpisodes, transitions
from diptych.recipes.alignment import rl4lms as module
from diptych.recipes.alignment.rl4lms import RL4LMs
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

DATA = scenes(24, seed=0, lengths=("short",), negatives=False).remembering()
OPTIONS = TrainOptions(progress=False, log_every=1, save_every=1, keep=9, precision="fp32", seed=3)
TINY = replace(
    RL4LMs.tiny(), small_steps=2, batch_size=4, max_tokens=8, minibatch=16, passes=2, steps=2,
    ppo=replace(RL4LMs.tiny().ppo, transitions=40, kl_target=0.5), masks=replace(RL4LMs.tiny().masks, refresh=1),
)  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
T5 = {"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
T5["decoder_start_token_id"] = 0


@pytest.fixture(scope="module")
def prepared() -> RL4LMs:
    return TINY.prepare(DATA)


def rolled(recipe: RL4LMs, seed: int = 0) -> tuple[LanguagePolicy, dict[str, Any], Any]:
    torch.manual_seed(seed)
    model = recipe.model()
    (item,) = batches(DATA, recipe, seed=seed, stop=1)
    companions = recipe.companions(model)
    with torch.no_grad():
        return model, companions, recipe.rollout(model, companions, item.batch)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("config", [GPT2, T5], ids=["decoder", "encoder-decoder"])
def test_cached_sampling_gives_the_logits_of_one_pass(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LanguageModel(config=config).eval()
    prompt_BP = torch.tensor([[3, 3, 5, 6], [3, 7, 8, 9], [2, 4, 6, 8]])
    there_BP = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
    seen: list[Tensor] = []

    def draw(logit_BV: Tensor) -> Tensor:
        seen.append(logit_BV)
        return drawn_actions(logit_BV.log_softmax(-1), torch.rand(3))

    answers = sample_answers(model, prompt_BP, there_BP, SamplingRules(end_id=1, pad_id=0, max_tokens=6, min_tokens=6), draw)
    assert bool(answers.chosen_BL.all())
    assert not bool((answers.ids_BL == 1).any())
    logit_BLV = answer_logits(model, prompt_BP, there_BP, answers.ids_BL)
    logit_BLV = logit_BLV.index_fill(-1, torch.tensor([1]), -torch.inf)
    torch.testing.assert_close(torch.stack(seen, 1), logit_BLV, atol=1e-4, rtol=1e-4)
    policy = LanguagePolicy(model)
    places = torch.tensor([0, 3, 5])
    first = torch.tensor([0])
    cut = [
        policy(prompt_BP[n : n + 1], there_BP[n : n + 1], answers.ids_BL[n : n + 1, : p + 1], first, places[n : n + 1])
        for n, p in enumerate([0, 3, 5])
    ]
    order = torch.tensor([2, 0, 1, 2])  # as many rows as answers or more: each answer is computed once
    for episode_N in (order, order[:2]):
        made = policy(prompt_BP, there_BP, answers.ids_BL, episode_N, places[episode_N])
        rows = [cut[n] for n in episode_N]
        torch.testing.assert_close(made.value_N, torch.cat([one.value_N for one in rows]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made.logit_NV, torch.cat([one.logit_NV for one in rows]), atol=1e-5, rtol=1e-5)


def test_answers_end_with_the_end_mark_and_stay_in_the_mask() -> None:
    torch.manual_seed(0)
    model = LanguageModel(config=GPT2).eval()
    prompt_BP = torch.randint(2, 40, (64, 3))
    mask = lambda logit_BV: top_p_mask(logit_BV, 0.2, always=(1,))  # noqa: E731
    answers = sample_answers(
        model, prompt_BP, torch.ones_like(prompt_BP).bool(), SamplingRules(1, 0, 12),
        lambda logit_BV: drawn_actions(logit_BV.log_softmax(-1), torch.rand(64)), mask=mask,
    )  # fmt: skip
    ends_BL = (answers.ids_BL == 1) & answers.chosen_BL
    assert bool((ends_BL.sum(1) <= 1).all())
    assert bool(ends_BL.any())
    for ids, chosen in zip(answers.ids_BL, answers.chosen_BL, strict=True):
        length = int(chosen.sum())
        assert chosen.tolist() == [True] * length + [False] * (12 - length)
        assert length == 12 or int(ids[length - 1]) == 1
    assert answers.mask_BLV is not None
    allowed_BL = answers.mask_BLV.gather(-1, answers.ids_BL[..., None])[..., 0]
    assert bool(allowed_BL[answers.chosen_BL].all())
    assert float(answers.mask_BLV.float().mean()) < 0.5


# ---------------------------------------------------------------- transitions


def test_transitions_are_the_tokens_of_the_answers_by_hand() -> None:
    torch.manual_seed(0)
    chosen_BL = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    value_BL, ratio_BL, ids_BL = torch.randn(3, 4), torch.randn(3, 4), torch.arange(12).view(3, 4)
    reward_B, beta = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.5)
    episodes = AnswerEpisodes(ids_BL, chosen_BL, ids_BL, chosen_BL, None, -value_BL, ratio_BL, value_BL, reward_B)
    for count in (6, 8):
        made = transitions(episodes, count, coefficient=beta, gamma=0.9, lam=0.8)
        steps = [(b, t) for b in range(3) for t in range(4) if chosen_BL[b, t]][: count + 1]
        later = 0.0
        for n in range(count - 1, -1, -1):
            b, t = steps[n]
            ends = t == int(chosen_BL[b].sum()) - 1
            reward = float(reward_B[b]) * ends - 0.5 * float(ratio_BL[b, t])
            following = 0.0 if ends else float(value_BL[steps[n + 1]])
            delta = reward + 0.9 * following - float(value_BL[b, t])
            later = delta + (0.0 if ends or n == count - 1 else 0.9 * 0.8 * later)
            assert made.advantage_N[n].item() == pytest.approx(later, abs=1e-5)
            assert made.return_N[n].item() == pytest.approx(later + float(value_BL[b, t]), abs=1e-5)
            assert (made.action_N[n].item(), made.episode_N[n].item(), made.place_N[n].item()) == (int(ids_BL[b, t]), b, t)
    assert made.kl.item() == pytest.approx(ratio_BL[chosen_BL].mean().item())
    assert made.length.item() == pytest.approx(8 / 3)
    white = transitions(episodes, 8, coefficient=beta, gamma=0.0, lam=0.0, normalised_rewards=True)
    torch.testing.assert_close((white.return_N).mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("algorithm", ["nlpo", "ppo"])
def test_the_ratio_begins_at_one_and_the_distance_at_nothing(algorithm: str, prepared: RL4LMs) -> None:
    recipe = replace(prepared, algorithm=algorithm)  # type: ignore[arg-type]
    model, companions, batch = rolled(recipe)
    model.train()
    assert not model.policy.training, "no dropout in updates"
    features = recipe.features(model, batch)
    torch.testing.assert_close(recipe._taken(features, batch), batch.old_log_N, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.value_N, batch.old_value_N, atol=1e-4, rtol=1e-4)
    assert batch.kl.item() == pytest.approx(0, abs=1e-6)
    assert companions["controller"].coefficient.item() == pytest.approx(0.05 * (1 - 0.1 * 0.2))
    assert (batch.mask_NV is not None) == (algorithm == "nlpo")
    losses = recipe.losses(features, batch)
    assert losses["policy"].item() == pytest.approx(0, abs=1e-4), "standardised advantages at a ratio of 1"


@pytest.mark.parametrize("reads_and_writes", [False, True], ids=["decoder", "encoder-decoder"])
def test_an_encoder_reads_prompts_of_the_length_that_evaluations_have(
    prepared: RL4LMs, monkeypatch: pytest.MonkeyPatch, reads_and_writes: bool
) -> None:
    widths = list[int]()

    def episodes(recipe: RL4LMs, model: Any, companions: Any, batch: Any, noise: Any) -> Any:
        widths.append(batch.prompt_BP.shape[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(RL4LMs, "_episodes", episodes)
    (item,) = batches(DATA, prepared, seed=0, stop=1)
    model: Any = SimpleNamespace(policy=SimpleNamespace(reads_and_writes=reads_and_writes))
    with pytest.raises(KeyboardInterrupt):
        prepared.rollout(model, {}, item.batch)
    assert (widths == [prepared.prompt_length]) == reads_and_writes


def test_a_rollout_holds_no_column_that_is_padding_in_every_prompt(prepared: RL4LMs) -> None:
    _, _, batch = rolled(prepared)
    (item,) = batches(DATA, prepared, seed=0, stop=1)
    longest = int(item.batch.there_BP.sum(1).max())
    assert longest < prepared.prompt_length == item.batch.prompt_BP.shape[1]
    assert torch.equal(batch.prompt_EP[: len(item.batch)], item.batch.prompt_BP[:, -longest:])
    assert torch.equal(batch.there_EP[: len(item.batch)], item.batch.there_BP[:, -longest:])


@pytest.mark.parametrize("algorithm", ["nlpo", "ppo"])
def test_a_run_in_bf16_acts_as_it_learns(
    algorithm: str, prepared: RL4LMs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout in float32 is off by 1e-3 here."""
    moved: list[Tensor] = []
    losses = RL4LMs.losses

    def recorded(self: RL4LMs, features: Any, batch: Any) -> dict[str, Tensor]:
        assert {one.dtype for one in (batch.old_log_N, batch.old_value_N, batch.advantage_N)} == {torch.float32}
        moved.append(torch.stack([self._taken(features, batch) - batch.old_log_N, features.value_N - batch.old_value_N]))
        return losses(self, features, batch)

    monkeypatch.setattr(RL4LMs, "losses", recorded)
    recipe = replace(prepared, algorithm=algorithm, steps=1)  # type: ignore[arg-type]
    fit(recipe, DATA, tmp_path / "run", replace(OPTIONS, precision="bf16"))
    torch.testing.assert_close(moved[0], torch.zeros_like(moved[0]), atol=1e-6, rtol=0)
    assert moved[-1].abs().max() > 1e-6, "after an update the policy is another"


def test_masks_follow_the_policy_and_stay_as_released(prepared: RL4LMs) -> None:
    for refreshed in (True, False):
        recipe = replace(prepared, masks=replace(prepared.masks, refresh=2, refreshed=refreshed))
        torch.manual_seed(0)
        model = recipe.model()
        companions = recipe.companions(model)
        start = {name: value.clone() for name, value in model.policy.state_dict().items()}
        with torch.no_grad():
            next(model.policy.parameters()).add_(1.0)
        same = []
        for item in batches(DATA, recipe, seed=0, stop=2):
            with torch.no_grad():
                recipe.rollout(model, companions, item.batch)
            held = companions["mask"].state_dict()
            same.append(all(torch.equal(held[name], start[name]) for name in start))
        assert same == [True, not refreshed]


def test_rules_of_sampling_are_part_of_the_mask_unless_released(prepared: RL4LMs) -> None:
    masks = replace(prepared.masks, sampled_top_k=3, min_tokens=2)
    recipe = replace(prepared, algorithm="ppo", masks=masks)
    _, _, batch = rolled(recipe)
    assert int(batch.mask_NV.sum(1).max()) == 3
    released = replace(recipe, masks=replace(masks, rules_in_ratio=False))
    _, _, other = rolled(released)
    assert other.mask_NV is None
    assert torch.equal(other.action_N, batch.action_N)
    assert bool((other.old_log_N <= batch.old_log_N + 1e-6).all())


# ---------------------------------------------------------------- runs


def test_a_stopped_run_ends_in_the_same_bytes_and_tunes_the_policy(tmp_path: Path, prepared: RL4LMs) -> None:
    whole = fit(replace(prepared, supervised=0.5, steps=4), DATA, tmp_path / "whole", OPTIONS)
    broken = tmp_path / "broken"
    calls: list[int] = []
    rewards = RL4LMs._rewards

    def breaks(self: RL4LMs, batch: Any, answers: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("broken")
        return rewards(self, batch, answers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RL4LMs, "_rewards", breaks)
        with pytest.raises(RuntimeError, match="broken"):
            fit(replace(prepared, supervised=0.5, steps=4), DATA, broken, OPTIONS)
    run = resume(broken, DATA, kind=RL4LMs)
    assert (whole.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()
    lines = [line for line in whole.metrics() if line["kind"] == "train"]
    assert {"reward", "kl", "kl_coefficient", "clip_fraction", "answer_length", "unfinished"} <= set(lines[-1])
    assert "answer" in lines[0]
    assert all(torch.isfinite(value).all() for value in load_file(whole.model / "model.safetensors").values())


def test_a_policy_that_never_ends_its_answers_is_bounded_and_told(tmp_path: Path, prepared: RL4LMs) -> None:
    endless = prepared.words().end_id

    def never(steps: StepwiseLogits, last_B: Any, run: Any = StepwiseLogits.next) -> Any:
        logit_BV = run(steps, last_B)
        logit_BV[:, endless] = -1e9
        return logit_BV

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepwiseLogits, "next", never)
        run = fit(replace(prepared, algorithm="ppo", steps=1), DATA, tmp_path / "run", OPTIONS)
    (line,) = [line for line in run.metrics() if line["kind"] == "train"]
    assert line["unfinished"] == 1
    assert line["answer_length"] == prepared.max_tokens


def test_a_model_of_texts_is_asked_without_a_picture(
    tmp_path: Path, prepared: RL4LMs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared.deploy(prepared.model()).save(tmp_path / "model")
    expected = dp.load(tmp_path / "model").generate([None], ["red circle"], max_tokens=3)
    assert dp.ask(tmp_path / "model", None, "red circle", max_tokens=3) == expected[0]
    monkeypatch.chdir(tmp_path)
    assert ask_command([str(tmp_path / "model"), "none", "red circle", "--max-tokens", "3"]) == 0
    assert capsys.readouterr().out.strip() == expected[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="reads text alone and was given a picture"):
        ask_command([str(tmp_path / "model"), "a.png", "red circle"])
    with pytest.raises(ConfigError, match=r"b\.png does not exist"):
        ask_command([str(tmp_path / "model"), "b.png", "red circle"])


def test_bad_rewards_cost_one_line(monkeypatch: pytest.MonkeyPatch, prepared: RL4LMs) -> None:
    monkeypatch.setattr(
        module, "text_reward", lambda name, **given: lambda prompts, answers, references: [float("nan")] * len(answers)
    )
    with pytest.raises(
        RunError, match=r"^reward 'meteor' of (an empty answer|the answer '.*') to '.*' is nan \(expected a finite"
    ):
        rolled(prepared)
    monkeypatch.setattr(module, "text_reward", lambda name, **given: lambda prompts, answers, references: 1 / 0)
    with pytest.raises(RunError, match=r"^reward 'meteor' raised ZeroDivisionError on 4 answers"):
        rolled(prepared)
    monkeypatch.setattr(module, "text_reward", lambda name, **given: lambda prompts, answers, references: [1.0])
    with pytest.raises(RunError, match=r"gave \[1\] scores for 4 answers"):
        rolled(prepared)


def test_settings_that_cannot_work_are_refused(prepared: RL4LMs) -> None:
    with pytest.raises(ConfigError, match=r"expected nlpo \| ppo"):
        RL4LMs(algorithm="a2c")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top_p 0"):
        replace(prepared.masks, top_p=0.0)
    with pytest.raises(ConfigError, match="classifier is ''"):
        rolled(replace(prepared, reward="classifier"))
    refused = {
        "metor": "unknown reward 'metor'",
        "bert_score:nowhere": "not a folder of transformers",
        "classifier": "classifier is ''",
    }
    for reward, words in refused.items():
        with pytest.raises(DiptychError, match=words):  # before a language model is trained
            RL4LMs(reward=reward, language_model="hf:nowhere").prepare(DATA)
    with pytest.raises(DataError, match="has no prompt"):
        list(batches(DATA, replace(prepared, prompts="extra"), seed=0, stop=1))


def test_an_intent_is_that_of_the_row_of_the_data(prepared: RL4LMs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second:
        """A classifier of four intents that takes every text for the second."""

        model = SimpleNamespace(config=SimpleNamespace(num_labels=4))

        def logits(self, texts: list[str]) -> Tensor:
            return torch.tensor([[0.0, 1.0, 0.0, 0.0]]).expand(len(texts), 4)

    monkeypatch.setattr(module, "intent_classifier", lambda folder, device: Second())
    recipe = replace(prepared, reward="intent", classifier="any", prompts="nothing")
    samples = [DATA[row] for row in range(4)]
    given = [1, "2", 2.0, None]

    def batch_of(count: int) -> PromptBatch:
        rows = [replace(sample, extras={"intent": intent}) for sample, intent in zip(samples, given, strict=True)][:count]
        return recipe.prompt_batch([Draw(row, np.random.default_rng(0), {}) for row in rows])

    assert batch_of(2).intents == (1, 2)
    assert recipe._rewards(batch_of(2), ["a", "b"]).tolist() == [0.0, 1.0]
    with pytest.raises(DataError, match=r"has intent 2.0.*a whole number"):
        batch_of(3)
    given[2] = 4
    with pytest.raises(RunError, match="reward 'intent': row 3 has no intent"):
        recipe._rewards(batch_of(4), [""] * 4)
    with pytest.raises(ConfigError, match="expected reward 'classifier' or 'intent'"):
        replace(prepared, classifier="any")


def test_published_configurations() -> None:
    with torch.device("meta"):
        gpt2 = LanguagePolicy(LanguageModel(config={"model_type": "gpt2"}))
        t5 = LanguageModel(config={"model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
                                   "num_heads": 12, "decoder_start_token_id": 0})  # fmt: skip
    assert sum(p.numel() for p in gpt2.parameters()) == 2 * 124_439_808 + 768
    assert sum(p.numel() for p in t5.parameters()) == 222_903_552
    imdb, commongen = RL4LMs.paper(), RL4LMs.commongen()
    assert (imdb.ppo.transitions, imdb.minibatch, imdb.passes, imdb.lr, imdb.steps) == (1280, 64, 5, 1e-6, 50)
    assert (imdb.masks.top_p, imdb.masks.min_keep, imdb.masks.refresh, imdb.ppo.kl, imdb.ppo.kl_target) == (0.9, 100, 5, 0.1, 0.1)
    assert (imdb.masks.min_tokens, imdb.max_tokens, imdb.prompt_length, imdb.batch_size) == (48, 48, 64, 30)
    assert (commongen.reward, commongen.ppo.kl_target, commongen.masks.refresh) == ("meteor+commongen_penalty", 2.0, 20)
    assert [TASKS[name].min_tokens for name in ("commongen", "cnn_daily_mail", "totto")] == [9, 49, 9]  # T5's start counts
    assert TASKS["daily_dialog"].reward == "0.75*intent+0.25*meteor"
    assert set(TASKS) - {"imdb"} == set(RL4LMs.presets) - {"tiny", "paper"}
