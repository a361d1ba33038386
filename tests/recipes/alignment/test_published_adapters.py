"""Adapters of the published sizes: LLaVA 1.5 of 7B on the meta device, with the number of parameters that PEFT counts for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import MlpConnector
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe
from diptych.recipes.alignment.rlaif_v import RLAIFV
from diptych.recipes.alignment.stic import STIC
from diptych.recipes.domains.dr_llava import DrLLaVA

WIDTH, HIDDEN, LAYERS = 4096, 11008, 32
PER_RANK = LAYERS * (4 * (WIDTH + WIDTH) + 3 * (WIDTH + HIDDEN))
"""Parameters of rank 1: in and out of four maps of attention and three of the feed-forward network, layer by layer."""


@pytest.fixture
def llava() -> Bridge:
    with torch.device("meta"):
        language = LanguageModel(config=transformers.LlamaConfig(vocab_size=32064).to_dict())
        return Bridge(image_tower("vit_l14", image_size=336), MlpConnector(1024, WIDTH), language)


@pytest.mark.parametrize(
    ("recipe", "rank", "networks"),
    [(replace(RLAIFV.lora(), pairs=True), 64, 1), (replace(STIC.paper(), pairs=True), 128, 1), (DrLLaVA.paper(), 64, 2)],
)
def test_adapters_of_seven_billion(recipe: Any, rank: int, networks: int, llava: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """159,907,840 parameters of rank 64, published for LLaMA of 7B, as many in Dr-LLaVA's value model."""
    monkeypatch.setattr(VisualInstructionRecipe, "model", lambda self: llava)
    with torch.device("meta"):
        model = recipe.model()
    assert rank * PER_RANK == 159_907_840 * rank // 64
    assert sum(value.numel() for name, value in model.named_parameters() if "lora_" in name) == networks * rank * PER_RANK
