"""Which person: a classifier that reads each side only as far as it points where the other does (CMPC, Zhang and Lu, ECCV 2018).

With t = v.u, the length of the image vector v on the unit vector u of its text, the image's logits are  t u . w_k  over unit class vectors
w_k, and likewise for the text on its image. Both sides are classified along one line each, and the other side's direction decides.

What implementations get wrong: class vectors of any length, which makes frequent persons loud; the mean over both sides for their sum.

Letters: N pairs, D width, G persons.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def projection_classes(
    image_ND: Tensor, text_ND: Tensor, person_N: Tensor, class_GD: Tensor, *, process_group: Group = None
) -> Tensor:
    """The sum of both sides' mean cross-entropies.

    image_ND, text_ND  features of any length
    person_N   which class both show, 0..G-1
    class_GD   class vectors; their length does not count
    """
    total = sum(F.cross_entropy(logit_NG, person_N) for logit_NG in projection_logits(image_ND, text_ND, person_N, class_GD))
    return mean_over_processes(cast(Tensor, total), process_group)


def projection_logits(image_ND: Tensor, text_ND: Tensor, person_N: Tensor, class_GD: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the images and of the texts over classes, each [N, G] in float32 or wider. Raises ShapeError."""
    if image_ND.shape != text_ND.shape or person_N.shape != image_ND.shape[:1] or class_GD.shape[1:] != image_ND.shape[1:]:
        raise ShapeError(
            f"images, texts, persons and classes must be [N, D], [N, D], [N] and [G, D]; got {list(image_ND.shape)}, "
            f"{list(text_ND.shape)}, {list(person_N.shape)} and {list(class_GD.shape)}"
        )
    dtype = torch.promote_types(image_ND.dtype, torch.float32)
    image_ND, text_ND = image_ND.to(dtype), text_ND.to(dtype)
    class_GD = F.normalize(class_GD.to(dtype), dim=-1)

    def logits(own_ND: Tensor, other_ND: Tensor) -> Tensor:
        unit_ND = F.normalize(other_ND, dim=-1)
        return (own_ND * unit_ND).sum(-1, keepdim=True) * (unit_ND @ class_GD.T)

    return logits(image_ND, text_ND), logits(text_ND, image_ND)


@torch.no_grad()
def projection_precision(image_ND: Tensor, text_ND: Tensor, person_N: Tensor, class_GD: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the images and of the texts whose likeliest class is their person, two scalars, as the released code reports them."""
    image_NG, text_NG = projection_logits(image_ND, text_ND, person_N, class_GD)
    return (image_NG.argmax(1) == person_N).float().mean(), (text_NG.argmax(1) == person_N).float().mean()
