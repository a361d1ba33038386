"""A loss at every step of an iterated network (Recurrent Relational Networks, Palm et al., 2018, arXiv 1711.08028).

Every step has to answer, so that later ones refine what earlier ones said and the network can go on beyond the steps of training.

Letters: B batch, T steps, A answers, K classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def stepwise_cross_entropy(logit_BTAK: Tensor, answer_BA: Tensor, *, last: bool = False) -> Tensor:
    """The mean over steps, problems and answers of the cross-entropy.

    answer_BA  int64, the right class of each answer
    last       only the last step counts
    """
    if last:
        logit_BTAK = logit_BTAK[:, -1:]
    target_BTA = answer_BA[:, None].expand(logit_BTAK.shape[:-1])
    return F.cross_entropy(logit_BTAK.flatten(0, -2).float(), target_BTA.flatten())
