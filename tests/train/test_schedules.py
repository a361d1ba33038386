"""Warm-ups and what a schedule goes over, against the released schedulers' formulas and libraries."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm.scheduler
import torch
import transformers

from diptych.core.contracts import Optimiser
from diptych.recipes.adaptation.coop import CoOp
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.recipes.adaptation.denseclip_boxes import DenseCLIPBoxes
from diptych.recipes.alignment.stic import STIC
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.recipes.bridges.instructblip import InstructBLIP
from diptych.recipes.bridges.llava import LLaVA
from diptych.recipes.bridges.mblip import MBLIP
from diptych.recipes.bridges.minigpt4 import MiniGPT4
from diptych.recipes.bridges.pllava import PLLaVA
from diptych.recipes.bridges.simvlg import SimVLG
from diptych.recipes.contrastive.concept_texts import ConceptTexts
from diptych.recipes.contrastive.laclip import LaCLIP
from diptych.recipes.contrastive.lexlip import LexLIP
from diptych.recipes.contrastive.syvic import SyViC
from diptych.recipes.domains.unipt import UniPT
from diptych.recipes.grounding.desco import DesCo
from diptych.recipes.grounding.fiber import FIBER
from diptych.recipes.grounding.ptp_vilt import PTPViLT
from diptych.recipes.grounding.ref_vlm import RefVLM
from diptych.train.optimise import build_optimiser, learning_rate, schedule, weight_decay

STEPS, WARM = 200, 50


def rates(spec: Optimiser, steps: int = STEPS) -> list[float]:
    return [learning_rate(spec, step, steps) for step in range(steps)]


def over_small(spec: Optimiser) -> Optimiser:
    return replace(spec, warmup=WARM)


def lavis(top: float, least: float, first: float) -> list[float]:
    """`LinearWarmupCosineLRScheduler` of MiniGPT-4: behind the warm-up the cosine has been under way for as long."""
    found = []
    for step in range(STEPS):
        if step < WARM:
            found.append(min(top, first + (top - first) * step / WARM))
        else:
            found.append((top - least) * 0.5 * (1 + math.cos(math.pi * step / STEPS)) + least)
    return found


def test_minigpt4s_and_artgpt4s_are_lavis() -> None:
    np.testing.assert_allclose(rates(over_small(MiniGPT4.paper().optimiser())), lavis(1e-4, 8e-5, 1e-6), rtol=1e-12)
    second = MiniGPT4.paper().stages()[1].recipe
    np.testing.assert_allclose(rates(over_small(second.optimiser())), lavis(3e-5, 1e-5, 1e-6), rtol=1e-12)
    np.testing.assert_allclose(rates(over_small(ArtGPT4.paper().optimiser())), lavis(1e-7, 8e-7, 1e-8), rtol=1e-12)


def scheduled_by(make: Any) -> list[float]:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimiser), []
    for _ in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("steps", "share"), [(750, 0.03), (157, 0.03), (2181, 0.03), (2672, 0.05)])
def test_a_warm_up_rounded_up_is_that_of_transformers(steps: int, share: float) -> None:
    """The steps of the first stages of STIC and LLaVA, of STIC's second and of RLAIF-V; two of them differ from the nearest number."""
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = transformers.TrainingArguments(output_dir="unused", warmup_steps=share, use_cpu=True)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimiser, arguments.get_warmup_steps(steps), steps)
    theirs = []
    for _ in range(steps):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    spec = Optimiser(lr=1.0, warmup=share, warmup_from=0.0, warmup_rounds="up")
    np.testing.assert_allclose(rates(spec, steps), theirs, atol=1e-12)
    assert STIC.paper().optimiser().warmup_rounds == LLaVA.paper().optimiser().warmup_rounds == "up"


@pytest.mark.parametrize("preset", ["paper", "video"])
def test_simvlgs_falls_by_inner_epochs(preset: str) -> None:
    """`LinearWarmupCosineLRScheduler` of EVLGen at 2e8c44d, of 250,000 steps in fifties, of 50,000 in fifties."""
    recipe = SimVLG.preset(preset)
    steps, warm = (250_000, 5000) if preset == "paper" else (50_000, 1000)
    top, least, first = (1e-4, 1e-5, 1e-6) if preset == "paper" else (1e-5, 1e-6, 1e-8)
    spec, inner = recipe.optimiser(), steps // 50
    for step in (0, 1, warm - 1, warm, inner - 1, inner, inner + 7, 2 * inner - 1, 2 * inner, 25 * inner, steps - 1):
        epoch, at = divmod(step, inner)
        falling = (top - least) * 0.5 * (1 + math.cos(math.pi * epoch / 50)) + least
        expected = falling if epoch else min(top, first + (top - first) * at / warm)
        assert learning_rate(spec, step, steps) == pytest.approx(expected, rel=1e-9)


def test_ref_vlms_are_those_of_mmengine() -> None:
    """`LinearLR` from 1e-5 over int(.03 steps) steps, the last of which has the whole rate, then `CosineAnnealingLR`, at cdfecce."""
    steps = 957
    warm = int(0.03 * steps)
    assert warm == 28
    theirs = [1e-5 + (1 - 1e-5) * step / (warm - 1) for step in range(warm)]
    theirs += [0.5 * (1 + math.cos(math.pi * step / (steps - warm))) for step in range(steps - warm)]
    spec = RefVLM.paper().optimiser()
    np.testing.assert_allclose(np.array(rates(spec, steps)) / spec.lr, theirs, atol=1e-12)


def test_pllavas_is_cut_off_below() -> None:
    """`get_cosine_schedule_with_warmup` of PLLaVA at 6f49fd2: what is below a quarter is a quarter, in the warm-up too."""

    def share(step: int) -> float:
        if step < WARM:
            return max(0.25, step / WARM)
        return max(0.25, 0.5 * (1 + math.cos(math.pi * (step - WARM) / (STEPS - WARM))))

    spec = over_small(PLLaVA.paper().optimiser())
    np.testing.assert_allclose(np.array(rates(spec)) / spec.lr, [share(step) for step in range(STEPS)], atol=1e-12)
    optimiser = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], "scale": 0.5, "length": 1}], lr=1.0)
    assert schedule(optimiser, spec, 0, STEPS) == pytest.approx(0.25 * spec.lr)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.125 * spec.lr)


def test_mblips_and_lexlips_are_those_of_transformers() -> None:
    cosine = scheduled_by(lambda o: transformers.get_cosine_schedule_with_warmup(o, WARM, STEPS))
    spec = over_small(MBLIP.paper().optimiser())
    np.testing.assert_allclose(np.array(rates(spec)) / spec.lr, cosine, atol=1e-9)
    vilts = [replace(kind.paper().optimiser(), lr=1.0) for kind in (FIBER, PTPViLT, UniPT)]
    straight = scheduled_by(lambda o: transformers.get_polynomial_decay_schedule_with_warmup(o, WARM, STEPS, lr_end=0.0))
    spec = over_small(LexLIP.paper().optimiser())
    np.testing.assert_allclose(np.array(rates(spec)) / spec.lr, straight, atol=1e-9)
    for spec in vilts:
        np.testing.assert_allclose(rates(over_small(spec)), straight, atol=1e-9)


def test_cocus_is_timms() -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.6e-3)
    limits: dict[str, Any] = {"t_initial": STEPS, "lr_min": 4e-5, "warmup_lr_init": 4e-6, "warmup_t": WARM}
    theirs = timm.scheduler.CosineLRScheduler(optimiser, **limits, cycle_limit=1, t_in_epochs=False)
    spec, found = over_small(ConceptTexts.paper().optimiser()), []
    for step in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        theirs.step_update(step)
    np.testing.assert_allclose(np.array(rates(spec)) / spec.lr, np.array(found) / 1.6e-3, atol=1e-9)


def test_syvics_is_six_of_ten_epochs_of_adam() -> None:
    """`CosineAnnealingLR(optimiser, 10)`, stepped after each epoch; decay enters the gradient."""
    spec = SyViC.paper().optimiser()
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    model = torch.nn.ParameterDict({"weight": parameter})
    ours = build_optimiser(model, spec)
    assert type(ours) is torch.optim.Adam
    assert ours.param_groups[0]["weight_decay"] == 0.2
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.Adam([parameter], lr=2.5e-3), 10)
    found = []
    for _ in range(6):
        found += annealing.get_last_lr() * 7
        annealing.optimizer.step()
        annealing.step()
    np.testing.assert_allclose([learning_rate(spec, step, 42) for step in range(42)], found, rtol=1e-9)


def test_denseclips_are_openmmlabs() -> None:
    """`PolyLrUpdaterHook` and `StepLrUpdaterHook` of mmcv: the warm-up multiplies the rate that the schedule has."""
    spec, found = over_small(DenseCLIP.paper().optimiser()), []
    for step in range(STEPS):
        regular = (1e-4 - 1e-6) * (1 - step / STEPS) ** 0.9 + 1e-6
        found.append(regular * (1 - (1 - step / WARM) * (1 - 1e-6)) if step < WARM else regular)
    np.testing.assert_allclose(rates(spec), found, rtol=1e-9)
    boxes = rates(over_small(DenseCLIPBoxes.paper().optimiser()))
    assert boxes[:2] == pytest.approx([1e-7, 1e-4 * (0.001 + 0.999 / WARM)])


@pytest.mark.parametrize("steps", [800_000, 30_000])
def test_fibers_boxes_have_the_released_rates_and_decay(steps: int, parity: Any) -> None:
    """`WarmupMultiStepLR`; after an iteration at .667 of the next milestone or behind it the trainer lowers the decay of all groups."""
    spec = DesCo.fiber_boxes().optimiser()
    milestones = [round(share * steps) for share in (0.67, 0.89)]
    seen = {0, 1, 1999, 2000, steps - 1, *np.linspace(0, steps - 1, 500).round().astype(int).tolist()}
    seen |= {place + by for milestone in milestones for place in (milestone, int(milestone * 0.667)) for by in (-2, -1, 0, 1, 2)}
    rate, decay, decays, target, rates_, found = 1e-4, 1e-2, [], 0, [], []
    for step in range(steps):
        if step in seen:
            alpha = min(1.0, step / 2000)
            rates_.append(rate * (0.001 * (1 - alpha) + alpha) * 0.1 ** bisect.bisect_right(milestones, step))
            decays.append(decay)
            found.append((learning_rate(spec, step, steps), weight_decay(spec, step, steps)))
        if target < 2 and step + 1 >= milestones[target] * 0.667:
            decay, target = decay * 0.1, target + 1
    pairs = [(np.array(found) / (1e-4, 1e-2), np.array([rates_, decays]).T / (1e-4, 1e-2))]
    np.testing.assert_allclose(*pairs[0], rtol=1e-9)
    if steps == 800_000:
        parity(
            "fiber", "rates and weight decay of the boxes' training", "microsoft/FIBER's schedules by hand", pairs, tolerance=1e-9
        )


def test_descos_two_runs_have_the_released_values() -> None:
    """SOLVER of desco_glip.yaml and desco_fiber.yaml under the README's BASE_LR, IMS_PER_BATCH and MAX_ITER; LANG_LR is 1e-5 in both."""
    glip, fiber = DesCo.paper(), DesCo.fiber_descriptions()
    for recipe, rate, steps, decay in ((glip, 5e-5, 300_000, 1e-4), (fiber, 2e-5, 200_000, 1e-2)):
        assert (recipe.lr, recipe.steps, recipe.batch_size, recipe.weight_decay) == (rate, steps, 16, decay)
        assert recipe.lr * recipe.text_lr == pytest.approx(1e-5)
        assert (recipe.form, recipe.classes, recipe.before, recipe.average) == ("description", 8, "Detect: ", 0.999)
    assert (glip.written, glip.nouns, glip.decay_drops) == (0.5, 0.4, ())  # mixed.v4-v3.5-4-1
    assert (fiber.written, fiber.nouns, fiber.drop_path) == (0.8, 0.0, 0.4)  # mixed.v4.8-2
    assert fiber.decay_drops == pytest.approx((0.67 * 0.667, 0.89 * 0.667))
    assert (fiber.backbone, fiber.boxes_by, fiber.fiber) == ("fiber", "places", DesCo.fiber_boxes().fiber)


def test_a_decay_that_drops_reaches_the_groups_that_decay() -> None:
    model = torch.nn.ParameterDict({"weight": torch.nn.Parameter(torch.ones(2, 2)), "bias": torch.nn.Parameter(torch.ones(2))})
    spec = Optimiser(weight_decay=0.2, decay_drops=(0.25, 0.5), schedule="constant")
    optimiser = build_optimiser(model, spec)
    for step, expected in ((0, 0.2), (1, 0.02), (2, 0.002), (3, 0.002)):
        schedule(optimiser, spec, step, 4)
        assert sorted(group["weight_decay"] for group in optimiser.param_groups) == [0.0, pytest.approx(expected)]


def test_laclips_is_by_linspace() -> None:
    falling = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + np.cos(np.pi * np.arange(STEPS - WARM) / (STEPS - WARM)))
    expected = np.concatenate([np.linspace(1e-6, 1e-3, WARM), falling])
    np.testing.assert_allclose(rates(over_small(LaCLIP.paper().optimiser())), expected, rtol=1e-9)


def test_instructblips_is_lavis_by_steps() -> None:
    np.testing.assert_allclose(rates(over_small(InstructBLIP.paper().optimiser())), lavis(1e-5, 0.0, 1e-8), rtol=1e-12)


def test_coops_is_dassls() -> None:
    """`ConstantWarmupScheduler` before `CosineAnnealingLR`: a pass at 1e-5, then a cosine over all passes that moves after each."""
    recipe = replace(CoOp.paper(), steps=30, chosen=tuple(map(str, range(96))), batch_size=32)
    first, main = recipe.stages()
    found = [learning_rate(first.recipe.optimiser(), step, 3) for step in range(3)]
    found += [learning_rate(main.recipe.optimiser(), step, 27) for step in range(27)]
    passes = [1e-5, *(2e-3 * 0.5 * (1 + math.cos(math.pi * number / 10)) for number in range(9))]
    np.testing.assert_allclose(found, np.repeat(passes, 3), rtol=1e-12)
