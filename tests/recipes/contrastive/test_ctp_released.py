"""CTP's steps against the released class (KevinLight831/CTP 7baab57, models/clip_pretrain.py), float64 and without dropout.

Two steps of the first task and three of the second, with AdamW between them: each next loss depends on gradients, momentum model,
reference and queue of those before (within 1e-8: AdamW turns the rounding of gradients that are 0 into steps of that size). Every weight
starts as 0.3 sin(0.37 i + length of its name), so that losses and masks alone are stored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.text.tokens.masked_words import mask_words
from diptych.models.pairs.encoders.continual_encoder import ContinualEncoder
from diptych.models.towers.packaged.hf_text import TransformersText
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.masked_pairs import MaskedPairBatch
from diptych.recipes.contrastive.ctp import CTP, _carry
from diptych.train.optimise import build_optimiser

STORED = json.loads((Path(__file__).parent / "fixtures" / "ctp_released.json").read_text(encoding="utf-8"))
ROWS, LENGTH, WORDS, MASK = 4, 8, 30, 3


def made(task: int) -> ContinualEncoder:
    """A small model of the released form; the mask is a word of the vocabulary."""
    sizes: dict[str, Any] = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = TransformersText(
        config={"model_type": "bert", **sizes, "intermediate_size": 64, "max_position_embeddings": 16},
        pooling="cls",
        length=LENGTH,
    )
    image = image_tower(
        "vit", image_size=16, patch=8, width=16, layers=1, heads=2, pre_norm=False, eps=1e-6, patch_bias=True
    )  # fmt: skip
    model = ContinualEncoder(
        image, text, width=8, scale=1 / 0.07, fusion_layers=1, fusion_heads=2, queue=8,
        companions=("momentum", "reference") if task else ("momentum",), projection_bias="both", queue_start="random",
        class_token=True, post_norm=True, mask_id=MASK,
    )  # fmt: skip
    return model.double().eval()


@torch.no_grad()
def filled(model: ContinualEncoder) -> ContinualEncoder:
    for name, tensor in model.state_dict().items():
        if name.startswith("companions") or not tensor.is_floating_point() or name == "encoder.log_scale":
            continue
        value = (0.3 * torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + len(name))).reshape(tensor.shape)
        if "queue" in name:
            value = F.normalize(value, dim=1)
        if "norm" in name.lower() and name.endswith("weight"):
            value = value + 1
        tensor.copy_(value)
    model.begin_task_()
    return model


def batch(step: int) -> MaskedPairBatch:
    pixels = torch.sin(0.11 * torch.arange(ROWS * 3 * 16 * 16, dtype=torch.float64) + step).reshape(ROWS, 3, 16, 16)
    length_N = torch.tensor([8, 6, 4, 7])
    ids_BL = (torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) * 7 + 3 * step) % (WORDS - 4) + 4
    mask_BL = torch.arange(LENGTH)[None] < length_N[:, None]
    ids_BL = ids_BL.masked_fill(~mask_BL, 0)
    ids_BL[:, 0] = 1
    ids_BL[torch.arange(ROWS), length_N - 1] = 2
    masked_BL, word_BL = torch.tensor(STORED[step]["masked"]), torch.tensor(STORED[step]["labels"])
    hidden_BL = (masked_BL == MASK) & (word_BL >= 0)
    return MaskedPairBatch(
        image_BCHW=pixels,
        text_BL=ids_BL,
        text_mask_BL=mask_BL,
        group_B=torch.arange(ROWS),
        masked_BL=torch.where(hidden_BL, ids_BL, masked_BL),
        hidden_BL=hidden_BL,
        place_BM=torch.arange(LENGTH).expand(ROWS, LENGTH),
        word_BM=word_BL.clamp_min(-1),
    )


def test_steps_of_two_tasks_are_the_released_ones(parity: Any) -> None:
    recipe = CTP(same_group="negative", lr=1e-2, text_length=LENGTH)
    model, step, pairs = filled(made(0)), 0, []
    for task, steps in ((0, 2), (1, 3)):
        if task:
            later = made(1)
            _carry(model, later)
            model = later
        recipe = CTP(same_group="negative", lr=1e-2, text_length=LENGTH, task=task)
        model.encoder.log_scale.requires_grad_(False)
        optimiser = build_optimiser(model, recipe.optimiser())
        for _ in range(steps):
            one = batch(step)
            features = recipe.features(model, one)
            losses = recipe.losses(features, one)
            found: list[Tensor]
            if task:
                found = [losses["contrastive"], losses["words"], losses["momentum"] + losses["topology"], losses["distilled"]]
            else:
                found = [losses["contrastive"] + losses["momentum"], losses["words"] + losses["distilled"]]
            pairs.append((torch.stack(found), torch.tensor(STORED[step]["losses"], dtype=torch.float64)))
            optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            recipe.after_update(model, features, one, 0.5)
            step += 1
    parity("ctp", "losses over steps of two tasks", "KevinLight831/CTP 7baab57", pairs, tolerance=1e-8)


def test_each_word_is_hidden_by_its_own_chance() -> None:
    """As `CLIP_Pretrain.mask`: the end of a text among the words, its start and padding never; a text may be asked for nothing."""
    rows, length = 4000, 8
    ids_BL = torch.full((rows, length), 7)
    ids_BL[:, 0], ids_BL[:, 5], ids_BL[:, 6:] = 1, 2, 0
    mask_BL = ids_BL != 0
    rngs = [np.random.default_rng(row) for row in range(rows)]
    found = mask_words(ids_BL, mask_BL, rngs, special=[0, 1], vocab_size=50, share=0.15, each=True)
    asked_BM = found.word_BM >= 0
    asked_BL = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        places = found.place_BM[row][asked_BM[row]]
        asked_BL[row, places] = True
        assert torch.equal(ids_BL[row, places], found.word_BM[row][asked_BM[row]])
    share_L = asked_BL.double().mean(0)
    assert share_L[[0, 6, 7]].tolist() == [0, 0, 0]
    torch.testing.assert_close(share_L[1:6], torch.full((5,), 0.15, dtype=torch.float64), rtol=0, atol=0.02)
    nothing = (~asked_BL.any(1)).double().mean().item()
    assert nothing == pytest.approx(0.85**5, abs=0.03)
    hidden = found.hidden_BL.sum().item() / asked_BL.sum().item()
    assert hidden == pytest.approx(0.8, abs=0.03)
    swapped = ((found.ids_BL != ids_BL) & asked_BL).sum().item() / asked_BL.sum().item()
    assert swapped == pytest.approx(0.1, abs=0.02)
    assert found.place_BM.shape[1] == asked_BL.sum(1).max()
    with pytest.raises(ConfigError, match="single tokens alone"):
        mask_words(ids_BL, mask_BL, rngs, special=[0], vocab_size=50, each=True, padding_counts=True)


def test_texts_are_read_as_the_release_reads_them() -> None:
    text = "A dog (Brown): fast!"
    assert CTP.paper().words().cleaned(text) == "a dog brown fast"
    assert CTP(clean=False).words().cleaned(text) == "a dog (brown): fast!", "as CLIP's vocabulary does"
    assert CTP.paper().fusion.masking == "each"
