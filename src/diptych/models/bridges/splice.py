"""Inserts image tokens among word embeddings.  Letters: B batch, L positions, K tokens per picture, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ShapeError


def splice(word_BLD: Tensor, picture_BKD: Tensor, slot_BL: Tensor, count_B: Tensor | None = None) -> Tensor:
    """`word_BLD` with the tokens of each row's picture, in order, at the positions where `slot_BL` is True. [B, L, D]

    With `count_B` a row has this many pictures, and `picture_BKD` holds those of all rows, one row's after another's.
    Word embeddings come directly from the language model's table; Gemma multiplies them by the root of its width, and image
    tokens are inserted next to the products. Raises ShapeError if a row has more or fewer places than a picture has tokens.
    """
    on_host = slot_BL.device.type == "cpu"  # of a GPU the host would wait to count; rows were laid out on the host
    pictures = len(word_BLD) if count_B is None else int(count_B.sum()) if on_host else len(picture_BKD)
    if picture_BKD.ndim != 3 or len(picture_BKD) != pictures or picture_BKD.shape[2] != word_BLD.shape[2]:
        raise ShapeError(
            f"pictures must be [{pictures}, K, D], with the D of the words {list(word_BLD.shape)}; got {list(picture_BKD.shape)}"
        )
    found_B, tokens = slot_BL.sum(1), picture_BKD.shape[1]
    wanted_B = tokens * (torch.ones_like(found_B) if count_B is None else count_B)
    if on_host and bool((found_B != wanted_B).any()):
        row = int((found_B != wanted_B).nonzero()[0])
        whose = "picture" if count_B is None else "pictures"
        raise ShapeError(f"row {row} has {int(found_B[row])} slots for the {int(wanted_B[row])} tokens of its {whose}")
    spliced_BLD: Tensor = word_BLD.masked_scatter(slot_BL[..., None], picture_BKD.to(word_BLD.dtype))
    return spliced_BLD


@torch.no_grad()
def norm_ratio(picture_BKD: Tensor, word_BLD: Tensor, word_mask_BL: Tensor) -> Tensor:
    """Mean norm of a picture's token over mean norm of a word's embedding. [1]

    Near 1 image tokens and words have the same scale; far from 1 training starts with image tokens that are ignored or that
    dominate the words.
    """
    norm_BL: Tensor = word_BLD.float().norm(dim=2)
    if word_mask_BL.device.type == "cpu":
        words: Tensor = norm_BL[word_mask_BL].mean()
    else:  # without an index of unknown length, for which the host would wait
        words = norm_BL.masked_fill(~word_mask_BL, 0).sum() / word_mask_BL.sum()
    pictures: Tensor = picture_BKD.float().norm(dim=2).mean()
    return (pictures / words).reshape(1)


@torch.no_grad()
def norm_kurtosis(picture_BKD: Tensor) -> Tensor:
    """Kurtosis of the norms of all pictures' tokens, [1]: 3 where they are spread as by a normal distribution, 0 where all are equal.

    Large values mean that a few tokens have far larger norms than the rest. PLLaVA (2404.16994) sees such dominant tokens where
    frames are fine-tuned on without pooling, and answers that get short and depend on the wording of a role mark.
    """
    norm_N = picture_BKD.float().norm(dim=2).flatten()
    centred_N = norm_N - norm_N.mean()
    variance = centred_N.square().mean()
    kurtosis: Tensor = centred_N.pow(4).mean() / variance.square().clamp_min(1e-24)
    return kurtosis.reshape(1)
