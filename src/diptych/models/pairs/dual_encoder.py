"""Dual encoder: two towers with a joint embedding space, as in CLIP (2103.00020) and SigLIP (2303.15343).

Letters: B batch, N items, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import l2_normalise
from diptych.models.towers.outputs import PairFeatures, Projection, Tower

Bias = Literal["none", "text", "image", "both"]
"""Which of the two projections have a bias."""


class PairModule(nn.Module):
    """Base of two-sided models: a learned temperature and, for sigmoid losses, a bias.

    The temperature is stored in log space as `log_scale` [1] and returned as scale = exp(log_scale), the factor of similarities.
    Call `clamp_scale_` after each optimiser step to keep it below `max_scale`: clamping in `forward` would
    stop the gradient at the bound. Published initial values: scale 1/0.07 and no bias (CLIP); scale 10 and bias -10 (SigLIP).
    """

    def __init__(self, *, scale: float = 1 / 0.07, bias: float | None = None, max_scale: float = 100.0) -> None:
        super().__init__()
        if not 1 <= scale <= max_scale:
            raise ConfigError(f"scale {scale:g} is out of bounds (expected 1..{max_scale:g})")
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.full((1,), math.log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.full((1,), float(bias)))

    def pairs(self, image_ND: Tensor, text_ND: Tensor) -> PairFeatures:
        # `+ 0` makes the bias an output of this module and not the parameter itself, which sharding may free after forward.
        return PairFeatures(image_ND, text_ND, self.log_scale.exp(), None if self.bias is None else self.bias + 0)

    @torch.no_grad()
    def clamp_scale_(self, most: float | None = None) -> None:
        """Keep the temperature in [1, most], or in [1, max_scale]; with most 0 it is unchanged.
        Call it after each optimiser step.
        """
        if most == 0:
            return
        self.max_scale = most or self.max_scale
        self.log_scale.clamp_(0.0, math.log(self.max_scale))


class DualEncoder(PairModule):
    """Dual encoder: the pooled vector of each tower, projected and normalised.

    `projection_bias`: which projections have a bias: "none" (CLIP), "text" (SigLIP), "both" (CTP, ALBEF).

    Training calls only `forward`, which returns both scalars with the features, so data-parallel and
    sharded wrappers see every parameter used. `project_image` False uses the image tower's vector unprojected (ALIGN, SigLIP):
    `width` must then be the tower's. The same holds for `project_text` (KEEP),
    and for a tower whose own head maps into the joint space (CLIP's residual networks). For a tower with pretrained weights,
    `Tower.projection` is the kind of its projection.
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        *,
        width: int,
        scale: float = 1 / 0.07,
        bias: float | None = None,
        max_scale: float = 100.0,
        project_image: bool = True,
        project_text: bool = True,
        projection_bias: Bias = "none",
    ) -> None:
        super().__init__(scale=scale, bias=bias, max_scale=max_scale)
        image = _form(image_tower, bias=projection_bias in ("image", "both"), project=project_image)
        text = _form(text_tower, bias=projection_bias in ("text", "both"), project=project_text)
        self.width, self.project_image, self.project_text = width, image != "none", text != "none"
        self.projection_bias: Bias = _BIASES[image == "bias", text == "bias"]
        self.image_tower, self.text_tower = image_tower, text_tower
        self.image_projection = _projection(image_tower, width, image, "image")
        self.text_projection = _projection(text_tower, width, text, "text")

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, text_mask_BL: Tensor | None = None) -> PairFeatures:
        return self.pairs(self.encode_image(image_BCHW), self.encode_text(text_BL, text_mask_BL))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Unit-norm [B, width], float32 (float64 when the model is)."""
        return l2_normalise(self.image_projection(self.image_tower(image_BCHW).pooled_BD))

    def encode_text(self, text: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Unit-norm [B, width] from token ids [B, L], or from token embeddings [B, L, D] if the tower supports them."""
        return l2_normalise(self.text_vectors(text, mask_BL))

    def text_vectors(self, text: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Return text embeddings before L2 normalisation."""
        text, mask_BL = self._trimmed(text, mask_BL)
        vector_BD: Tensor = self.text_projection(self.text_tower(text, mask_BL).pooled_BD)
        return vector_BD

    def _trimmed(self, text: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Remove columns of only padding, if the tower's vector does not depend on them.

        With a dozen tokens in rows of 77, padding would be most of the work of a text tower. This is done only on the CPU,
        since devices and compiled graphs prefer constant shapes.
        """
        tower = self.text_tower
        if (
            mask_BL is None
            or mask_BL.device.type != "cpu"
            or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            or torch.compiler.is_compiling()
            or not getattr(tower, "ignores_padding", False)
        ):
            return text, mask_BL
        length = int(mask_BL.any(0).nonzero().amax().item()) + 1 if bool(mask_BL.any()) else text.shape[1]
        return text[:, :length], mask_BL[:, :length]


def encoder_of(model: nn.Module) -> DualEncoder:
    """Return the model if it is a dual encoder, else the dual encoder in its attribute `encoder`.

    Only this encoder is deployed, without heads, companions, queues and memories. Copies nothing. Raises ConfigError.
    """
    encoder = model if isinstance(model, DualEncoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, DualEncoder):
        raise ConfigError(f"{type(model).__name__} is not a dual encoder (expected one, or a model that holds one as `encoder`)")
    return encoder


def projection_of(tower: Tower, width: int, side: Literal["image", "text"], *, project: bool = True) -> nn.Module:
    """Return the projection of a `DualEncoder` without biases for this tower, newly initialised."""
    return _projection(tower, width, _form(tower, bias=False, project=project), side)


_BIASES: dict[tuple[bool, bool], Bias] = {
    (False, False): "none",
    (False, True): "text",
    (True, False): "image",
    (True, True): "both",
}


def _form(tower: Tower, *, bias: bool, project: bool = True) -> Projection:
    """Return the kind of a tower's projection: that of its pretrained weights, else that of the dual encoder."""
    if tower.projection:
        return tower.projection
    return "none" if tower.projects or not project else "bias" if bias else "plain"


def _projection(tower: Tower, width: int, form: Projection, side: str) -> nn.Module:
    if form == "none":
        if tower.width != width:
            raise ConfigError(f"width is {width} but the {side} is not projected (expected {tower.width}, its tower's width)")
        return nn.Identity()
    projection = nn.Linear(tower.width, width, bias=form == "bias")
    nn.init.normal_(projection.weight, std=tower.width**-0.5)
    if form == "bias":
        nn.init.zeros_(projection.bias)
    return projection
