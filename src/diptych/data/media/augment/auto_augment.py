"""AutoAugment (Cubuk et al., 2019, arXiv 1805.09501): a policy of colours and shears that was learned on ImageNet.  Letters: H W, C."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from diptych.data.media.transforms import Pixels


def auto_augment(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """One of the policy's 25 sub-policies, drawn by `rng`; torch's own random numbers stay as they are.

    It changes colours, inverts and shears: not for texts that name colours, or places near the border.
    """
    image_CHW = torch.from_numpy(np.ascontiguousarray(image_HWC)).permute(2, 0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        changed_CHW = _policy()(image_CHW)
    changed_HWC: Pixels = changed_CHW.permute(1, 2, 0).contiguous().numpy()
    return changed_HWC


@cache
def _policy() -> AutoAugment:
    return AutoAugment(AutoAugmentPolicy.IMAGENET)
