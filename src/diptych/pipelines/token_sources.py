"""Maps each image token of a language model to its source patches, for connectors that reduce the number of tokens.

Letters: K tokens, T frames, P patches (of all frames), H W rows and columns of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Share, visible_share
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.io.inference import evaluating

REDUCING = ("merging", "pooled", "shuffled")
"""Connector types that produce fewer tokens than patches."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSources:
    """Source map of a picture's, or a clip's, tokens.

    share_KTHW  share of each patch in each token; a token's shares sum to 1 or, where it has taken in the class token, to less
    frames      numbers of the pictures that were shown
    box         part of each picture under the grid: x0, y0, x1, y1 as shares of its sides (below 0 or above 1: padding)
    """

    share_KTHW: npt.NDArray[np.float32]
    frames: tuple[int, ...]
    box: Share

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """Token in which each patch has its largest share, [T, H, W], the first on a tie; -1 for a patch in no token."""
        return np.where(self.share_KTHW.max(0) > 0, self.share_KTHW.argmax(0), -1)

    def lines(self) -> list[str]:
        """Lines to print: the number of tokens, and the number of patches that they cover."""
        frames, rows, columns = self.share_KTHW.shape[1:]
        count_K = (self.share_KTHW > 0).sum((1, 2, 3))
        many = f"{frames} frames of {rows} x {columns}" if frames > 1 else f"{rows} x {columns}"
        return [
            f"{len(count_K)} tokens for {many} patches",
            f"  a token stands for {count_K.min()} to {count_K.max()} patches, {count_K.mean():.1f} on average",
        ]

    def to_json(self) -> dict[str, Any]:
        rows, columns = self.share_KTHW.shape[2:]
        facts = {
            "tokens": len(self.share_KTHW),
            "rows": rows,
            "columns": columns,
            "frames": list(self.frames),
            "box": list(self.box),
        }
        return {**facts, "owner": self.owners.tolist()}


def reduces_tokens(model: Any) -> bool:
    """True if the language model reads fewer image tokens than there are patches, so `token_sources` supports the model."""
    return isinstance(model, BridgeGenerator) and hasattr(model.bridge.connector, "reduce")


def token_sources(model: BridgeGenerator, images: Sequence[ImageSource]) -> TokenSources:
    """Source map of a model's tokens for an image, or for the frames of a clip. A model that tiles images gets the image as a
    single tile.

    Raises ConfigError for a model whose tokens are patches, or mixtures of all of them, and for several images if it reads no
    clips.
    """
    reduce = getattr(model.bridge.connector, "reduce", None)
    if reduce is None:
        raise ConfigError(f"'{model.name}' reduces no tokens (expected a model such as simvlg, pllava or mono_internvl)")
    if len(images) != 1 and not model.frames:
        raise ConfigError(f"{len(images)} pictures for '{model.name}', which does not read clips (expected one)")
    numbers = tuple(model.frame_numbers(len(images))) if model.frames else (0,)
    shown = [decode(images[number], exact=True) for number in numbers]
    device = next(model.bridge.parameters()).device
    image_THWC = model.preprocess(shown).to(device)
    with torch.no_grad(), evaluating(model.bridge):
        encoded = model.bridge.encoder(image_THWC[None] if model.frames else image_THWC)
        share_KP = reduce(encoded.tokens_BPD).source_BKP[0].float().cpu().numpy()
    count = share_KP.shape[1] // len(numbers)
    side = math.isqrt(count)
    if side * side == count - 1:  # a class token precedes the patches of each frame
        share_KTP = share_KP.reshape(len(share_KP), len(numbers), count)[..., 1:]
    elif side * side == count:
        share_KTP = share_KP.reshape(len(share_KP), len(numbers), count)
    else:
        raise ConfigError(f"{count} patches per picture do not form a square, with or without a class token")
    box = visible_share(model.preprocess, *shown[0].shape[:2][::-1])
    return TokenSources(share_KTP.reshape(*share_KTP.shape[:2], side, side), numbers, box)
