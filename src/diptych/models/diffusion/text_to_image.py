"""A trained text-to-image diffusion model ready for use: prompts in, pictures out; saved as one folder.

Letters: N prompts, E text encoders, L tokens, H W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from torch import Tensor

from diptych.core.contracts import ReferenceImage
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.denoiser import DiffusionNet, TextCondition
from diptych.models.diffusion.sampling import guided, make_scheduler, sample_latents
from diptych.models.diffusion.settings import DiffusionSettings
from diptych.models.io.card import described_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating, parts


class TextToImageModel:
    """A `DiffusionNet` with its tokenizers: an `ImageGenerator`.

    tokenizers   one for each text encoder
    placeholder  a word that the network learned, such as "<R>"; "" for none. Prompts in which it is cut off are refused
    sampler      "" draws by the scheduler of the settings; "ddim", "pndm", "euler", "dpm", "ddpm"
    `truncated` counts the prompts that were longer than the text encoder reads, since this object was made.
    """

    kind: ClassVar[str] = "text_to_image"

    def __init__(
        self,
        model: DiffusionNet,
        tokenizers: Sequence[Tokenizer],
        name: str,
        *,
        placeholder: str = "",
        sampler: str = "",
        card: Mapping[str, Any] | None = None,
    ) -> None:
        if len(tokenizers) != len(model.texts):
            raise ConfigError(f"{len(tokenizers)} tokenizers for {len(model.texts)} text encoders (expected one for each)")
        self.model, self.tokenizers, self.name = model, tuple(tokenizers), name
        self.placeholder, self.sampler, self.card = placeholder, sampler, dict(card or {})
        self.truncated = 0

    @property
    def settings(self) -> DiffusionSettings:
        """Configuration of the networks."""
        return self.model.settings

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, {"settings": self.settings.to_json(), "placeholder": self.placeholder})

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [N, E, L]. Raises DataError for a prompt whose placeholder is cut off by the length of the text encoder."""
        ids_NEL, truncated = prompt_ids(self.tokenizers, prompts, self.settings.text_length, self.placeholder)
        self.truncated += truncated
        return ids_NEL

    def generate_images(
        self,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[ReferenceImage]] | None = None,
        negative: str = "",
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 0,
        batch_size: int = 16,
    ) -> npt.NDArray[np.uint8]:
        """uint8 [N, H, W, 3]. Raises ConfigError for references, which this model does not read."""
        if references is not None:
            raise ConfigError(
                f"'{self.name}' does not read reference pictures (expected prompts alone, or a run of relationbooth)"
            )
        if steps < 1:
            raise ConfigError(f"steps is {steps} (expected 1 or more)")
        pictures = []
        with torch.no_grad(), evaluating(self.model):
            for start, part in numbered(prompts, batch_size):
                prompt = self.model.encode_text(self.encode_prompts(part).to(self.model.device))
                empty = self.model.encode_text(self.encode_prompts([negative] * len(part)).to(self.model.device))
                noise_BCHW = self.starting_noise(range(start, start + len(part)), seed).to(prompt.state_BLD)
                pictures.append(self._pictures(noise_BCHW, prompt, empty, steps, guidance, keyed_seed(seed, start)))
        return np.concatenate(pictures) if pictures else np.zeros((0, *(self.settings.image_size,) * 2, 3), np.uint8)

    def starting_noise(self, rows: Sequence[int], seed: int) -> Tensor:
        """Standard normal float32 [N, C, H, W] of the prompts at these places."""
        settings = self.settings
        side = int(settings.unet["sample_size"])
        shape = (settings.latent_channels, side, side)
        return torch.from_numpy(
            np.stack([keyed_rng("image", seed, row).standard_normal(shape, dtype=np.float32) for row in rows])
        )

    def _pictures(
        self, noise_BCHW: Tensor, prompt: TextCondition, empty: TextCondition, steps: int, guidance: float, seed: int
    ) -> npt.NDArray[np.uint8]:
        scheduler = make_scheduler(self.settings.scheduler, self.sampler)
        predict = guided(self.model, prompt, empty, guidance)
        generator = torch.Generator().manual_seed(seed)
        latent_BCHW = sample_latents(noise_BCHW, predict, scheduler, steps=steps, guidance=guidance, generator=generator)
        return to_pixels(self.model.decode_image(latent_BCHW))

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer files, README.md, replacing the whole folder. Where a word was learned, also
        learned_embeds.safetensors, which diffusers' `load_textual_inversion` reads."""
        from diptych.models.diffusion.textual_inversion import save_textual_inversion

        more: list[Callable[[Path], Any]] = [self.tokenizers[0].save]
        if self.placeholder:
            more.append(lambda work: save_textual_inversion(self, work / "learned_embeds.safetensors"))
        config = self._config()
        readme = described_card(
            self.name,
            self.card,
            tags=("text-to-image", "diffusion"),
            about="Makes pictures of prompts by diffusion.",
            facts=f"{parameters(self.model):,} parameters; {self.settings.image_size} pixels; {self.settings.text_length} tokens.",
            use=f'pictures = model.generate_images(["{self.placeholder or "a red circle"}"])',
        )
        write_model(folder, self.model, config, readme, *more)

    def _config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "settings": asdict(self.settings),
            "placeholder": self.placeholder,
            "learned_tokens": self.model.learned_tokens,
            "pads": [tokenizer.pad_id for tokenizer in self.tokenizers],
            "sampler": self.sampler,
            "card": self.card,
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        plain = config["settings"]
        with torch.random.fork_rng(devices=[]):
            model = DiffusionNet(DiffusionSettings(**{**plain, "texts": tuple(plain["texts"])}), config["learned_tokens"])
        load_weights(model, folder)
        words = [Tokenizer.load(folder) for _ in config["pads"]]
        for tokenizer, pad_id in zip(words, config["pads"], strict=True):
            tokenizer.pad_id = pad_id
        return cls(
            model.eval(),
            words,
            config["name"],
            placeholder=config["placeholder"],
            sampler=config["sampler"],
            card=config.get("card"),
        )


def prompt_ids(words: Sequence[Tokenizer], prompts: Sequence[str], length: int, placeholder: str = "") -> tuple[Tensor, int]:
    """Token ids int64 [N, E, L] of prompts, and how many were cut. Raises DataError if the placeholder of a prompt is cut off."""
    rows, truncated = [], 0
    for tokenizer in words:
        encoded = tokenizer.encode(list(prompts), length)
        truncated = max(truncated, encoded.truncated)
        if placeholder:
            learned = placeholder_id(tokenizer, placeholder)
            for prompt, ids_L in zip(prompts, encoded.ids_BL, strict=True):
                if placeholder in prompt and learned not in ids_L:
                    raise DataError(
                        f"'{placeholder}' is cut off from a prompt of {tokenizer.count(prompt)} tokens: {prompt[:80]!r}",
                        field="prompt",
                        expected=f"{length} tokens at most, marks included",
                    )
        rows.append(torch.from_numpy(encoded.ids_BL))
    return torch.stack(rows, 1), truncated


def with_placeholder(tokenizer: Tokenizer, placeholder: str) -> Tokenizer:
    """A copy of a tokenizer that reads the placeholder as one token, whose id is the next after its vocabulary. Raises
    ConfigError for one that is in the vocabulary already, or empty."""
    token = tokenizer.cleaned(placeholder).strip()
    if not token or any(letter.isspace() for letter in token):
        raise ConfigError(f"placeholder is {placeholder!r} (expected one word such as <R>)")
    if tokenizer.inner.token_to_id(token) is not None:
        raise ConfigError(f"placeholder {placeholder!r} is in the vocabulary already (expected a new word such as <R>)")
    extended = Tokenizer.from_spec(tokenizer.to_json())
    extended.inner.add_tokens([tokenizers.AddedToken(token, normalized=False, special=False)])
    return extended


def placeholder_id(tokenizer: Tokenizer, placeholder: str) -> int:
    """Token id of a placeholder that `with_placeholder` added."""
    learned = tokenizer.inner.token_to_id(tokenizer.cleaned(placeholder).strip())
    if learned is None:
        raise ConfigError(
            f"the tokenizer does not know the placeholder {placeholder!r} (expected one that with_placeholder made)"
        )
    return int(learned)


def to_pixels(image_BCHW: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [B, H, W, 3] of pictures in [-1, 1], rounded as diffusers rounds them."""
    share_BHWC = (image_BCHW / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    pixels_BHWC: npt.NDArray[np.uint8] = (share_BHWC * 255).round().astype(np.uint8)
    return pixels_BHWC


def numbered(prompts: Sequence[str], size: int) -> list[tuple[int, Sequence[str]]]:
    """Parts of the prompts with the place of their first one."""
    return [(at * size, part) for at, part in enumerate(parts(prompts, size))]
