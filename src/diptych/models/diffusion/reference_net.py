"""A diffusion model that reads reference pictures with boxes: image encoder, resampler, and region attention in the UNet.

Letters: B batch, R reference pictures, E text encoders, L text tokens, M image tokens, C channel, D width, H W.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.diffusion.denoiser import Denoising, DiffusionNet, TextCondition
from diptych.models.diffusion.image_attention import RegionAttention, with_region_attention
from diptych.models.diffusion.local_tokens import local_tokens
from diptych.models.diffusion.noise import clean_estimate, noised, prediction_target
from diptych.models.diffusion.resampler import GroundedResampler
from diptych.models.diffusion.settings import DiffusionSettings

BIG_G: dict[str, Any] = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
"""CLIP ViT-bigG/14 of LAION, in the names of transformers' `CLIPVisionConfig`."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Sizes of image encoder, resampler and region attention; the published ones.

    image       configuration of the image encoder, of transformers' `CLIPVisionConfig`; its states of the last layer but one are read
    width, depth, heads, queries, mult  of the resampler; `queries` tokens per picture
    dummies     learned tokens in front of those of the pictures
    scale       weight of image attention beside text attention
    square      layers are taken for square, as released
    local       with 4, as published, a second image encoder of the same size adds the features of 4 x 4 boxes of each picture to those that
                the resampler reads; 0 for none. Training reads none, as released
    local_size  pixels of a side of its pictures
    local_first the boxes of all pictures lie in the first one, as released
    background  "none": no image attention outside the boxes, as released; "dummies": the dummies are read there
    """

    image: dict[str, Any] = field(default_factory=lambda: dict(BIG_G))
    width: int = 1280
    depth: int = 4
    heads: int = 20
    queries: int = 16
    mult: int = 4
    dummies: int = 4
    scale: float = 0.6
    square: bool = False
    background: str = "none"
    local: int = 0
    local_size: int = 896
    local_first: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ReferenceDenoising:
    """A step of training: denoising, the estimated clean latents [B, C, H, W], the latents of each reference picture
    [B, R, C, H, W], and the attention to the predicate's tokens, one map [B, h, w] a layer."""

    denoising: Denoising
    estimate_BCHW: Rows[Tensor]
    reference_BRCHW: Rows[Tensor]
    maps: tuple[Tensor, ...]


class ReferenceDiffusion(nn.Module):
    """`DiffusionNet` with reference pictures. Phrases are read by the first text encoder, pooled."""

    def __init__(self, settings: DiffusionSettings, references: ReferenceSettings) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.references = references
        self.net = DiffusionNet(settings)
        self.images: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**references.image))
        self.local_images: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**references.image)) if references.local else None
        condition = int(settings.unet["cross_attention_dim"])
        self.resampler = GroundedResampler(
            width=references.width,
            depth=references.depth,
            heads=references.heads,
            queries=references.queries,
            mult=references.mult,
            image_width=int(references.image["hidden_size"]),
            phrase_width=int(settings.texts[0]["hidden_size"]),
            out_width=condition,
        )
        self.dummy_image_tokens = nn.Parameter(torch.randn(1, references.dummies, condition))
        with_region_attention(
            self.net.unet,
            tokens=references.queries,
            dummies=references.dummies,
            text_tokens=settings.text_length,
            scale=references.scale,
            square=references.square,
            background=references.background,
        )

    def region_attentions(self) -> list[RegionAttention]:
        """The region attention of each cross-attention, in the order of the UNet's processors."""
        return [one for one in self.net.unet.attn_processors.values() if isinstance(one, RegionAttention)]

    def image_tokens(
        self, picture_BRCHW: Tensor, phrase_BRL: Tensor, box_BR4: Tensor, large_BRCHW: Tensor | None = None
    ) -> Tensor:
        """Dummies and the tokens of every reference picture, [B, M, D], M = dummies + R queries. `large_BRCHW`: the pictures for local
        tokens."""
        state = self.images(picture_BRCHW.flatten(0, 1), output_hidden_states=True).hidden_states[-2]
        if large_BRCHW is not None:
            grid, first = self.references.local, self.references.local_first
            local = [local_tokens(self.local_images, large_RCHW, grid, first_only=first) for large_RCHW in large_BRCHW]
            state = torch.cat([state, torch.cat(local)], 1)
        phrase = self.net.pooled_text(phrase_BRL.flatten(0, 1))
        token = self.resampler(state, phrase, box_BR4.flatten(0, 1)).unflatten(0, picture_BRCHW.shape[:2]).flatten(1, 2)
        return torch.cat([self.dummy_image_tokens.to(token.dtype).expand(len(token), -1, -1), token], 1)

    def condition(self, text: TextCondition, token_BMD: Tensor) -> TextCondition:
        """The prompt's states with the image tokens after them."""
        return TextCondition(torch.cat([text.state_BLD, token_BMD], 1), text.pooled_BP)

    def attention(
        self, box_BR4: Tensor, latent_BCHW: Tensor, predicate_B2: Tensor | None = None, maps: list[Tensor] | None = None
    ) -> dict[str, Any]:
        """Keyword arguments for the attention processors."""
        height, width = latent_BCHW.shape[-2:]
        return {"boxes": box_BR4, "latent_size": (height, width), "predicate": predicate_B2, "maps": maps}

    def forward(
        self,
        image_BCHW: Tensor,
        text_BEL: Tensor,
        timestep_B: Tensor,
        noise_BCHW: Tensor,
        posterior_BCHW: Tensor | None,
        picture_BRCHW: Tensor,
        reference_BRCHW: Tensor,
        reference_posterior_BRCHW: Tensor | None,
        phrase_BRL: Tensor,
        box_BR4: Tensor,
        predicate_B2: Tensor,
        time_ids_B6: Tensor | None = None,
    ) -> ReferenceDenoising:
        """A step of training: what `DiffusionNet` reads, pictures as the image encoder reads them, the same for the latents in
        [-1, 1], ids of phrases, boxes, the token span of the predicate, and the sizes that SDXL reads (`DiffusionNet.predict`)."""
        net, kind = self.net, self.net.settings.scheduler.get("prediction_type", "epsilon")
        with torch.no_grad():
            clean_BCHW = net.encode_image(image_BCHW, posterior_BCHW)
            posterior = None if reference_posterior_BRCHW is None else reference_posterior_BRCHW.flatten(0, 1)
            concept = net.encode_image(reference_BRCHW.flatten(0, 1), posterior).unflatten(0, reference_BRCHW.shape[:2])
            noisy_BCHW = noised(clean_BCHW, noise_BCHW, timestep_B, net.alpha_T)
            target_BCHW = prediction_target(clean_BCHW, noise_BCHW, timestep_B, net.alpha_T, kind)
        condition = self.condition(net.encode_text(text_BEL), self.image_tokens(picture_BRCHW, phrase_BRL, box_BR4))
        maps: list[Tensor] = []
        attention = self.attention(box_BR4, noisy_BCHW, predicate_B2, maps)
        prediction_BCHW = net.predict(noisy_BCHW, timestep_B, condition, time_ids_B6=time_ids_B6, attention=attention)
        estimate_BCHW = clean_estimate(noisy_BCHW, prediction_BCHW, timestep_B, net.alpha_T, kind)
        denoising = Denoising(prediction_BCHW, target_BCHW, clean_BCHW, noisy_BCHW, timestep_B)
        return ReferenceDenoising(denoising, estimate_BCHW, concept, tuple(maps))
