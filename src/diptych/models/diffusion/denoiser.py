"""The networks of a text-to-image diffusion model: text encoders, denoising UNet, and an autoencoder or blocks of pixels.

Letters: B batch, E text encoders, L tokens, C channel, H W, D width, T steps of noise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.diffusion.noise import noised, prediction_target
from diptych.models.diffusion.settings import DiffusionSettings, diffusers_library
from diptych.models.diffusion.token_table import ExtendedEmbedding


@dataclass(frozen=True)
class TextCondition:
    """Prompts as the UNet reads them: states [B, L, D], and where it has two text encoders the pooled vector [B, P]."""

    state_BLD: Rows[Tensor]
    pooled_BP: Rows[Tensor] | None = None


@dataclass(frozen=True)
class Denoising:
    """One step of training: prediction, target, clean latents and noisy latents, all [B, C, H, W], and the step of each row."""

    prediction_BCHW: Rows[Tensor]
    target_BCHW: Rows[Tensor]
    clean_BCHW: Rows[Tensor]
    noisy_BCHW: Rows[Tensor]
    timestep_B: Rows[Tensor]


class DiffusionNet(nn.Module):
    """A text-to-image diffusion model of diffusers' and transformers' parts, in the order in which a picture is made.

    learned_tokens  rows after the token table of each text encoder, for words that are learned (`ExtendedEmbedding`)
    """

    alpha_T: Tensor

    def __init__(self, settings: DiffusionSettings, learned_tokens: int = 0) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        library = diffusers_library()
        self.settings, self.learned_tokens = settings, learned_tokens
        self.unet: Any = library.UNet2DConditionModel.from_config(settings.unet)
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        self.texts = nn.ModuleList(kinds[at](CLIPTextConfig(**config)) for at, config in enumerate(settings.texts))
        self.vae: Any = library.AutoencoderKL.from_config(settings.vae) if settings.vae else None
        text: Any
        for text in self.texts if learned_tokens else ():
            text.set_input_embeddings(ExtendedEmbedding(text.get_input_embeddings(), learned_tokens))
        scheduler = library.DDPMScheduler.from_config(settings.scheduler)
        self.register_buffer("alpha_T", scheduler.alphas_cumprod.float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.alpha_T.device

    def token_tables(self) -> list[nn.Module]:
        """The token embedding of each text encoder."""
        texts: Any = self.texts
        return [text.get_input_embeddings() for text in texts]

    def learned_rows(self) -> list[nn.Parameter]:
        """The learned rows [K, D] of each text encoder; empty where no token is learned."""
        return [table.learned_KD for table in self.token_tables() if isinstance(table, ExtendedEmbedding)]

    def with_learned_tokens(self, count: int) -> Self:
        """The same networks with room for `count` learned tokens: UNet and autoencoder are shared, text encoders are copied."""
        if self.learned_tokens:
            raise ConfigError(f"there are {self.learned_tokens} learned tokens already (expected none)")
        extended = copy.copy(self)
        extended._modules, extended._buffers = dict(self._modules), dict(self._buffers)
        extended.texts, extended.learned_tokens = copy.deepcopy(self.texts), count
        texts: Any = extended.texts
        for text in texts:
            text.set_input_embeddings(ExtendedEmbedding(text.get_input_embeddings(), count))
        return extended

    def encode_text(self, text_BEL: Tensor) -> TextCondition:
        """Conditions of token ids [B, E, L], an entry for each text encoder. Padding is read as any token, as Stable Diffusion does."""
        if len(self.texts) == 1:
            return TextCondition(self.texts[0](input_ids=text_BEL[:, 0]).last_hidden_state)
        first = self.texts[0](input_ids=text_BEL[:, 0], output_hidden_states=True)
        second = self.texts[1](input_ids=text_BEL[:, 1], output_hidden_states=True)
        state_BLD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return TextCondition(state_BLD, second.text_embeds)

    def pooled_text(self, text_BL: Tensor) -> Tensor:
        """Vectors [B, D] of the first text encoder at the end mark of each text, after the last norm."""
        state_BLD = self.texts[0](input_ids=text_BL).last_hidden_state
        end = self.settings.texts[0]["eos_token_id"]
        at_B = (text_BL == end).int().argmax(-1)
        pooled_BD: Tensor = state_BLD[torch.arange(len(at_B), device=at_B.device), at_B]
        return pooled_BD

    def encode_image(self, image_BCHW: Tensor, posterior_BCHW: Tensor | None = None) -> Tensor:
        """Latents of pictures in [-1, 1]. With an autoencoder a draw from its posterior by the noise `posterior_BCHW`, or its mode."""
        if self.vae is None:
            return functional.pixel_unshuffle(image_BCHW, self.settings.patch)
        posterior = self.vae.encode(image_BCHW).latent_dist
        drawn_BCHW = posterior.mean if posterior_BCHW is None else posterior.mean + posterior.std * posterior_BCHW
        latent_BCHW: Tensor = (drawn_BCHW - self._shift) * self.vae.config.scaling_factor
        return latent_BCHW

    def decode_image(self, latent_BCHW: Tensor) -> Tensor:
        """Pictures in about [-1, 1] of latents."""
        if self.vae is None:
            return functional.pixel_shuffle(latent_BCHW, self.settings.patch)
        image_BCHW: Tensor = self.vae.decode(latent_BCHW / self.vae.config.scaling_factor + self._shift).sample
        return image_BCHW

    @property
    def _shift(self) -> float:
        return float(self.vae.config.get("shift_factor") or 0.0)

    def predict(
        self,
        noisy_BCHW: Tensor,
        timestep_B: Tensor,
        text: TextCondition,
        *,
        time_ids_B6: Tensor | None = None,
        attention: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Prediction of the UNet for noisy latents at steps [B].

        time_ids_B6  of SDXL: height and width of the original, top and left of the crop, height and width that are wanted; None takes the
                     size of training for all
        attention    keyword arguments for the attention processors
        """
        added = None
        if text.pooled_BP is not None:
            if time_ids_B6 is None:
                side = float(self.settings.image_size)
                time_ids_B6 = noisy_BCHW.new_tensor([[side, side, 0, 0, side, side]]).expand(len(noisy_BCHW), -1)
            added = {"text_embeds": text.pooled_BP, "time_ids": time_ids_B6}
        prediction_BCHW: Tensor = self.unet(
            noisy_BCHW,
            timestep_B,
            encoder_hidden_states=text.state_BLD,
            added_cond_kwargs=added,
            cross_attention_kwargs=dict(attention) if attention else None,
        ).sample
        return prediction_BCHW

    def forward(
        self,
        image_BCHW: Tensor,
        text_BEL: Tensor,
        timestep_B: Tensor,
        noise_BCHW: Tensor,
        posterior_BCHW: Tensor | None = None,
    ) -> Denoising:
        """A step of training: pictures in [-1, 1], prompts, steps, and noise in the shape of the latents."""
        with torch.no_grad():
            clean_BCHW = self.encode_image(image_BCHW, posterior_BCHW)
            noisy_BCHW = noised(clean_BCHW, noise_BCHW, timestep_B, self.alpha_T)
            kind = self.settings.scheduler.get("prediction_type", "epsilon")
            target_BCHW = prediction_target(clean_BCHW, noise_BCHW, timestep_B, self.alpha_T, kind)
        prediction_BCHW = self.predict(noisy_BCHW, timestep_B, self.encode_text(text_BEL))
        return Denoising(prediction_BCHW, target_BCHW, clean_BCHW, noisy_BCHW, timestep_B)
