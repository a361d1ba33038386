"""Towers of open_clip models without a counterpart among our towers: CoCa, timm's image models, text encoders of transformers.

Both include their projection into the joint space. Letters: B batch, C channel, H W, L tokens, P positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
import transformers
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.pooling import last_real
from diptych.models.towers.outputs import Tower, TowerOutput


class OpenClipImage(Tower):
    """Encodes square images [B, 3, image_size, image_size] as tokens and one vector of `width` dimensions in the joint space.

    `config` is "vision_cfg" of an architecture of open_clip, as `open_clip.get_model_config` gives it, and `quick_gelu` is
    next to it there. Tokens are the inputs of a CoCa's pooling queries; for timm's models, the last feature map.
    """

    projects = True

    def __init__(self, *, config: dict[str, Any], width: int, quick_gelu: bool = False, image_size: int | None = None) -> None:
        super().__init__()
        settings = CLIPVisionCfg(**{**config, "timm_model_pretrained": False, "output_tokens": True})
        side = settings.image_size if isinstance(settings.image_size, int) else settings.image_size[0]
        if image_size is not None and image_size != side:
            raise ConfigError(f"images of {image_size} pixels do not fit this tower (expected {side})")
        self.image_size, self.width = side, width
        self.net: Any = _build_vision_tower(width, settings, quick_gelu)
        if isinstance(self.net, TimmModel):
            self._channels = int(self.net.trunk.num_features)
        else:
            self._channels = width if settings.attentional_pool else settings.width

    @property
    def token_width(self) -> int:
        return self._channels

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if image_BCHW.shape[1:] != (3, self.image_size, self.image_size):
            raise ShapeError(f"images must be ['B', 3, {self.image_size}, {self.image_size}], got {list(image_BCHW.shape)}")
        if isinstance(self.net, TimmModel):
            features = self.net.trunk.forward_features(image_BCHW)
            pooled_BD = self.net.head(self.net.trunk.forward_head(features))
            tokens_BPD = self._places(features)
        else:
            pooled_BD, tokens_BPD = self.net(image_BCHW)
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), pooled_BD)

    def _places(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features[:, int(getattr(self.net.trunk, "num_prefix_tokens", 0)) :]
        last = features.shape[-1] == self._channels and features.shape[1] != self._channels
        return features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)


class OpenClipText(Tower):
    """Encodes token ids [B, L], or token embeddings [B, L, D] with their mask,
    as one vector of `width` dimensions in the joint space.

    With ids, padding is detected from the ids and the mask is ignored. With embeddings, the mask is True at real tokens,
    and the last of them is the end of the text.

    `config` is "text_cfg" of an architecture of open_clip. If it names an encoder of transformers, `encoder` is that encoder's
    configuration as a dict, so that nothing has to be looked up by name.
    """

    projects = True

    def __init__(
        self,
        *,
        config: dict[str, Any],
        width: int,
        quick_gelu: bool = False,
        encoder: dict[str, Any] | None = None,
        length: int | None = None,
    ) -> None:
        super().__init__()
        settings = CLIPTextCfg(**{**config, "hf_model_pretrained": False, "output_tokens": True})
        self.width, self.length = width, settings.context_length
        if length is not None and length > self.length:
            raise ConfigError(f"texts of {length} tokens do not fit this tower (expected at most {self.length})")
        if settings.hf_model_name:
            if encoder is None:
                raise ConfigError(f"the text encoder {settings.hf_model_name} needs its configuration: pass encoder")
            self.net: Any = _encoder(settings, width, encoder)
            self.pad_id, self._words = int(self.net.config.pad_token_id), int(self.net.transformer.config.hidden_size)
        else:
            self.net = _build_text_tower(width, settings, quick_gelu)
            self.pad_id, self._words = settings.pad_id, settings.width

    @property
    def token_width(self) -> int:
        return self._words

    @property
    def embed(self) -> nn.Embedding:
        """The table of token embeddings."""
        table: nn.Embedding = (
            self.net.transformer.get_input_embeddings() if isinstance(self.net, HFTextEncoder) else self.net.token_embedding
        )
        return table

    def forward(self, text: Tensor, mask_BL: Tensor | None = None) -> TowerOutput:
        if text.ndim not in (2, 3) or not 0 < text.shape[1] <= self.length:
            raise ShapeError(
                f"texts must be ids [B, L] or embeddings [B, L, D] with L up to {self.length}, got {list(text.shape)}"
            )
        text_BL = text if text.ndim == 2 else self._ids_like(text, mask_BL)
        # A class token follows all positions, so a shorter row would move it.
        whole_BL = F.pad(text_BL, (0, self.length - text.shape[1]), value=self.pad_id)
        if text.ndim == 2:
            pooled_BD, tokens_BLD = self.net(whole_BL)
        else:
            padding_BLD = self.embed(whole_BL[:, text.shape[1] :]).to(text.dtype)
            with _answering(self.embed, torch.cat([text, padding_BLD], dim=1)):
                pooled_BD, tokens_BLD = self.net(whole_BL)
        real_BL = text_BL != self.pad_id
        count = tokens_BLD.shape[1]
        if count < self.length:  # pooled at its first token, which is then excluded
            real_BL = real_BL[:, self.length - count :]
        return TowerOutput(tokens_BLD[:, : real_BL.shape[1]], real_BL, pooled_BD)

    def _ids_like(self, embedded_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Return ids with padding and end at the positions of the embeddings:
        the library finds both by the ids, whatever the embeddings.
        """
        if mask_BL is None:
            mask_BL = torch.ones(embedded_BLD.shape[:2], dtype=torch.bool, device=embedded_BLD.device)
        by_id = getattr(self.net, "pool_type", "") == "eos"
        end = int(self.net.eos_id) if by_id else self.embed.weight.shape[0] - 1
        filler = next(number for number in range(3) if number not in (self.pad_id, end))
        ids_BL = torch.where(mask_BL, filler, self.pad_id)
        return ids_BL.scatter(1, last_real(mask_BL)[:, None], end)


@contextmanager
def _answering(table: nn.Embedding, embedded_BLD: Tensor) -> Iterator[None]:
    """Context manager in which an embedding table returns these embeddings for any ids, since the library accepts only ids."""
    handle = table.register_forward_hook(lambda *_: embedded_BLD)
    try:
        yield
    finally:
        handle.remove()


def _encoder(settings: CLIPTextCfg, width: int, encoder: dict[str, Any]) -> HFTextEncoder:
    """Build the text encoder as open_clip does for a name, but from a configuration.

    For an encoder-decoder it is the encoder; there is no unused pooling layer.
    """
    config = transformers.AutoConfig.for_model(**encoder)
    if config.model_type not in open_clip.hf_configs.arch_dict:
        raise ConfigError(
            f"open_clip has no text encoder of model_type {config.model_type!r} "
            f"(expected {' | '.join(open_clip.hf_configs.arch_dict)})"
        )
    net = HFTextEncoder(
        "",
        output_dim=width,
        config=config,
        pooler_type=settings.hf_pooler_type,
        proj_type=settings.hf_proj_type,
        output_tokens=True,
    )
    if config.is_encoder_decoder:
        net.transformer = net.transformer.encoder
    elif settings.hf_pooler_type != "cls_pooler" and getattr(net.transformer, "pooler", None) is not None:
        net.transformer.pooler = None
    return net
