"""Images against several texts each: every text of an image is its positive, to equal parts (CoCu, 2309.13505; GroupViT, 2202.11094).

    image to text    - mean over i of  1/K sum_k log softmax_(j,l) (s <x_i, t_jl>) at (i, k)
    text to image    - mean over i, k of    log softmax_j (s <t_ik, x_j>) at i
    loss             the mean of both

With K = 1 this is CLIP's loss. What implementations get wrong: the other texts of an image stay in the denominator of image to text (they
are positives there, not left out), and each text is a row of its own in text to image.

Letters: N images of all processes, K texts per image, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.objectives.gather import check_equal_rows, gather_rows


def several_texts(
    image_ND: Tensor, text_NKD: Tensor, *, scale: Tensor, group_N: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its two directions. Features are unit-norm.

    group_N  images with equal numbers are neither positives nor negatives of each other; None: every other image is a negative
    """
    check_equal_rows(None, image=image_ND, text=text_NKD)
    every_ND, every_MKD = gather_rows(image_ND), gather_rows(text_NKD)
    count, texts = len(every_ND), text_NKD.shape[1]
    same_NN = _others_of_group(gather_rows(group_N)) if group_N is not None else None
    to_text_NM = scale * every_ND @ every_MKD.flatten(0, 1).T
    to_image_MN = to_text_NM.T
    own_N = torch.arange(count, device=image_ND.device)
    if same_NN is not None:
        to_text_NM = to_text_NM.masked_fill(same_NN.repeat_interleave(texts, 1), -torch.inf)
        to_image_MN = to_image_MN.masked_fill(same_NN.repeat_interleave(texts, 0), -torch.inf)
    chance_NNK = F.log_softmax(to_text_NM, 1).unflatten(1, (count, texts))
    to_text = -chance_NNK[own_N, own_N].mean()
    to_image = F.cross_entropy(to_image_MN, own_N.repeat_interleave(texts))
    return (to_text + to_image) / 2, {"image_to_text": to_text, "text_to_image": to_image}


def _others_of_group(group_N: Tensor) -> Tensor:
    """bool [N, N]: another image of the same group."""
    equal_NN = group_N[:, None] == group_N[None, :]
    return equal_NN & ~torch.eye(len(group_N), dtype=torch.bool, device=group_N.device)
