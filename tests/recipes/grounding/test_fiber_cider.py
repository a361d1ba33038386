"""FIBER's last stage of captioning: the released loss and rewards, what is drawn, baselines, and a run through the engine of policies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from diptych import api
from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.data.media.decode import decode
from diptych.models.fiber.caption_sampling import sample_captions
from diptych.models.fiber.fiber_model import FiberModel
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.self_critical import mean_log_probability, self_critical_loss
from diptych.recipes.grounding.fiber_cider import CiderTraining, FIBERCider, corpus_frequencies
from diptych.tasks._scoring.captions.metrics import cider_d, document_frequencies
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "fiber_cider_released.json").read_text())
SMALL: dict[str, Any] = {
    "text_layers": 3,
    "fused_layers": 2,
    "text_width": 32,
    "text_heads": 2,
    "width": 32,
    "batch_size": 2,
    "drawn": 3,
}


def small(**changes: Any) -> FIBERCider:
    return replace(FIBERCider.tiny(), **SMALL, **changes).prepare(scenes(6, seed=0, lengths=("short",), negatives=False))


def test_loss_and_rewards_are_the_released_ones(parity: Any) -> None:
    """Hidden states are waves of the tokens so far, as where the numbers were computed."""
    words, length = RELEASED["words"], 9
    table, places, head = (
        torch.sin(torch.arange(12 * 6).double() * 0.9).view(12, 6),
        torch.cos(torch.arange(length * 6).double() * 0.5).view(length, 6),
        torch.sin(torch.arange(12 * 6).double() * 0.31 + 1).view(12, 6) * 2,
    )

    def logits(ids: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
        return torch.tanh(table[ids] + places + light[:, None, None]) @ head.T

    ids, text = torch.tensor(RELEASED["ids"]), torch.tensor(RELEASED["text"])
    light = torch.tensor([0.3, -0.6]).double()
    recipe = FIBERCider.tiny()
    captions = recipe.cut([" ".join(words[one] for one in row if one > 2) for row in ids.tolist()])
    known = [recipe.cut(some) for some in RELEASED["references"] for _ in range(3)]
    reward = torch.from_numpy(cider_d(captions, known, frequencies=document_frequencies(known), items=len(known)))
    log_N = mean_log_probability(logits(ids, light.repeat_interleave(3)), ids, ids[:, 1:] != 1)
    drawn = self_critical_loss(log_N, reward, torch.ones(6).double(), pictures=2)
    given = caption_loss(logits(text, light), text, text != 1, over="tokens")
    parity("fiber", "the self-critical stage: loss and CIDEr-D of drawn captions", "microsoft/FIBER ca0f36b", [
        (reward, torch.tensor(RELEASED["scores"]).double()),
        (0.3 * given + 0.7 * drawn, torch.tensor(RELEASED["loss"]).double()),
    ], tolerance=1e-5)  # fmt: skip


def test_a_rewarded_caption_becomes_likelier_and_the_mean_is_over_choices() -> None:
    logit = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    ids, chosen = torch.randint(0, 7, (2, 5)), torch.tensor([[True, True, False, False], [True] * 4])
    log_N = mean_log_probability(logit, ids, chosen)
    naive = [
        sum(float(logit[n, m].log_softmax(-1)[ids[n, m + 1]]) for m in range(4) if chosen[n, m]) / int(chosen[n].sum())
        for n in range(2)
    ]
    assert log_N.tolist() == pytest.approx(naive, abs=1e-6)
    self_critical_loss(log_N, torch.tensor([3.0, 0.5]), torch.ones(2), pictures=1).backward()
    assert logit.grad is not None
    assert logit.grad[0, 0, ids[0, 1]] < 0 < logit.grad[1, 0, ids[1, 1]]
    assert not logit.grad[0, 2:].any()
    torch.testing.assert_close(
        self_critical_loss(log_N, torch.tensor([3.0, 0.5]), torch.ones(2), pictures=2),
        100 * (log_N[0] * -2 + log_N[1] * 0.5) / 2,
    )


@torch.no_grad()
def test_captions_are_drawn_by_their_probabilities() -> None:
    recipe = small()
    torch.manual_seed(0)
    fiber, words = recipe.model().fiber.eval(), recipe.words()
    image = fiber.image_tokens(torch.randn(2, 3, 64, 64))
    ways: dict[str, Any] = {"length": 8, "end_id": words.eot_id, "pad_id": words.pad_id}
    drawn = sample_captions(fiber, image, words.prefix, count=400, **ways)
    first = fiber.write(image, drawn.ids_NL[::400, :1], torch.ones(2, 1, dtype=torch.bool))[:, -1].float()
    first[:, [fiber.text.mask_id, words.pad_id]] = -1e4
    share = torch.stack([F.one_hot(drawn.ids_NL[n * 400 : n * 400 + 400, 1], first.shape[1]).float().mean(0) for n in range(2)])
    assert float((share - first.softmax(1)).abs().max()) < 0.08
    ended = (drawn.ids_NL == words.eot_id).any(1)
    places = torch.arange(7)
    stop = torch.where(ended, (drawn.ids_NL == words.eot_id).int().argmax(1), torch.tensor(7))
    assert torch.equal(drawn.chosen_NM, places < stop[:, None])
    assert (drawn.ids_NL[:, 1:][~drawn.chosen_NM] == words.pad_id).all()
    assert not (drawn.ids_NL == fiber.text.mask_id).any()
    model = FiberModel(fiber, recipe.deployed_preprocess, words, recipe.text_length, "fiber")
    picture = scenes(1, seed=0)[0].image
    assert picture is not None
    seen = fiber.image_tokens(recipe.deployed_preprocess([decode(picture, exact=True)]))
    greedy = sample_captions(fiber, seen, words.prefix, **{**ways, "length": recipe.text_length}, likeliest=True)
    ids = [one for one in greedy.ids_NL[0].tolist() if one not in (*words.prefix, *words.suffix, words.pad_id)]
    assert words.decode(ids).strip() == model.generate([picture], [""], max_tokens=recipe.text_length)[0]
    with pytest.raises(ConfigError, match="captions of 1 tokens"):
        sample_captions(fiber, image, words.prefix, **{**ways, "length": 1})


def test_rewards_know_the_corpus_and_baselines_are_what_they_say() -> None:
    rows = scenes(6, seed=0, lengths=("short",), negatives=False)
    recipe = small()
    items, table = corpus_frequencies(recipe.corpus)
    every = [recipe.cut(recipe.captions_of(rows, row)) for row in range(6)]
    whole = document_frequencies(every)
    assert items == 6
    assert table == {run: count for run, count in whole.items() if count > 1}
    words, known = recipe.words(), recipe.captions_of(rows, 0)
    ids = torch.from_numpy(words.encode([known[0], "nothing of it"], recipe.text_length).ids_BL)
    rewards = recipe.rewards(ids, [known])
    said = recipe.cut([words.decode(row) for row in ids.tolist()])
    torch.testing.assert_close(rewards, torch.from_numpy(cider_d(said, [every[0]] * 2, frequencies=whole, items=6)).float())
    assert rewards[0] > 1 > rewards[1]
    (step,) = batches(rows, recipe, seed=0, stop=1)
    model = recipe.model().eval()
    for baseline in ("one", "greedy", "others"):
        torch.manual_seed(1)
        rolled = replace(recipe, baseline=baseline).rollout(model, {}, step.batch)
        assert rolled.drawn_BSL.shape == (2, 3, recipe.text_length)
        assert rolled.baseline_BS.shape == rolled.reward_BS.shape == (2, 3)
        if baseline == "one":
            assert (rolled.baseline_BS == 1).all()
        if baseline == "others":
            mean = [[(row.sum() - row[n]) / 2 for n in range(3)] for row in rolled.reward_BS]
            torch.testing.assert_close(rolled.baseline_BS, torch.tensor(mean))
        if baseline == "greedy":
            assert (rolled.baseline_BS == rolled.baseline_BS[:, :1]).all()


def test_refusals_and_the_published_stage() -> None:
    with pytest.raises(ConfigError, match="2 or more for others"):
        FIBERCider(drawn=1, baseline="others")
    with pytest.raises(ConfigError, match=r"mixed is 1.0"):
        FIBERCider(mixed=1.0)
    with pytest.raises(ConfigError, match=r"call prepare\(data\) first"):
        corpus_frequencies("")
    paper = FIBERCider.paper()
    assert (paper.engine, paper.drawn, paper.mixed, paper.baseline) == ("policy", 5, 0.3, "one")
    assert (paper.image_size, paper.lr, paper.batch_size, paper.text_length) == (576, 1e-6, 512, 50)


def test_a_run_through_the_engine(tmp_path: Path) -> None:
    rows = scenes(6, seed=0, lengths=("short",), negatives=False)
    recipe = replace(FIBERCider.tiny(), **SMALL, steps=2, text_length=12)
    run = api.train(recipe, data=rows, out=tmp_path / "run", seed=0, hold_out=0)
    model: Any = api.load(run.path)
    assert isinstance(model, FiberModel)
    assert isinstance(model.generate([rows[0].image], [""])[0], str)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert any("rewarded" in line and "reward" in line for line in lines)
    made = recipe.prepare(rows).model()
    assert isinstance(made, CiderTraining)
