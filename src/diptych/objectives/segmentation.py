"""Losses of label maps.  Letters: B batch, K classes, H W."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORE = 255


def pixel_cross_entropy(logit_BKHW: Tensor, label_BHW: Tensor, *, count_ignored: bool = False) -> Tensor:
    """Cross-entropy of logits that are first resized (bilinear) to the labels; pixels of label 255 have none.

    The mean runs over the pixels that have a label. `count_ignored` divides by all pixels instead, as mmsegmentation did when DenseCLIP
    was trained with it; the more of a picture is ignored, the less it then weighs. A batch without a label has loss 0.
    """
    logit_BKHW = F.interpolate(logit_BKHW, size=label_BHW.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logit_BKHW, label_BHW.long(), ignore_index=IGNORE, reduction="sum")
    count = label_BHW.numel() if count_ignored else (label_BHW != IGNORE).sum().clamp_min(1)
    return total / count
