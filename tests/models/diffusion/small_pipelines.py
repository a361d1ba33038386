"""Small folders of Stable Diffusion 1.5 and SDXL with made-up weights, as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz<>{}-."
WORDS = ("cat", "stone", "wall", "and", "on", "red")


def clip_words(length: int = 20, pad: str = "<|endoftext|>") -> Any:
    """A tokenizer of CLIP's form with a few whole words."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(f"{word}</w>" for word in WORDS)]
    merges = []
    for word in WORDS:
        so_far = word[0]
        for at, letter in enumerate(word[1:], 1):
            end = letter + ("</w>" if at == len(word) - 1 else "")
            merges.append((so_far, end))
            so_far += end
            if so_far not in pieces:
                pieces.append(so_far)
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, pad_token=pad)


def text_config(words: Any, **changed: Any) -> transformers.CLIPTextConfig:
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(words), "max_position_embeddings": words.model_max_length, "projection_dim": 16}
    return transformers.CLIPTextConfig(**{**sizes, **ends, **changed})


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def network(width: int, **changed: Any) -> Any:
    sizes: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": width,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**{**sizes, **changed})


def stable_folder(folder: Path) -> Path:
    """Stable Diffusion 1.5's layout."""
    torch.manual_seed(0)
    words = clip_words()
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = diffusers.StableDiffusionPipeline(
        autoencoder(), transformers.CLIPTextModel(text_config(words)), words, network(16), scheduler, None, None, None, False
    )
    pipeline.save_pretrained(folder)
    return folder


def xl_folder(folder: Path) -> Path:
    """SDXL's layout."""
    torch.manual_seed(0)
    first, second = clip_words(), clip_words(pad="a")
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    unet = network(
        40,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=24 + 6 * 4,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        autoencoder(),
        transformers.CLIPTextModel(text_config(first)),
        transformers.CLIPTextModelWithProjection(text_config(second, hidden_size=24, projection_dim=24, hidden_act="gelu")),
        first,
        second,
        unet,
        scheduler,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
