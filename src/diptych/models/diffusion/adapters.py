"""Low-rank adapters on the text cross-attention of a UNet, and their files, which diffusers' `load_lora_weights` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, MissingExtra

TARGETS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
"""Query, key, value and output projection of the cross-attention with the text."""
FILE = "pytorch_lora_weights.safetensors"


def add_adapter(unet: Any, rank: int, alpha: int) -> None:
    """Add adapters of this rank, whose product counts alpha / rank: first maps Gaussian with deviation 1 / rank, second ones zero."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", "diffusion", needed_for="an adapter of a diffusion model") from error
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(TARGETS))
    unet.add_adapter(config)


def save_adapter(unet: Any, folder: Path) -> Path:
    """Write pytorch_lora_weights.safetensors. Raises ConfigError for a UNet without an adapter."""
    from safetensors.torch import save_file

    tensors = {
        f"unet.{name.replace('.default.', '.')}": parameter.detach().float().cpu().contiguous()
        for name, parameter in unet.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    if not tensors:
        raise ConfigError("the UNet has no adapter (expected a run of relationbooth)")
    save_file(tensors, Path(folder, FILE), metadata={"format": "pt"})
    return Path(folder, FILE)
