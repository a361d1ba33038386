"""Settings that several presets over pairs have in common, so that arms that should be equal are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from diptych.recipes._shared.pairs import PairRecipe

SMALL: Mapping[str, Any] = {
    "image_tower": "vit_tiny",
    "text_tower": "text_tiny",
    "width": 128,
    "image_size": 64,
    "text_length": 16,
    "tokenizer": "data",
    "pieces": 4096,
    "batch_size": 256,
    "steps": 285,
    "lr": 8e-4,
    "warmup": 20.0,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}
"""64 pixels, 17 tokens an image: minutes on two cores. Learning rate, steps and text length were chosen for CLIP on seed 0."""

_DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(PairRecipe)}

SMALL_CLIP: Mapping[str, Any] = {**_DEFAULTS, **SMALL}
"""Every field that recipes over pairs share, as preset tiny of `clip` has it: towers, data, batch and budget."""

PAPER_CLIP: Mapping[str, Any] = {
    **_DEFAULTS,
    "batch_size": 32_768,
    "act": "quick_gelu",
    "same_group": "negative",
    "decoding": "whole",
}
"""The same of its preset paper: ViT-B/32 on 400 million pairs, with QuickGELU as OpenAI released it."""

ADAPTED = "qkv,attention.out,mlp_in,mlp_out,patches"
"""What carries an adapter in the released code of SVLC and SyViC: every linear map within the towers' blocks, and the convolution that
cuts patches. They count as B A / rank."""
