"""Two texts that are both right of an image, as optional terms of SVLC's released code have them (2211.11733).

    even      KL(1/2, 1/2 || softmax(s v_i.t_i, s v_i.t+_i)), mean over images: neither text is preferred
    spread    KL(q_i || softmax over all texts and all second ones of s v_i.t), mean over images, with q_i the softmax of 1/2 at both own
              texts and 0 elsewhere: nearly even over the batch

Letters: N images of this process, M of all, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.gather import check_equal_rows, gather_rows, mean_over_processes, world


def equal_positives_loss(image_ND: Tensor, text_ND: Tensor, second_ND: Tensor, *, scale: Tensor) -> Tensor:
    """The mean, over the images of all processes, of how far an image is from liking both of its texts alike. Unit-norm rows."""
    logit_N2 = scale * torch.stack([(image_ND * text_ND).sum(-1), (image_ND * second_ND).sum(-1)], 1)
    even_N2 = torch.full_like(logit_N2, 0.5)
    return mean_over_processes(F.kl_div(F.log_softmax(logit_N2, 1), even_N2, reduction="batchmean"))


def flat_target_loss(image_ND: Tensor, text_ND: Tensor, second_ND: Tensor, *, scale: Tensor) -> Tensor:
    """The mean, over the images of all processes, of the distance of their choice among all texts from the released, flat target."""
    check_equal_rows(None, image=image_ND, text=text_ND, second=second_ND)
    every_MD = torch.cat([gather_rows(text_ND), gather_rows(second_ND)])
    rank, _ = world()
    count, all_texts = len(image_ND), len(every_MD) // 2
    own_NM = F.one_hot(torch.arange(count, device=image_ND.device) + rank * count, all_texts).to(image_ND.dtype)
    target_NM = F.softmax(torch.cat([own_NM, own_NM], 1) / 2, 1)
    chosen_NM = F.log_softmax(scale * image_ND @ every_MD.T, 1)
    return mean_over_processes(F.kl_div(chosen_NM, target_NM, reduction="batchmean"))
