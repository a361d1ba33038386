"""Compare features with prototypes of clusters: ProtoCLIP (Chen et al., 2022, 2206.10996).

Clusters come from one modality, prototypes from the other ("back translation"): for clusters y of the texts, an image x is compared
with the means of *image* features over text clusters,

    c_k = mean{ h(x_n) : y_n = k },     loss = mean_n CE( s h(x_n) . c , q_n ),
    q_n = softmax_k( C_{y_n} . C_k / tau ),   one-hot at y_n where tau <= 0,

with the texts' own centroids C in the target: nearby clusters are half right. Prototypes, labels and centroids are constants.

What implementations get wrong: an empty cluster is a row of zeros, which is a free negative of logit 0 for everybody; it is left out
here, of logits and targets. Rows without a label (-1) are in no sum.

Letters: N items of this process, K clusters, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes


@torch.no_grad()
def group_means(x_ND: Tensor, label_N: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """mean_KD of the rows of each label, zeros where there is none, and filled_K, which says where there is one."""
    if label_N.shape != x_ND.shape[:1] or (len(label_N) and not 0 <= int(label_N.min()) <= int(label_N.max()) < groups):
        raise ShapeError(f"labels must be [{len(x_ND)}] numbers from 0 to {groups - 1}, got {list(label_N.shape)}")
    sum_KD = x_ND.new_zeros(groups, x_ND.shape[1], dtype=torch.float64).index_add_(0, label_N, x_ND.double())
    count_K = torch.bincount(label_N, minlength=groups)
    return (sum_KD / count_K.clamp_min(1)[:, None]).to(x_ND), count_K > 0


@torch.no_grad()
def soft_targets(centroid_KD: Tensor, filled_K: Tensor, label_N: Tensor, tau: float) -> Tensor:
    """Shares [N, K] of the clusters in the target of each label; the rows of label -1 have no meaning."""
    known_N = label_N.clamp_min(0)
    if tau <= 0:
        return torch.nn.functional.one_hot(known_N, len(centroid_KD)).to(centroid_KD)
    logit_NK = centroid_KD[known_N] @ centroid_KD.T / tau
    return logit_NK.masked_fill(~filled_K, -torch.inf).softmax(1).nan_to_num(0.0)


def prototype_loss(
    x_ND: Tensor,
    prototype_KD: Tensor,
    filled_K: Tensor,
    target_NK: Tensor,
    label_N: Tensor,
    *,
    scale: Tensor | float,
    process_group: Group = None,
) -> Tensor:
    """Mean cross-entropy over the rows with a label in the global batch; 0, with a gradient of zeros, when there is none.

    x_ND       unit-norm features
    filled_K   False leaves a cluster out
    target_NK  shares of the clusters, 0 where empty
    """
    if prototype_KD.shape != (len(filled_K), x_ND.shape[1]) or target_NK.shape != (len(x_ND), len(filled_K)):
        shapes = ", ".join(str(list(t.shape)) for t in (x_ND, prototype_KD, filled_K, target_NK))
        raise ShapeError(f"features [N, D], prototypes [K, D], filled [K] and targets [N, K] do not fit: {shapes}")
    if label_N.shape != x_ND.shape[:1]:
        raise ConfigError(f"labels must be [{len(x_ND)}], got {list(label_N.shape)}")
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    logit_NK = scale * x_ND.to(dtype) @ prototype_KD.detach().to(dtype).T
    log_share_NK = logit_NK.masked_fill(~filled_K, -1e30).log_softmax(1).masked_fill(~filled_K, 0)
    loss_N = -(target_NK.detach().to(dtype) * log_share_NK).sum(1)
    counted_N = (label_N >= 0).to(dtype)
    count = mean_over_processes(counted_N.sum(), process_group)
    return mean_over_processes((loss_N * counted_N).sum(), process_group) / count.clamp_min(torch.finfo(dtype).tiny)


@torch.no_grad()
def prototype_accuracy(
    x_ND: Tensor, prototype_KD: Tensor, filled_K: Tensor, label_N: Tensor, *, process_group: Group = None
) -> Tensor:
    """Share of the rows with a label in the global batch whose nearest prototype, by inner product, is that of their label; 0 when there
    is none. Of equal ones the lowest counts. The released code logs it in percent, as `acc_img2text` and the like.
    """
    logit_NK = (x_ND @ prototype_KD.to(x_ND).T).masked_fill(~filled_K, -torch.inf)
    counted_N = label_N >= 0
    right_N = counted_N & (logit_NK.argmax(1) == label_N)
    count, right = (mean_over_processes(each_N.sum().to(x_ND), process_group) for each_N in (counted_N, right_N))
    return right / count.clamp_min(torch.finfo(x_ND.dtype).tiny)
