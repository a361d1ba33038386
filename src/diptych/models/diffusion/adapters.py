"""Low-rank adapters on the text cross-attention of a UNet, and their files, which diffusers' `load_lora_weights` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, MissingExtra
from diptych.models.diffusion.settings import diffusers_library
from diptych.models.io.tensor_files import read_tensors

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
    from peft.utils import get_peft_model_state_dict

    library = diffusers_library()
    if not getattr(unet, "peft_config", None):
        raise ConfigError("the UNet has no adapter (expected a run of relationbooth)")
    from diffusers.utils import convert_state_dict_to_diffusers

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    library.StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder / FILE


def read_adapter(path: Path) -> dict[str, Any]:
    """Tensors of an adapter file for `load_adapter`. Raises ConfigError for a file without adapters of a UNet."""
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if name.startswith("unet.")}
    if not tensors:
        raise ConfigError(f"{path} holds no adapter of a UNet (expected {FILE} as diffusers saves it)")
    return tensors
