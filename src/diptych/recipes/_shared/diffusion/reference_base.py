"""The frozen model with reference pictures that RelationBooth adapts: SDXL with the adapter of MS-Diffusion, or a small one of
pixels that is
trained once on pictures of figures and cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diptych.core.config import to_plain
from diptych.core.contracts import Dataset, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.local_encoder import local_encoder as open_local_encoder
from diptych.models.diffusion.reference_model import ReferenceImageModel
from diptych.models.diffusion.reference_net import ReferenceDenoising, ReferenceDiffusion, ReferenceSettings
from diptych.models.diffusion.settings import DiffusionSettings, small_pixels
from diptych.models.diffusion.text_to_image import TextToImageModel
from diptych.models.io.open_address import open_address, weights_mtime
from diptych.models.io.tensor_files import read_content
from diptych.objectives.diffusion.denoising import denoising_loss
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes._shared.diffusion.base_model import train_once
from diptych.recipes._shared.diffusion.reference_recipe import ReferenceBatch, ReferenceRecipe
from diptych.recipes._shared.pairs import positive_texts, strings_of
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of
from diptych.worlds.address import open_data, training_rows

FORMAT = 1
LOCAL = 4
"""Boxes along a side of a picture for local tokens, as published."""
SMALL_REFERENCES = ReferenceSettings(
    image={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 16,
    },
    width=64,
    depth=1,
    heads=1,
    queries=4,
    mult=2,
)


@dataclass(frozen=True, kw_only=True)
class SmallReference(ReferenceRecipe):
    """A small diffusion model of pixels that reads reference pictures, all of it trained by denoising alone."""

    slug = "small_reference"

    pieces: int = 400
    vocabulary: str = field(default="", metadata={"prepared": True})

    def prepare(self, data: Dataset) -> Self:
        texts = strings_of(data, lambda sample: positive_texts(sample, ""))
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))

    def words(self) -> list[Tokenizer]:
        return [tokenizer_of("data", self.vocabulary)]

    def settings(self) -> DiffusionSettings:
        words = self.words()[0]
        return small_pixels(vocab_size=words.vocab_size, eot_id=words.eot_id, pad_id=words.pad_id, text_length=24)

    def references(self) -> ReferenceSettings:
        return SMALL_REFERENCES

    def model(self) -> ReferenceDiffusion:
        return ReferenceDiffusion(self.settings(), self.references())

    def losses(self, features: ReferenceDenoising, batch: ReferenceBatch) -> dict[str, Tensor]:
        return {"denoising": denoising_loss(features.denoising.prediction_BCHW, features.denoising.target_BCHW)}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8)

    def deploy(self, model: ReferenceDiffusion) -> ReferenceImageModel:
        return ReferenceImageModel(model, self.words(), self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """Minutes on two cores."""
        return cls(batch_size=32, steps=1200, lr=2e-3, warmup=50.0, weight_decay=0.01, clip_norm=1.0)

    @classmethod
    def paper(cls) -> Self:
        """No paper has it: the same."""
        return cls.tiny()


def small_reference(address: str, *, steps: int, seed: int = 0) -> Path:
    """Model folder of a small `ReferenceImageModel` in the cache; trained first on the figures of an address where it is not there."""
    rows = training_rows(open_data(address))
    recipe = replace(SmallReference.tiny(), steps=steps)
    key = [FORMAT, rows.fingerprint, to_plain(recipe), seed]
    seed = keyed_seed("small reference", seed)
    return cached_model("diffusion", key, lambda: train_once(rows, recipe, seed), seed=seed)


@dataclass(frozen=True)
class ReferenceBase:
    """Networks, tokenizers and configurations of the model that is adapted."""

    model: ReferenceDiffusion
    words: tuple[Tokenizer, ...]


def reference_base(weights: str, adapter: str, image_encoder: str, local_encoder: str = "") -> ReferenceBase:
    """The model at an address, opened once a process unless its files change: a folder of a model with reference pictures, or
    hf:FOLDER of SDXL with the file of MS-Diffusion's adapter and hf:FOLDER of its image encoder, and that of local tokens
    (`local_encoder`), "" for none. Shared: copy its networks before training."""
    return _opened(weights, adapter, image_encoder, local_encoder, weights_mtime(weights))


@lru_cache(maxsize=2)
def _opened(weights: str, adapter: str, image_encoder: str, local_encoder: str, when: tuple[int, ...]) -> ReferenceBase:
    with torch.device("cpu"):
        opened = open_address(weights)
        if isinstance(opened, ReferenceImageModel) and not opened.rank:
            return ReferenceBase(opened.model.float(), opened.tokenizers)
        if not isinstance(opened, TextToImageModel):
            raise ConfigError(f"weights is {weights!r} (expected hf:FOLDER of SDXL, or a model with reference pictures)")
        if not adapter or not image_encoder:
            raise ConfigError(
                f"{weights} does not read reference pictures (expected --adapter ms_adapter.bin and --image-encoder hf:FOLDER)"
            )
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        folder = str(Path(image_encoder.removeprefix("hf:")).expanduser())
        config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
        names = ReferenceSettings().image
        tensors = read_content(Path(adapter).expanduser())
        image = {name: getattr(config, name) for name in names}
        settings = replace(adapter_settings(tensors, adapter), image=image, local=LOCAL if local_encoder else 0)
        with torch.random.fork_rng(devices=[]):
            model = ReferenceDiffusion(opened.settings, settings)
        model.net.load_state_dict(opened.model.state_dict(), strict=False)
        model.images = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        if local_encoder:
            model.local_images = open_local_encoder(local_encoder, config)
        load_released_adapter(model, tensors, adapter)
        return ReferenceBase(model.float().eval(), opened.tokenizers)


def adapter_settings(tensors: Any, where: str) -> ReferenceSettings:
    """Sizes of the resampler from the tensors of ms_adapter.bin. Raises DataError for another file."""
    if not isinstance(tensors, Mapping) or not {"image_proj", "ms_adapter", "dummy_image_tokens"} <= set(tensors):
        raise DataError("is not an adapter of MS-Diffusion", file=where, expected="image_proj, ms_adapter and dummy_image_tokens")
    image = tensors["image_proj"]
    queries, width = image["grounding_latents"].shape[1:]
    depth = 1 + max(int(name.split(".")[1]) for name in image if name.startswith("layers."))
    return ReferenceSettings(
        width=width,
        depth=depth,
        heads=image["layers.0.0.to_q.weight"].shape[0] // 64,
        queries=queries,
        mult=image["layers.0.1.1.weight"].shape[0] // width,
        dummies=tensors["dummy_image_tokens"].shape[1],
    )


def load_released_adapter(model: ReferenceDiffusion, tensors: Any, where: str) -> None:
    """Fill resampler, dummies and the projections of every region attention from ms_adapter.bin, whose projections are numbered as the
    processors of the UNet. Raises DataError for tensors that are left over, missing or of another size."""
    regions = {
        f"{at}.{part}.weight": getattr(one, part).weight
        for at, one in enumerate(model.net.unet.attn_processors.values())
        if hasattr(one, "to_k_ip")
        for part in ("to_k_ip", "to_v_ip")
    }
    given = tensors["ms_adapter"]
    bad = sorted(set(regions) ^ set(given)) or [name for name, own in regions.items() if own.shape != given[name].shape]
    if bad:
        raise DataError(f"{bad[0]} does not fit the UNet", file=where, expected="an adapter of this model")
    try:
        model.resampler.load_state_dict(tensors["image_proj"])
        model.load_state_dict({"dummy_image_tokens": tensors["dummy_image_tokens"]}, strict=False)
    except RuntimeError as error:
        raise DataError(" ".join(str(error).split())[:200], file=where, expected="an adapter of this model") from error
    with torch.no_grad():
        for name, own in regions.items():
            own.copy_(given[name])
