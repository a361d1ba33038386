"""Adapters in the blocks of a tower: AdapterHub's library on its CLIP, and what a saved model keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.block_adapters import MARK, AdapterKind, BlockAdapterConfig, with_adapters
from diptych.models.towers.towers import image_tower, text_tower

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "adapterhub_clip.npz"
SHAPE: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2.0}
KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)
NAMES = (
    (
        r"^\w+/(?:vision|text)_model\.encoder\.layers\.\d\.self_attn\.prefix_tuning\.pool\.prefix_tunings\.a\.clip_vision_model_self_prefix",
        "image_tower.transformer.adapter_prefixes",
    ),
    (
        r"^\w+/(?:vision|text)_model\.encoder\.layers\.\d\.self_attn\.prefix_tuning\.pool\.prefix_tunings\.a\.clip_text_model_self_prefix",
        "text_tower.transformer.adapter_prefixes",
    ),
    (r"^\w+/vision_model\.encoder\.layers\.", "image_tower.transformer.blocks."),
    (r"^\w+/text_model\.encoder\.layers\.", "text_tower.transformer.blocks."),
    (r"\.(\w+)_adapters\.adapters\.a\.", lambda m: f".adapter_{m[1]}."),
    (r"adapter_down\.0\.", "down."),
    (r"adapter_up\.", "up."),
    (r"self_attn\.v_proj\.loras\.a\.", "attention.adapter_values."),
    (r"self_attn\.q_proj\.loras\.a\.", "attention.adapter_queries."),
    (r"lora_A$", "a_RD"),
    (r"lora_B$", "b_DR"),
    (r"self_attn\.prefix_tuning\.prefix_gates\.a\.", "attention.adapter_gate."),
    (r"\.wte\.", ".embed."),
    (r"\.control_trans\.", ".maps."),
)


def small(kind: AdapterKind | None = None) -> DualEncoder:
    image = image_tower("vit", image_size=16, patch=8, **SHAPE)
    text = text_tower("transformer", vocab_size=40, length=9, causal=True, pooling="eot", eot_id=39, **SHAPE)
    if kind is not None:
        config = BlockAdapterConfig(kind, reduction=4, length=3 if kind in ("prefix", "unipelt") else 0, hidden=8, rank=2)
        image, text = with_adapters(image, config, "image"), with_adapters(text, config, "text")
    return DualEncoder(image, text, width=8).eval()


def ours(name: str) -> str:
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_adapterhub(kind: AdapterKind, parity: Any) -> None:
    with np.load(RELEASED) as released:
        values = {name: torch.from_numpy(released[name]) for name in released.files}
    base = {name.removeprefix("base/"): value for name, value in values.items() if name.startswith("base/")}
    adapters = {ours(name): value for name, value in values.items() if name.startswith(f"{kind}/")}
    model = small(kind)
    assert {name for name, _ in model.named_parameters() if f".{MARK}" in name} == {*adapters}
    model.load_state_dict(base | adapters)
    with torch.no_grad():
        image_ND = model.encode_image(values["pixels"])
        text_ND = model.encode_text(values["ids"], values["mask"].bool())
    pairs = [(image_ND, values[f"image/{kind}"]), (text_ND, values[f"text/{kind}"])]
    assert (values[f"image/{kind}"] - values["image/none"]).abs().max() > 0.1
    parity(
        "georsclip", f"vectors of a CLIP with {kind}", "adapters 1.3.0 (AdapterHub) on transformers' CLIP", pairs, tolerance=2e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_is_built_again_from_its_description(kind: AdapterKind) -> None:
    model = small(kind)
    side: Literal["image", "text"]
    for side, build in (("image", image_tower), ("text", text_tower)):
        tower = getattr(model, f"{side}_tower")
        again = build(**tower.spec)
        assert again.spec == tower.spec
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in tower.named_parameters()}


def test_a_start_without_effect_is_near_the_base() -> None:
    """Bottlenecks begin near zero: the vectors hardly move."""
    torch.manual_seed(0)
    base = small()
    image_BCHW = torch.randn(2, 3, 16, 16)
    for kind in ("pfeiffer", "houlsby"):
        model = small(kind)
        model.load_state_dict(base.state_dict(), strict=False)
        assert torch.allclose(model.encode_image(image_BCHW), base.encode_image(image_BCHW), atol=0.05)


def test_other_towers_and_sizes_are_refused() -> None:
    config = BlockAdapterConfig("pfeiffer")
    with pytest.raises(ConfigError, match="does not fit ConvNet"):
        with_adapters(image_tower("convnet_tiny"), config, "image")
    with pytest.raises(ConfigError, match="does not fit"):
        with_adapters(small("prefix").image_tower, config, "image")
    with pytest.raises(ConfigError, match="reduction 0"):
        BlockAdapterConfig("pfeiffer", reduction=0)
    with pytest.raises(ConfigError, match="unipelt"):
        BlockAdapterConfig("compacter")  # type: ignore[arg-type]
