"""A trained `ReferenceDiffusion` ready for use: prompts and reference pictures with boxes in, pictures out; saved as one folder.

Letters: N prompts, R references, E text encoders, L tokens, M image tokens, H W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import ReferenceImage
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.data.media.decode import decode
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.adapters import add_adapter, save_adapter
from diptych.models.diffusion.reference_net import ReferenceDiffusion, ReferenceSettings
from diptych.models.diffusion.sampling import joined, make_scheduler, sample_latents
from diptych.models.diffusion.settings import DiffusionSettings
from diptych.models.diffusion.text_to_image import TextToImageModel, numbered, prompt_ids, to_pixels
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating

SQUARED = 512
"""Reference pictures become squares of this side before the image encoder's own size, as released."""
NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
"""Prompt that the released RelationBooth moves away from."""


class ReferenceImageModel:
    """A `ReferenceDiffusion` with its tokenizers: an `ImageGenerator` that reads reference pictures.

    rank  of the adapter on the text cross-attention; 0 for none
    """

    kind: ClassVar[str] = "reference_to_image"
    reads_references: ClassVar[bool] = True

    def __init__(
        self,
        model: ReferenceDiffusion,
        tokenizers: Sequence[Tokenizer],
        name: str,
        *,
        rank: int = 0,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizers, self.name, self.rank = model, tuple(tokenizers), name, rank
        self.card = dict(card or {})
        self.text_only = TextToImageModel(model.net, tokenizers, name)

    @property
    def settings(self) -> DiffusionSettings:
        """Configuration of the diffusion model."""
        return self.model.net.settings

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"settings": self.settings.to_json(), "references": self.model.references.to_json()})

    def generate_images(
        self,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[ReferenceImage]] | None = None,
        negative: str = NEGATIVE,
        steps: int = 30,
        guidance: float = 5.0,
        seed: int = 0,
        batch_size: int = 16,
    ) -> npt.NDArray[np.uint8]:
        """uint8 [N, H, W, 3]. Every prompt has equally many references. Without a prompt the image tokens are zero and no box is open; this
        and the defaults are as released. Raises ConfigError without references or for unequal numbers of them."""
        if (
            references is None
            or len(references) != len(prompts)
            or len({len(row) for row in references}) > 1
            or not all(references)
        ):
            raise ConfigError(
                f"'{self.name}' reads reference pictures (expected equally many for each of {len(prompts)} prompts)"
            )
        if steps < 1:
            raise ConfigError(f"steps is {steps} (expected 1 or more)")
        pictures = []
        with torch.no_grad(), evaluating(self.model):
            for start, part in numbered(prompts, batch_size):
                given = references[start : start + len(part)]
                pictures.append(self._pictures(start, part, given, negative, steps, guidance, seed))
        return np.concatenate(pictures) if pictures else np.zeros((0, *(self.settings.image_size,) * 2, 3), np.uint8)

    def _pictures(
        self,
        start: int,
        prompts: Sequence[str],
        references: Sequence[Sequence[ReferenceImage]],
        negative: str,
        steps: int,
        guidance: float,
        seed: int,
    ) -> npt.NDArray[np.uint8]:
        net = self.model.net
        text = net.encode_text(self.text_only.encode_prompts(prompts).to(net.device))
        empty = net.encode_text(self.text_only.encode_prompts([negative] * len(prompts)).to(net.device))
        box_BR4 = torch.tensor([[one.box for one in row] for row in references], dtype=text.state_BLD.dtype, device=net.device)
        token_BMD = self.model.image_tokens(*self.read_references(references), box_BR4, self.large_references(references))
        both = joined(self.model.condition(empty, torch.zeros_like(token_BMD)), self.model.condition(text, token_BMD))
        box_2BR4 = torch.cat([torch.zeros_like(box_BR4), box_BR4])
        noise_BCHW = self.text_only.starting_noise(range(start, start + len(prompts)), seed).to(text.state_BLD)
        attention = self.model.attention(box_2BR4, noise_BCHW)

        def predict(latent_BCHW: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            twice = torch.cat([latent_BCHW, latent_BCHW])
            out = net.predict(twice, timestep.expand(len(twice)), both, attention=attention)
            without_BCHW, with_BCHW = out.chunk(2)
            return with_BCHW, without_BCHW

        scheduler = make_scheduler(self.settings.scheduler)
        generator = torch.Generator().manual_seed(keyed_seed(seed, start))
        latent = sample_latents(noise_BCHW, predict, scheduler, steps=steps, guidance=guidance, generator=generator)
        return to_pixels(net.decode_image(latent))

    def read_references(self, references: Sequence[Sequence[ReferenceImage]]) -> tuple[Tensor, Tensor]:
        """Pictures [B, R, 3, H, W] as the image encoder reads them, and ids [B, R, L] of their phrases."""
        phrases = torch.stack([phrase_ids(self.tokenizers[0], [one.phrase for one in row], self.settings) for row in references])
        return self._sized(references, int(self.model.references.image["image_size"])), phrases.to(self.model.net.device)

    def large_references(self, references: Sequence[Sequence[ReferenceImage]]) -> Tensor | None:
        """Pictures [B, R, 3, H, W] for local tokens; None for a model without them."""
        return self._sized(references, self.model.references.local_size) if self.model.references.local else None

    def _sized(self, references: Sequence[Sequence[ReferenceImage]], side: int) -> Tensor:
        pictures = torch.stack([picture_pixels([decode(one.image, exact=True) for one in row], side) for row in references])
        return pictures.to(self.model.net.device, self.model.dummy_image_tokens.dtype)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder. With an adapter also
        pytorch_lora_weights.safetensors, which diffusers' `load_lora_weights` reads."""
        more: list[Any] = [self.tokenizers[0].save]
        if self.rank:
            more.append(lambda work: save_adapter(self.model.net.unet, work))
        config = {
            "kind": self.kind,
            "name": self.name,
            "settings": asdict(self.settings),
            "references": self.model.references.to_json(),
            "rank": self.rank,
            "pads": [tokenizer.pad_id for tokenizer in self.tokenizers],
            "card": self.card,
        }
        readme = described_card(
            self.name,
            self.card,
            tags=("text-to-image", "diffusion"),
            about="Makes pictures of given things in a relation.",
            facts=f"{parameters(self.model):,} parameters; {self.settings.image_size} pixels.",
            use='pictures = model.generate_images(["a cat hugging a dog"], references=[[cat, dog]])',
        )
        write_model(folder, self.model, config, readme, *more)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        plain = config["settings"]
        with torch.random.fork_rng(devices=[]):
            settings = DiffusionSettings(**{**plain, "texts": tuple(plain["texts"])})
            model = ReferenceDiffusion(settings, ReferenceSettings(**config["references"]))
            if config["rank"]:
                add_adapter(model.net.unet, config["rank"], config["rank"])
        load_weights(model, folder)
        words = [Tokenizer.load(folder) for _ in config["pads"]]
        for tokenizer, pad_id in zip(words, config["pads"], strict=True):
            tokenizer.pad_id = pad_id
        return cls(model.eval(), words, config["name"], rank=config["rank"], card=config.get("card"))


def picture_pixels(pictures: Sequence[npt.NDArray[np.uint8]], side: int) -> Tensor:
    """Pictures as the image encoder reads them: squared, resized, normalised by CLIP's statistics; float32 [R, 3, side, side]."""
    squared = pictures
    if side >= 224:
        square = Preprocess(SQUARED, resize="squash")
        squared = [square.square(pixels_HWC) for pixels_HWC in pictures]
    return Preprocess(side, OPENAI_MEAN, OPENAI_STD, "squash")(squared)


def phrase_ids(tokenizer: Tokenizer, phrases: Sequence[str], settings: DiffusionSettings) -> Tensor:
    """Ids [R, L] of phrases for the first text encoder. Raises DataError for an empty one."""
    if not all(phrase.strip() for phrase in phrases):
        raise DataError("a reference has no phrase", field="phrase", expected="a name such as 'cat'")
    return prompt_ids([tokenizer], phrases, settings.text_length)[0][:, 0]
