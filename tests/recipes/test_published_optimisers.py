"""Optimisers of the published presets against the released code: its settings, and rates that its own scheduler printed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from diptych.core.contracts import Optimiser
from diptych.core.registry import RECIPES
from diptych.train.optimise import learning_rate, rule_of


@dataclass(frozen=True)
class Released:
    """One preset as its authors train it.

    stage    which of the preset's stages; None takes the preset itself
    decay    weight decay, and `vectors` that of parameters of one dimension that are neither biases nor norms
    clip     norm of gradients; 0 for no clipping
    rates    learning rate of three steps of a run of `steps`
    source   files of the release that say so
    """

    slug: str
    preset: str
    betas: tuple[float, float]
    eps: float
    decay: float
    clip: float
    steps: int
    rates: dict[int, float]
    source: str
    stage: int | None = None
    vectors: bool = False
    kind: str = "adamw"


# fmt: off
TORCH, CLIP = ((0.9, 0.999), 1e-8), ((0.9, 0.98), 1e-6)
RELEASED = (
    Released("alip", "paper", (0.9, 0.98), 1e-8, 0.2, 1.0, 3200, {0: 4e-5, 160: 5.223635711e-4, 2000: 3.700662435e-4},
             "ALIP train.py", vectors=True),
    Released("artgpt4", "paper", *TORCH, 0.05, 1.0, 20000, {0: 1e-8, 2500: 5.5e-8, 15000: 6.974873734e-7},
             "ArtGPT-4 train_configs/artgpt4_stage1_pretrain.yaml, tasks/base_task.py", stage=0),
    Released("clip", "paper", *CLIP, 0.2, 0.0, 20000, {0: 2.5e-7, 1999: 5e-4, 15000: 8.930309758e-5},
             "open_clip src/open_clip_train/params.py, scheduler.py"),
    Released("ctp", "paper", *TORCH, 0.05, 0.0, 500, {0: 1e-4, 250: 5.05e-5, 499: 1.000977088e-6},
             "CTP train/train_CTP.py, utils.py", vectors=True),
    Released("denseclip", "paper", *TORCH, 1e-4, 0.0, 80000, {0: 1e-10, 750: 4.958219688e-05, 40000: 5.40527864e-05},
             "DenseCLIP segmentation/configs/denseclip_fpn_res50_512x512_80k.py", vectors=True),
    Released("denseclip_boxes", "paper", *TORCH, 1e-4, 0.1, 1200, {0: 1e-07, 250: 5.005e-05, 1100: 1e-06},
             "DenseCLIP detection/configs/retinanet_denseclip_r50_fpn_1x_coco.py", vectors=True),
    Released("denseclip_masks", "paper", *TORCH, 1e-4, 0.1, 1200, {0: 2e-07, 250: 0.0001001, 800: 2e-05},
             "DenseCLIP detection/configs/mask_rcnn_denseclip_r50_fpn_1x_coco.py", vectors=True),
    Released("desco", "paper", *TORCH, 1e-4, 1.0, 300_000, {0: 5e-8, 1000: 2.5025e-5, 201_000: 5e-6},
             "DesCo configs/pretrain_new/desco_glip.yaml, solver/build.py", vectors=True),
    Released("dreamlip", "paper", *CLIP, 0.2, 0.0, 30000, {0: 5e-8, 9999: 5e-4, 22500: 1.543291419e-4},
             "DreamLIP training/params.py"),
    Released("fiber", "paper", (0.9, 0.98), 1e-8, 0.01, 0.0, 100_000, {0: 0.0, 5000: 5e-6, 55000: 5e-6},
             "FIBER coarse_grained/fiber/modules/fiber_utils.py"),
    Released("fiber", "vqa", (0.9, 0.98), 1e-8, 0.01, 0.0, 12346, {0: 0.0, 1234: 2e-5, 6000: 1.142188625e-05},
             "FIBER coarse_grained/fiber/config.py, whose warm-up is cut to whole steps"),
    Released("laclip", "paper", (0.9, 0.98), 1e-8, 0.5, 0.0, 3500, {0: 1e-6, 99: 1e-3, 2000: 4.140439887e-4},
             "LaCLIP train.py, utils.py"),
    Released("lexlip", "paper", *TORCH, 0.01, 1.0, 4455, {0: 0.0, 445: 5e-5, 2000: 3.061097257e-5},
             "LexLIP Phase1/src/modules/itr_utils.py"),
    Released("llava", "paper", *TORCH, 0.0, 1.0, 2184, {0: 0.0, 33: 5e-4, 1500: 2.360054385e-4},
             "LLaVA scripts/v1_5/pretrain.sh", stage=0),
    Released("mblip", "paper", *TORCH, 0.1, 1.0, 72000, {0: 0.0, 500: 1e-4, 50000: 4.375507124e-5},
             "mBLIP configs/experiment/mblip_instruct.yaml", stage=1),
    Released("minigpt4", "paper", *TORCH, 0.05, 0.0, 20000, {0: 1e-6, 2500: 5.05e-5, 15000: 8.292893219e-5},
             "MiniGPT-4 train_configs/minigpt4_stage1_pretrain.yaml", stage=0),
    Released("minigpt4", "paper", *TORCH, 0.05, 0.0, 1000, {0: 1e-6, 100: 1.55e-5, 750: 1.292893219e-5},
             "MiniGPT-4 train_configs/minigpt4_stage2_finetune.yaml", stage=1),
    Released("mono_internvl", "paper", *TORCH, 0.01, 1.0, 5198, {0: 0.0, 78: 2e-5, 3000: 1.600199074e-5},
             "Mono-InternVL shell/zero_stage1_config.json, whose optimiser takes every parameter", stage=3, vectors=True),
    Released("mrl_classes", "paper", (0.9, 0.98), 1e-6, 1e-4, 0.0, 4000, {0: 4.25e-5, 100: 0.21252125, 2100: 0.2125},
             "MRL train/train_imagenet.py", kind="sgd"),
    # Its gradients are sums over 32 pairs; of means, eps and the coupled decay are a 32nd.
    Released("ndcr", "paper", (0.9, 0.98), 1e-6 / 32, 0.1 / 32, 0.0, 3000, {0: 4e-5, 150: 3.8e-5, 1550: 1.853164921e-5},
             "NDCR OFA_encoder_Divide_and_Conquer.py", vectors=True),
    Released("negclip", "paper", *CLIP, 0.2, 0.0, 1000, {0: 2e-8, 49: 1e-6, 750: 1.613592142e-7},
             "open_clip as called by ARO README.md"),
    Released("penet", "paper", *TORCH, 1e-4, 5.0, 60000, {0: 8e-4, 250: 4.4e-3, 28000: 8e-4},
             "PENET README.md, solver/build.py", vectors=True, kind="sgd"),
    Released("penet", "detection", *TORCH, 1e-4, 0.0, 50000, {0: 8.144e-4, 250: 4.4144e-3, 29999: 8e-4},
             "PENET tools/detector_pretrain_net.py, which clips nothing", vectors=True, kind="sgd"),
    Released("plip_person", "finetune", (0.98, 0.92), 1e-8, 0.02, 0.0, 3000, {0: 2e-5, 250: 6e-5, 2000: 1e-5},
             "PLIP Downstreams/CMPM-C/train.py, utils.py", vectors=True, kind="adan"),
    Released("protoclip", "paper", *TORCH, 0.5, 10.0, 199_000, {0: 3.2e-8, 15624: 5e-4, 100_000: 2.812376981e-4},
             "ProtoCLIP src/training/scheduler.py, README.md", stage=0),
    Released("ptp", "paper", *TORCH, 0.05, 0.0, 80000, {0: 1e-6, 1500: 1.505e-4, 42000: 1.04603532e-4},
             "ptp src/blip_src/configs/pretrain_concated_pred_4M.yaml", vectors=True),
    Released("ptp_vilt", "paper", (0.9, 0.98), 1e-8, 0.01, 0.0, 200_000, {0: 0.0, 1250: 5e-5, 100_000: 5.063291139e-5},
             "ptp src/vilt_src/config.py"),
    Released("reversion", "paper", *TORCH, 0.01, 0.0, 3000, {0: 2e-3, 1500: 2e-3, 2999: 2e-3},
             "ReVersion README.md, train.py"),
    Released("rlipv2", "hico_det", *TORCH, 1e-4, 0.1, 2000, {0: 1.41e-4, 1500: 1.41e-4, 1501: 1.41e-5},
             "RLIPv2 engine.py, whose schedule moves after the update", vectors=True),
    Released("rrn", "paper", *TORCH, 0.0, 0.0, 1000, {0: 2e-4, 500: 2e-4, 999: 2e-4},
             "recurrent-relational-networks tasks/sudoku/rrn.py"),
    Released("simvlg", "paper", *TORCH, 0.05, 0.0, 250_000, {0: 1e-6, 2500: 5.05e-5, 129_999: 5.5e-5},
             "EVLGen lavis/projects/EVLGen/train/pretrain_opt2.7b.yaml"),
    Released("simvlg", "video", *TORCH, 0.05, 0.0, 50000, {0: 1e-8, 500: 5.005e-6, 25999: 5.5e-6},
             "EVLGen lavis/projects/EVLGen_video/train/caption_msrvtt_opt2.7b_ft.yaml"),
    Released("svlc", "paper", *CLIP, 0.1, 0.0, 25000, {0: 5e-10, 9999: 5e-6, 18750: 1.852952387e-6},
             "TSVLC src/training/params.py"),
    Released("text_to_image", "paper", *TORCH, 0.01, 0.0, 50000, {0: 1e-10, 5000: 5.000005e-5, 40000: 1e-4},
             "stable-diffusion configs/stable-diffusion/v1-inference.yaml, ldm/models/diffusion/ddpm.py", vectors=True),
    Released("xclip", "paper", (0.9, 0.98), 1e-8, 1e-3, 0.0, 3000, {0: 0.0, 250: 3.996e-6, 2000: 2.060897899e-6},
             "VideoX X-CLIP/utils/optimizer.py, main.py"),
)
# fmt: on


@cache
def optimiser(slug: str, preset: str, stage: int | None) -> Optimiser:
    recipe = RECIPES.load(slug).preset(preset)
    made: Optimiser = (recipe if stage is None else recipe.stages()[stage].recipe).optimiser()
    return made


@pytest.mark.parametrize("released", RELEASED, ids=lambda row: f"{row.slug}-{row.preset}-{row.stage}")
def test_a_published_preset_trains_as_released(released: Released) -> None:
    spec = optimiser(released.slug, released.preset, released.stage)
    momentum = 1 if released.kind == "sgd" else 2
    assert (spec.kind, spec.betas[:momentum]) == (released.kind, released.betas[:momentum])
    assert released.kind == "sgd" or spec.eps == released.eps
    assert (spec.weight_decay, spec.clip_norm) == (released.decay, released.clip)
    rates = [learning_rate(spec, step, released.steps) for step in released.rates]
    assert rates == pytest.approx(list(released.rates.values()), rel=1e-6), released.source
    rule = rule_of("parts.3.gain_D", spec.rules)
    assert bool(rule and rule.decay) == released.vectors, released.source


@pytest.mark.parametrize(
    ("slug", "name", "decays"),
    [
        ("fiber", "fiber.image_tower.net.layers.0.blocks.0.attn.relative_position_bias_table", False),
        ("lexlip", "encoder.image_tower.blocks.0.bias.table_RN", False),
        ("desco", "backbone.net.layers_1.blocks.0.attn.relative_position_bias_table", False),
        ("xclip", "mixer.position_TJ", False),
        ("denseclip", "decode.norm.weight", False),
        ("mrl_classes", "classifier.layers.0.bias", True),
    ],
)
def test_decay_follows_the_names_of_the_release(slug: str, name: str, decays: bool) -> None:
    rule = rule_of(name, optimiser(slug, "paper", None).rules)
    assert rule
    assert rule.decay is decays
