"""Pixels of hidden patches (masked autoencoders, 2111.06377).  Letters: B batch, C H W of images, P patches, N numbers of a patch."""

from __future__ import annotations

from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def patch_pixels(image_BCHW: Tensor, patch: int, *, normalised: bool = True) -> Tensor:
    """[B, P, N] of the patches row by row, within one its rows, columns and channels; less its mean and divided by its deviation
    (unbiased) where `normalised`."""
    if image_BCHW.shape[-1] % patch or image_BCHW.shape[-2] % patch:
        raise ShapeError(f"images of {list(image_BCHW.shape[-2:])} pixels have no whole patches of {patch}")
    cut = image_BCHW.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, C, rows, patch, columns, patch]
    pixel_BPN = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    if not normalised:
        return pixel_BPN
    mean_BP1, variance_BP1 = pixel_BPN.mean(-1, keepdim=True), pixel_BPN.var(-1, keepdim=True)
    return (pixel_BPN - mean_BP1) / (variance_BP1 + 1e-6) ** 0.5


def masked_pixels(
    guess_BPN: Tensor, image_BCHW: Tensor, hidden_BP: Tensor, *, patch: int, normalised: bool = True, process_group: Group = None
) -> Tensor:
    """Mean squared error of the pixels of hidden patches, a mean over those of the global batch.

    hidden_BP  bool; every row hides equally many patches
    """
    target_BPN = patch_pixels(image_BCHW, patch, normalised=normalised)
    if guess_BPN.shape != target_BPN.shape or hidden_BP.shape != guess_BPN.shape[:2]:
        raise ShapeError(f"guesses must be {list(target_BPN.shape)}, got {list(guess_BPN.shape)}")
    error_BP = (guess_BPN.float() - target_BPN).square().mean(-1)
    return mean_over_processes((error_BP * hidden_BP).sum() / hidden_BP.sum().clamp(min=1), process_group)
