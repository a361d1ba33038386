"""Configurations of text-to-image diffusion models: Stable Diffusion 1.5 and SDXL as published, and a small one of pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any, Self

from diptych.core.errors import ConfigError, MissingExtra

_STABLE_VAE: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_STABLE_SCHEDULER: Mapping[str, Any] = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_CLIP_L: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


@dataclass(frozen=True)
class DiffusionSettings:
    """Configuration of a text-to-image diffusion model, in the names of the libraries.

    unet       of diffusers' `UNet2DConditionModel`
    texts      of transformers' `CLIPTextConfig`, one (the states of its last layer are read) or two (those of the last layer but one,
               side by side, and the projected vector of the second)
    scheduler  of diffusers: betas, what is predicted, and `_class_name`, with which pictures are drawn
    vae        of diffusers' `AutoencoderKL`; empty where the network works on pixels
    patch      without a VAE: side of the blocks of pixels that become channels
    """

    unet: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    scheduler: dict[str, Any]
    vae: dict[str, Any] = field(default_factory=dict)
    patch: int = 1

    def __post_init__(self) -> None:
        if len(self.texts) not in (1, 2) or self.patch < 1:
            raise ConfigError(f"{len(self.texts)} text encoders, patch {self.patch} (expected one or two, and 1 or more)")

    @property
    def latent_channels(self) -> int:
        """Channels of what is denoised."""
        return int(self.vae["latent_channels"]) if self.vae else 3 * self.patch**2

    @property
    def latent_scale(self) -> int:
        """Pixels along a side of the picture for each one of what is denoised."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1)) if self.vae else self.patch

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels, as the network was trained."""
        return int(self.unet["sample_size"]) * self.latent_scale

    @property
    def text_length(self) -> int:
        """Tokens of a prompt, marks and padding included."""
        return int(self.texts[0]["max_position_embeddings"])

    @property
    def timesteps(self) -> int:
        """Steps of noise in training."""
        return int(self.scheduler.get("num_train_timesteps", 1000))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        plain = json.loads(text)
        return cls(**{**plain, "texts": tuple(plain["texts"])})


def stable_diffusion_15() -> DiffusionSettings:
    """Stable Diffusion 1.5 (Rombach et al., 2022, arXiv 2112.10752): 512 pixels, latents 4 x 64 x 64, CLIP ViT-L's text encoder."""
    unet = {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    return DiffusionSettings(unet, (dict(_CLIP_L),), dict(_STABLE_SCHEDULER), dict(_STABLE_VAE))


def stable_diffusion_xl() -> DiffusionSettings:
    """Stable Diffusion XL (Podell et al., 2023, arXiv 2307.01952): 1024 pixels, latents 4 x 128 x 128, two text encoders."""
    unet = {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    second = {
        **_CLIP_L,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
        "pad_token_id": 0,
    }
    scheduler = {
        **_STABLE_SCHEDULER,
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "leading",
        "interpolation_type": "linear",
    }
    del scheduler["skip_prk_steps"]
    vae = {**_STABLE_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
    return DiffusionSettings(unet, (dict(_CLIP_L), second), scheduler, vae)


def small_pixels(
    *,
    vocab_size: int,
    eot_id: int,
    pad_id: int,
    text_length: int = 12,
    image_size: int = 32,
    patch: int = 2,
    channels: tuple[int, ...] = (32, 64),
    text_width: int = 64,
    text_layers: int = 2,
    heads: int = 4,
    beta_end: float = 0.02,
) -> DiffusionSettings:
    """A small network of pixels that predicts the clean picture, which it learns in fewer steps than the noise; blocks of `patch`
    x `patch` are channels. Its text encoder is small and trained with it. All levels but the finest read the words.

    heads     of each attention, of words and of the network
    beta_end  variance of the noise that the last step adds; the first adds 0.001
    """
    if image_size % patch or (image_size // patch) % 2 ** (len(channels) - 1):
        raise ConfigError(
            f"image_size {image_size} with patch {patch} and {len(channels)} levels (expected a multiple of "
            f"{patch * 2 ** (len(channels) - 1)})"
        )
    unet = {
        "sample_size": image_size // patch,
        "in_channels": 3 * patch**2,
        "out_channels": 3 * patch**2,
        "block_out_channels": list(channels),
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * (len(channels) - 1)],
        "up_block_types": [*["CrossAttnUpBlock2D"] * (len(channels) - 1), "UpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": text_width,
        "attention_head_dim": heads,
        "norm_num_groups": 8,
    }
    text = {
        "vocab_size": vocab_size,
        "hidden_size": text_width,
        "intermediate_size": 2 * text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": heads,
        "max_position_embeddings": text_length,
        "projection_dim": text_width,
        "bos_token_id": 1,
        "eos_token_id": eot_id,
        "pad_token_id": pad_id,
    }
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.001,
        "beta_end": beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "sample",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DiffusionSettings(unet, (text,), scheduler, patch=patch)


PUBLISHED = {"sd15": stable_diffusion_15, "sdxl": stable_diffusion_xl}
"""Names of published configurations."""


def diffusers_library(needed_for: str = "a diffusion model") -> ModuleType:
    """The package diffusers. Raises MissingExtra if it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusion", needed_for=needed_for) from error
    library: ModuleType = diffusers
    return library
