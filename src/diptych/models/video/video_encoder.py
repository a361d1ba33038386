"""X-CLIP's module (2208.02816): clips to vectors, class names that each clip changes, and their logits.

Letters: B batch, T frames, K classes, L tokens, C channel, H W, P patches, D width of the tower, J joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.text.prompts.class_prompts import ClassPrompts
from diptych.models.layers.text_refiner import TextRefiner
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.video.frames import Begins, Drop, FrameFeatures, FrameMixer, FrameTower


@dataclass(frozen=True, slots=True)
class VideoLogits:
    """Logits [N, K] of every class: scale times the cosine of the clip with the class name as this clip changed it."""

    logit_NK: Rows[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """frames    of a clip, as many as there are positions
    messages  frames talk to each other in every block
    mixer     layers of the temporal transformer; 0: the mean of the frames
    prompts   layers by which class names look at the clip; 0: they do not
    drop      what stochastic depth leaves out, and begins, how new attention starts: see `FrameTower`
    """

    frames: int = 8
    messages: bool = True
    mixer: int = 1
    prompts: int = 2
    gate: float = 0.1
    drop_path: float = 0.0
    drop_messages_only: bool = False
    drop: Drop = "frames"
    begins: Begins = "plain"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


class VideoEncoder(nn.Module):
    """A dual encoder that reads clips. Its text side and temperature are frozen, its image side is trained; what is new is trained too.

    Vectors of class names change with nothing but the weights of the text side and are computed once (`set_classes`).
    """

    ids_KL: Tensor
    mask_KL: Tensor

    def __init__(self, encoder: DualEncoder, settings: VideoSettings) -> None:
        super().__init__()
        if settings.frames < 1 or settings.mixer < 0 or settings.prompts < 0:
            raise ConfigError(f"{settings} (expected one frame or more, and 0 or more layers)")
        self.settings, self.width = settings, encoder.width
        self.text_tower = encoder.text_tower.requires_grad_(False).eval()
        self.text_projection = encoder.text_projection.requires_grad_(False)
        self.log_scale = encoder.log_scale.requires_grad_(False)
        heads = max(1, encoder.width // 64)
        self.tower = FrameTower(
            encoder.image_tower,
            encoder.image_projection,
            messages=settings.messages,
            drop_path=settings.drop_path,
            drop_messages_only=settings.drop_messages_only,
            drop=settings.drop,
            begins=settings.begins,
        )
        self.mixer = FrameMixer(encoder.width, settings.frames, layers=settings.mixer, heads=heads, begins=settings.begins)
        inner = encoder.image_tower.token_width
        self.patch_norm = nn.LayerNorm(inner) if settings.prompts else None
        self.patch_projection_DJ = nn.Parameter(torch.randn(inner, encoder.width)) if settings.prompts else None
        self.refiner = (
            TextRefiner(encoder.width, layers=settings.prompts, heads=heads, act="quick_gelu", gate=settings.gate, std=0.02)
            if settings.prompts
            else None
        )
        for name in ("ids_KL", "mask_KL"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.int64), persistent=False)
        self._kept: tuple[Any, Tensor] | None = None

    def set_classes(self, prompts: ClassPrompts) -> None:
        """From now on the classes are these: rows of tokens without context."""
        device = self.log_scale.device
        self.ids_KL = torch.from_numpy(prompts.ids_KL).to(device)
        self.mask_KL = torch.from_numpy(prompts.mask_KL).to(device)
        self._kept = None

    def train(self, mode: bool = True) -> VideoEncoder:
        super().train(mode)
        self.text_tower.eval()
        return self

    def forward(self, image_BTCHW: Tensor) -> VideoLogits:
        """The logits of the classes at hand."""
        clip_BJ, patch_BPJ = self.encode_clips(image_BTCHW)
        return VideoLogits(self.logits(clip_BJ, patch_BPJ, self.texts()))

    def encode_clips(self, image_BTCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit vectors [B, J], and what class names look at: the patches, projected and averaged over frames [B, P, J]."""
        features: FrameFeatures = self.tower(image_BTCHW)
        clip_BJ = l2_normalise(self.mixer(features.frame_BTJ))
        if self.patch_norm is None or self.patch_projection_DJ is None:
            return clip_BJ, None
        return clip_BJ, (self.patch_norm(features.patch_BTPD) @ self.patch_projection_DJ).mean(1)

    def logits(self, clip_BJ: Tensor, patch_BPJ: Tensor | None, text_KJ: Tensor) -> Tensor:
        """[B, K] for texts as `texts` gives them."""
        scale = self.log_scale.exp()
        if self.refiner is None or patch_BPJ is None:
            return scale * clip_BJ @ l2_normalise(text_KJ).T
        text_BKJ = l2_normalise(self.refiner(text_KJ.expand(len(clip_BJ), -1, -1), patch_BPJ))
        return scale * torch.einsum("bj,bkj->bk", clip_BJ, text_BKJ)

    @torch.no_grad()
    def texts(self) -> Tensor:
        """[K, J] of the classes at hand, not normalised; recomputed only when a weight of the text side has changed."""
        weights = (*self.text_tower.parameters(), *self.text_tower.buffers(), *self.text_projection.parameters())
        state = tuple((id(tensor), tensor._version, tensor.dtype, tensor.device) for tensor in weights)
        if self._kept is None or self._kept[0] != state:
            pooled_KD = self.text_tower(self.ids_KL, self.mask_KL).pooled_BD
            self._kept = (state, self.text_projection(pooled_KD))
        return self._kept[1]
