"""One encoder of pictures with the loss that it learns by, whichever kind it is.

Letters: B batch, S slots, D width, T terms of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.slots.iodine import Iodine
from diptych.models.slots.masked_autoencoder import MaskedAutoencoder, hidden_patch_error
from diptych.models.slots.slate import Slate
from diptych.models.slots.slot_attention import BroadcastDecoder, SlotEncoder
from diptych.models.slots.vectors import VectorAutoencoder, vector_kl

EncoderKind = Literal["slot_attention", "slate", "iodine", "vae", "mae"]
TERMS: dict[str, tuple[str, ...]] = {
    "slot_attention": ("picture",),
    "slate": ("picture", "tokens"),
    "iodine": ("bound",),
    "vae": ("picture", "kl"),
    "mae": ("patches",),
}
"""Names of the terms of each kind's loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """Sizes of the slots (slot_attention, slate, iodine).

    slots    number of slots
    width    of a slot
    hidden   width of the residual MLP
    rounds   of attention; of refinement with iodine
    heads    of attention
    features channels of the convolutions, those of the decoder too
    """

    slots: int = 6
    width: int = 192
    hidden: int = 192
    rounds: int = 3
    heads: int = 1
    features: int = 64

    def __post_init__(self) -> None:
        _require_positive(self)
        if self.width % self.heads:
            raise ConfigError(f"width is {self.width}, heads {self.heads} (expected heads that divide the width)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateShape:
    """Sizes of SLATE's decoder.

    tokens         of the codebook
    token_width    of the token decoder
    token_blocks   of the token decoder
    token_heads    of the token decoder
    token_dropout  of the token decoder
    """

    tokens: int = 4096
    token_width: int = 192
    token_blocks: int = 4
    token_heads: int = 4
    token_dropout: float = 0.1

    def __post_init__(self) -> None:
        _require_positive(self, "tokens", "token_width", "token_blocks", "token_heads")
        if self.token_width % self.token_heads or not 0 <= self.token_dropout < 1:
            raise ConfigError(
                f"token_width is {self.token_width}, token_heads {self.token_heads}, token_dropout {self.token_dropout} (expected heads "
                "that divide the width, and 0 or more, below 1)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IodineShape:
    """IODINE.

    sigma          deviation of a pixel
    beta           weight of the KL
    refine_hidden  channels of the refinement network, and width of its LSTM
    refine_layers  convolutions of the refinement network
    reads_cell     updates are read from the LSTM's cell, as in the release of OCR-RL
    """

    sigma: float = 0.35
    beta: float = 1.0
    refine_hidden: int = 256
    refine_layers: int = 4
    reads_cell: bool = False

    def __post_init__(self) -> None:
        _require_positive(self, "sigma", "refine_hidden", "refine_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorShape:
    """The VAE's width and weight of its KL, and the masked autoencoder's sizes.

    vector_width, kl_weight  of the VAE
    patch, patch_width, patch_depth, patch_heads, decoder_width, decoder_depth, decoder_heads, hidden_share  of the masked autoencoder
    """

    vector_width: int = 256
    kl_weight: float = 1e-4
    patch: int = 8
    patch_width: int = 768
    patch_depth: int = 12
    patch_heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    hidden_share: float = 0.75

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "vector_width",
            "patch",
            "patch_width",
            "patch_depth",
            "patch_heads",
            "decoder_width",
            "decoder_depth",
            "decoder_heads",
        )
        if self.patch_width % self.patch_heads or self.decoder_width % self.decoder_heads or not 0 < self.hidden_share < 1:
            raise ConfigError(
                f"patch_width is {self.patch_width}, patch_heads {self.patch_heads}, decoder_width {self.decoder_width}, decoder_heads "
                f"{self.decoder_heads}, hidden_share {self.hidden_share} (expected heads that divide the width, and a share "
                "between 0 and 1)"
            )


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """An encoder by its kind and sizes; saved with the model."""

    kind: EncoderKind
    size: int
    slots: SlotShape = field(default_factory=SlotShape)
    slate: SlateShape = field(default_factory=SlateShape)
    iodine: IodineShape = field(default_factory=IodineShape)
    vector: VectorShape = field(default_factory=VectorShape)


@dataclass(frozen=True, slots=True)
class ObjectTerms:
    """Terms of the loss of each picture, in the order of `TERMS`."""

    term_BT: Rows[Tensor]


class ObjectNetwork(nn.Module):
    """An encoder and its decoder. Errors of pictures are summed over their pixels, tokens' cross-entropies over the tokens."""

    def __init__(self, shape: ObjectShape) -> None:
        super().__init__()
        if shape.kind not in TERMS:
            raise ConfigError(f"encoder is {shape.kind!r} (expected {' | '.join(TERMS)})")
        self.shape, slots = shape, shape.slots
        sizes: dict[str, Any] = {"slots": slots.slots, "width": slots.width, "features": slots.features, "rounds": slots.rounds}
        if shape.kind == "iodine":
            extra = shape.iodine
            self.iodine = Iodine(
                shape.size, **sizes, sigma=extra.sigma, beta=extra.beta, hidden=extra.refine_hidden, layers=extra.refine_layers,
                reads_cell=extra.reads_cell,
            )  # fmt: skip
        elif shape.kind == "vae":
            self.vae = VectorAutoencoder(shape.size, width=shape.vector.vector_width)
        elif shape.kind == "mae":
            v = shape.vector
            self.mae = MaskedAutoencoder(
                shape.size, patch=v.patch, width=v.patch_width, depth=v.patch_depth, heads=v.patch_heads, decoder_width=v.decoder_width,
                decoder_depth=v.decoder_depth, decoder_heads=v.decoder_heads, hidden_share=v.hidden_share,
            )  # fmt: skip
        else:
            encoder = SlotEncoder(shape.size, **sizes, hidden=slots.hidden, heads=slots.heads)
            if shape.kind == "slate":
                s = shape.slate
                self.slate = Slate(
                    shape.size,
                    encoder,
                    tokens=s.tokens,
                    width=s.token_width,
                    blocks=s.token_blocks,
                    heads=s.token_heads,
                    dropout=s.token_dropout,
                )
            else:
                self.encoder = encoder
                self.decoder = BroadcastDecoder(shape.size, features=slots.features, width=slots.width)

    def forward(self, image_BCHW: Tensor) -> ObjectTerms:
        kind = self.shape.kind
        if kind == "iodine":
            return ObjectTerms(self.iodine(image_BCHW).loss_B[:, None])
        if kind == "vae":
            read = self.vae(image_BCHW)
            kl_B = self.shape.vector.kl_weight * vector_kl(read.mean_BD, read.log_variance_BD)
            return ObjectTerms(torch.stack([_error(read.image_BCHW, image_BCHW), kl_B], 1))
        if kind == "mae":
            drawn = self.mae(image_BCHW)
            return ObjectTerms(hidden_patch_error(drawn.drawn_BPd, drawn.patch_BPd, drawn.hidden_BP)[:, None])
        if kind == "slate":
            made = self.slate(image_BCHW)
            log_BN = made.logit_BNV.log_softmax(-1).gather(-1, made.id_BN[..., None])[..., 0]
            return ObjectTerms(torch.stack([_error(made.image_BCHW, image_BCHW), -log_BN.sum(1)], 1))
        slot_BSD, _ = self.encoder(image_BCHW)
        picture_BSCHW, mask_BS1HW = self.decoder(slot_BSD)
        return ObjectTerms(_error((picture_BSCHW * mask_BS1HW).sum(1), image_BCHW)[:, None])

    @property
    def has_masks(self) -> bool:
        """True for the kinds with slots."""
        return self.shape.kind in ("slot_attention", "slate", "iodine")

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal numbers of one picture that slots begin with; empty for kinds that take none."""
        slots = (self.shape.slots.slots, self.shape.slots.width)
        return (self.shape.slots.rounds, *slots) if self.shape.kind == "iodine" else slots if self.has_masks else ()

    def represent(self, image_BCHW: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Slots [B, S, D] that a policy reads (one vector of a VAE, patches of a masked autoencoder), and masks [B, S, H, W] of slots.

        noise  [B, *noise_shape]; None draws it. Masks of slot attention are those of its decoder, of SLATE its attention.
        """
        kind = self.shape.kind
        if kind == "vae":
            return self.vae.mean(self.vae.grid(image_BCHW).flatten(1))[:, None], None
        if kind == "mae":
            return self.mae.tokens(image_BCHW), None
        if kind == "iodine":
            made = self.iodine(image_BCHW, None if noise is None else noise.transpose(0, 1))
            return made.slot_BKL.detach(), made.mask_BKHW.detach()
        if kind == "slate":
            slot_BSD, mask_BSHW = self.slate.encoder(image_BCHW, noise)
            return slot_BSD, mask_BSHW
        slot_BSD, _ = self.encoder(image_BCHW, noise)
        return slot_BSD, self.decoder(slot_BSD)[1][:, :, 0]


def _require_positive(sizes: Any, *names: str) -> None:
    """Raises ConfigError for the first of these fields (default: all) that is not above 0."""
    for name in names or [each.name for each in fields(sizes)]:
        if not getattr(sizes, name) > 0:
            raise ConfigError(f"{name} is {getattr(sizes, name)} (expected above 0)")


def _error(made_BCHW: Tensor, image_BCHW: Tensor) -> Tensor:
    return (made_BCHW - image_BCHW).square().flatten(1).sum(1)
