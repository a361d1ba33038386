"""RUIG: boxes as tokens, rewards, gradients over all outcomes, drawn pages and the same pages in a browser."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.randomness import keyed_rng
from diptych.data.load.stream import batches
from diptych.models.screens.coordinate_writer import CoordinateWriter
from diptych.models.towers.towers import image_tower
from diptych.objectives.boxes.boxes import iou
from diptych.objectives.policy.box_rewards import (
    bin_ceiling,
    box_bins,
    box_reward,
    boxes_of_bins,
    clicks,
    overlap,
    token_rewards,
)
from diptych.recipes.grounding.ruig import RUIG, reinforced_loss
from diptych.tasks.grounding.referring import Referring
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve
from diptych.worlds.screens.pages import COLOURS, drawn, page
from diptych.worlds.screens.world import screens

DATA = screens(24, size=48, elements=3)
TINY = replace(RUIG.tiny(), batch_size=6, steps=4)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


# ---------------------------------------------------------------- rewards


def test_boxes_come_back_from_their_bins_up_to_the_ceiling() -> None:
    box_N4 = torch.rand(200, 2).sort(0).values.repeat(1, 2) * 0.4
    box_N4[:, 2:] += 0.3
    back_N4 = boxes_of_bins(box_bins(box_N4, 32), 32)
    assert (back_N4 - box_N4).abs().max() <= 1 / 64 + 1e-6
    torch.testing.assert_close(bin_ceiling(box_N4, 32), iou(back_N4, box_N4))
    assert box_bins(torch.tensor([[0.0, 0.5, 1.0, 1.2]]), 10).tolist() == [[0, 5, 9, 9]]


def test_rewards_of_boxes() -> None:
    true = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).expand(4, -1)
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.4, 0.2, 0.8, 0.6], [0.6, 0.2, 0.2, 0.6], [0.7, 0.7, 0.9, 0.9]])
    assert overlap(box, true).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert clicks(box, true).tolist() == [1, 1, 0, 0]
    assert box_reward(box, true, click=0.5).tolist() == pytest.approx([1.5, 1 / 3 + 0.5, 0, 0])
    true_bins, drawn_bins = torch.tensor([[2, 2, 6, 6]]), torch.tensor([[2, 4, 6, 1]])
    rewards = token_rewards(drawn_bins, true_bins, boxes_of_bins(true_bins, 10), 10)
    assert rewards[0].tolist() == pytest.approx([1, 0.5, 1, 0])


def test_gradient_is_that_of_the_expected_reward_over_all_outcomes(parity: Any) -> None:
    """Of two tokens with sixteen bins each: the mean of -R log p over all 256 pairs, weighed by their probability."""
    torch.manual_seed(0)
    first_K, second_KK = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((16,), (16, 16)))
    reward_KK = torch.rand(16, 16, dtype=torch.float64)
    log_KK = first_K.log_softmax(0)[:, None] + second_KK.log_softmax(1)
    expected = torch.autograd.grad((log_KK.exp() * reward_KK).sum(), (first_K, second_KK))
    pair_N2 = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    logit_N12K = torch.stack([first_K.expand(256, -1), second_KK[pair_N2[:, 0]]], 1)[:, None]
    weight_N = (
        first_K.log_softmax(0)[pair_N2[:, 0]] + second_KK.log_softmax(1)[pair_N2[:, 0], pair_N2[:, 1]]
    ).exp().detach() * 256
    gain_N12 = (weight_N * reward_KK.flatten())[:, None, None].expand(-1, 1, 2)
    got = torch.autograd.grad(reinforced_loss(logit_N12K, pair_N2[:, None], gain_N12), (first_K, second_KK))
    pairs = [(-mine, theirs) for mine, theirs in zip(got, expected, strict=True)]
    what = "gradient of the reinforced term over all outcomes of two tokens"
    parity("ruig", what, "the analytic gradient of the expected reward", pairs, tolerance=1e-12)
    less_N12 = (weight_N * (reward_KK.flatten() - 0.7))[:, None, None].expand(-1, 1, 2)
    logit_N12K = torch.stack([first_K.expand(256, -1), second_KK[pair_N2[:, 0]]], 1)[:, None]
    greedy = torch.autograd.grad(reinforced_loss(logit_N12K, pair_N2[:, None], less_N12), first_K)
    torch.testing.assert_close(-greedy[0], expected[0], msg="a baseline changes nothing in the mean")


# ---------------------------------------------------------------- writer


def test_coordinates_are_written_one_behind_another() -> None:
    torch.manual_seed(0)
    writer = CoordinateWriter(
        image_tower("convnet_micro", image_size=48), size=48, words=20, length=5, bins=12, width=16, heads=2
    ).eval()
    image, word, mask = torch.rand(3, 3, 48, 48), torch.randint(20, (3, 5)), torch.tensor([[1, 1, 1, 0, 0]] * 3).bool()
    bins = writer.write(image, word, mask, lambda logit: logit.argmax(-1))
    logit_BR4K = writer(image, word, mask, bins[:, None])
    assert torch.equal(logit_BR4K[:, 0].argmax(-1), bins)
    changed = bins.clone()
    changed[:, 2:] = (changed[:, 2:] + 3) % 12
    both = writer(image, word, mask, torch.stack([bins, changed], 1))
    torch.testing.assert_close(both[:, 0, :3], both[:, 1, :3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both[:, 0, 3], both[:, 1, 3])
    torch.testing.assert_close(both[:, 0], logit_BR4K[:, 0], atol=1e-5, rtol=1e-4)
    padded = word.clone()
    padded[:, 3:] = 7
    torch.testing.assert_close(writer(image, padded, mask, bins[:, None]), logit_BR4K, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("credit", ["sequence", "token"])
@pytest.mark.parametrize("baseline", ["greedy", "others"])
def test_rollouts_reward_what_was_drawn(credit: Any, baseline: Any) -> None:
    recipe = replace(TINY, credit=credit, baseline=baseline, drawn=3).prepare(DATA)
    torch.manual_seed(0)
    model = recipe.model().eval()
    (item,) = batches(DATA, recipe, seed=0, stop=1)
    with torch.no_grad():
        made = recipe.rollout(model, {}, item.batch)
        greedy = model.write(made.image_BCHW, made.word_BL, made.word_mask_BL, lambda logit: logit.argmax(-1))
    assert made.drawn_BR4.shape == made.advantage_BR4.shape == (6, 3, 4)
    if credit == "sequence":
        for b in range(6):
            rewards = [
                float(box_reward(boxes_of_bins(made.drawn_BR4[b, r], recipe.bins), made.box_B4[b], click=0.5)) for r in range(3)
            ]
            assert made.reward_BR[b].tolist() == pytest.approx(rewards)
            base = float(box_reward(boxes_of_bins(greedy[b], recipe.bins), made.box_B4[b], click=0.5))
            for r in range(3):
                other = base if baseline == "greedy" else (sum(rewards) - rewards[r]) / 2
                assert made.advantage_BR4[b, r].tolist() == pytest.approx([rewards[r] - other] * 4, abs=1e-6)
    losses = recipe.losses(recipe.features(model, made), made)
    assert set(losses) == {"likelihood", "reinforced"}


def test_training_starts_with_cross_entropy_and_resumes_exactly(tmp_path: Path) -> None:
    options = TrainOptions(progress=False, log_every=1, precision="fp32")
    run = fit(replace(TINY, steps=6, start=0.5).prepare(DATA), DATA, tmp_path / "run", options)
    lines = [line for line in run.metrics() if line["kind"] == "train"]
    assert ["reinforced" in line for line in lines] == [False] * 3 + [True] * 3
    model = diptych.load(run.model)
    (answer,) = model.ground([DATA[0].image], [PhraseQuery.of(["click the red button"], behind="")])
    assert answer[0].box_N4.shape == (1, 4)
    assert 0 < answer[0].score_N[0] <= 1
    result = Referring(draws=10).score(Referring(draws=10).predict(model, DATA))
    assert {"accuracy@0.5", "iou"} <= set(result.metrics)
    again = fit(replace(TINY, steps=6, start=0.5).prepare(DATA), DATA, tmp_path / "again", options)
    assert (run.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()


def test_settings_and_data_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 with baseline 'others'"):
        RUIG(baseline="others")
    with pytest.raises(ConfigError, match="bins is 1"):
        RUIG(bins=1)
    recipe = TINY.prepare(DATA)
    with pytest.raises(DataError, match=r"no instruction with a box|grounding"):
        list(batches(resolve("world:overhead?n=6"), recipe, seed=0, stop=1))


def test_own_sizes_build_without_memory() -> None:
    with torch.device("meta"):
        recipe = RUIG.paper()
        tower = image_tower(recipe.image_tower, image_size=recipe.image_size)
        writer = CoordinateWriter(tower, size=384, words=1024, length=24, bins=64, width=512, layers=4, heads=8)
    assert 85e6 < sum(p.numel() for p in writer.parameters()) < 120e6


# ---------------------------------------------------------------- pages


def test_an_instruction_means_one_element_and_its_box_is_drawn() -> None:
    for index in range(40):
        for asked in ("colour", "label"):
            made = page(keyed_rng("pages", index), asked=asked)  # type: ignore[arg-type]
            meant = [one for one in made.elements if one.instruction(asked) == made.instruction]  # type: ignore[arg-type]
            assert meant == [made.elements[made.target]]
            for number, one in enumerate(made.elements):
                assert 0 <= one.box[0] < one.box[2] <= 1
                for other in made.elements[:number]:
                    apart = one.box[0] >= other.box[2] or other.box[0] >= one.box[2]
                    assert apart or one.box[1] >= other.box[3] or other.box[1] >= one.box[3]
    made = page(keyed_rng("pages", 1), elements=1)
    (one,) = made.elements
    pixels = drawn(made, 96).astype(int)
    changed = np.abs(pixels - 250).sum(-1) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    lies = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 96
    np.testing.assert_allclose(lies, one.box, atol=0.03)
    assert tuple(COLOURS[one.colour]) in {tuple(value) for value in pixels.reshape(-1, 3).tolist()}


def test_noise_moves_training_boxes_alone() -> None:
    exact, moved = screens(5, size=48), screens(5, size=48, noise=0.2)
    assert exact[1].regions[0].box != moved[1].regions[0].box
    assert screens(5, size=48, split="test", noise=0.2)[1].regions[0].box == screens(5, size=48, split="test")[1].regions[0].box


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)")
def test_a_browser_puts_elements_where_they_are_said_to_lie() -> None:
    pytest.importorskip("playwright.sync_api")
    from diptych.worlds.screens.browser import screenshots

    pages = [page(keyed_rng("pages", index)) for index in range(2)]
    for made, (pixels, boxes) in zip(pages, screenshots(pages, 200), strict=True):
        assert pixels.shape == (200, 200, 3)
        for one, box in zip(made.elements, boxes, strict=True):
            np.testing.assert_allclose(box, one.box, atol=0.01)
            if one.kind == "button":
                x, y = int((box[0] + 0.02) * 200), int((box[1] + box[3]) / 2 * 200)
                assert np.abs(pixels[y, x].astype(int) - COLOURS[one.colour]).max() < 40
