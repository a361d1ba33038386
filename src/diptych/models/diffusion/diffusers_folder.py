"""Folders of diffusers' pipelines as models: "hf:FOLDER" of Stable Diffusion 1.x and 2.x, and of SDXL.

A folder holds model_index.json and the parts unet, text_encoder, tokenizer, vae and scheduler, for SDXL text_encoder_2 and
tokenizer_2 as well.
Weights are read from .safetensors files only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.models.diffusion.denoiser import DiffusionNet
from diptych.models.diffusion.settings import DiffusionSettings, diffusers_library
from diptych.models.diffusion.text_to_image import TextToImageModel
from diptych.models.io.foreign.tokenizer import from_transformers

PIPELINES = {"StableDiffusionPipeline": 1, "StableDiffusionXLPipeline": 2}
"""Class in model_index.json -> how many text encoders it has."""
PARTS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))


def is_diffusers_folder(folder: Path) -> bool:
    """True for a folder of a pipeline of diffusers."""
    return (folder / "model_index.json").is_file()


def open_diffusers(address: str) -> TextToImageModel:
    """The model of "hf:FOLDER". Raises ConfigError for another pipeline, DataError for a folder without a part."""
    folder = Path(address.partition(":")[2]).expanduser()
    library = diffusers_library(f"the pipeline in {folder}")
    settings = folder_settings(folder)
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        net = DiffusionNet(settings)
    local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    net.unet = library.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, **local)
    net.vae = library.AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32, **local)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    for at in range(len(settings.texts)):
        net.texts[at] = kinds[at].from_pretrained(folder / PARTS[at][0], dtype=torch.float32, **local)
    net.alpha_T = library.DDPMScheduler.from_config(settings.scheduler).alphas_cumprod.float()
    words = [from_transformers(folder / PARTS[at][1]) for at in range(len(settings.texts))]
    # published configurations of SD and SDXL name end mark 2, which no text holds; the tokenizer knows the true one
    texts = tuple({**text, "eos_token_id": word.eot_id} for text, word in zip(settings.texts, words, strict=True))
    net.settings = replace(settings, texts=texts)
    return TextToImageModel(net.eval(), words, address)


def folder_settings(folder: Path) -> DiffusionSettings:
    """Configuration of a folder's networks, without their weights."""
    kind = read_object(folder / "model_index.json").get("_class_name")
    if kind not in PIPELINES:
        raise ConfigError(f"{folder} holds a {kind} (expected {' or '.join(PIPELINES)})")
    texts = tuple(_config(folder, PARTS[at][0], "config.json") for at in range(PIPELINES[kind]))
    unet = _config(folder, "unet", "config.json")
    vae = _config(folder, "vae", "config.json")
    scheduler = _config(folder, "scheduler", "scheduler_config.json")
    for part in (unet, vae):
        for inner in [name for name in part if name.startswith("_")]:
            del part[inner]
    return DiffusionSettings(unet, texts, scheduler, vae)


def _config(folder: Path, part: str, file: str) -> dict[str, Any]:
    path = folder / part / file
    if not path.is_file():
        raise DataError(f"the part {part} has no {file}", file=folder, expected="the folder of a whole pipeline")
    return dict(read_object(path))
