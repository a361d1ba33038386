"""Prototypical contrastive loss between features and cluster prototypes: ProtoCLIP (Chen et al., 2022, 2206.10996).

Clusters come from one modality, prototypes from the other ("back translation"): for clusters y of the texts, an image x is
compared with the means of *image* features over text clusters,

    c_k = mean{ h(x_n) : y_n = k },     loss = mean_n CE( s h(x_n) . c , q_n ),
    q_n = softmax_k( C_{y_n} . C_k / tau ),   one-hot at y_n where tau <= 0,

with the texts' own centroids C in the target, so nearby clusters get partial credit. Prototypes, labels and centroids are
constants.

`back_translation` is the complete loss for both sides; `prototype_loss` is one side, with arbitrary targets.

What implementations get wrong: an empty cluster is a row of zeros, which acts as a negative of logit 0 for every sample; here it
is excluded from logits and targets. Rows without a label (-1) are excluded from all sums.

Letters: N items of this process, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes


@dataclass(frozen=True, slots=True)
class ClusterTargets:
    """Cluster labels and centroids of one kind of features, for the rows of a batch.

    label_N      each row's cluster, -1 if unknown
    centroid_KD  cluster centroids; clusters nearer to a row's own centroid get more target weight
    filled_K     bool, False for an empty cluster, which is left out; None: all have members
    """

    label_N: Tensor
    centroid_KD: Tensor
    filled_K: Tensor | None = None


@torch.no_grad()
def group_means(x_ND: Tensor, label_N: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Means of the rows of each label: mean_KD, zero for labels without rows, and filled_K, True for labels with rows."""
    if label_N.shape != x_ND.shape[:1] or (len(label_N) and not 0 <= int(label_N.min()) <= int(label_N.max()) < groups):
        raise ShapeError(f"labels must be [{len(x_ND)}] numbers from 0 to {groups - 1}, got {list(label_N.shape)}")
    sum_KD = x_ND.new_zeros(groups, x_ND.shape[1], dtype=torch.float64).index_add_(0, label_N, x_ND.double())
    count_K = torch.bincount(label_N, minlength=groups)
    return (sum_KD / count_K.clamp_min(1)[:, None]).to(x_ND), count_K > 0


@torch.no_grad()
def soft_targets(clusters: ClusterTargets, tau: float) -> Tensor:
    """Soft cluster targets target_NK, by similarity to each row's own cluster; tau <= 0 makes them one-hot. Rows of label -1 are
    zero."""
    label_N, centroid_KD = clusters.label_N, clusters.centroid_KD
    own_N = label_N.clamp_min(0)
    if tau <= 0:
        target_NK = torch.nn.functional.one_hot(own_N, len(centroid_KD)).to(centroid_KD)
    else:
        logit_NK = centroid_KD[own_N] @ centroid_KD.T / tau
        if clusters.filled_K is not None:
            logit_NK = logit_NK.masked_fill(~clusters.filled_K, -torch.inf)
        target_NK = logit_NK.softmax(1).nan_to_num(0.0)
    return target_NK.masked_fill(label_N[:, None] < 0, 0)


def prototype_logits(x_ND: Tensor, prototype_KD: Tensor, *, scale: Tensor | float, filled_K: Tensor | None = None) -> Tensor:
    """logit_NK = scale * x . prototype, in at least float32; -inf for clusters that are left out. Prototypes have no gradient."""
    if x_ND.ndim != 2 or prototype_KD.shape[1:] != x_ND.shape[1:]:
        raise ShapeError(f"features [N, D] and prototypes [K, D] do not fit: {list(x_ND.shape)}, {list(prototype_KD.shape)}")
    if filled_K is not None and filled_K.shape != prototype_KD.shape[:1]:
        raise ShapeError(f"filled_K must be [{len(prototype_KD)}], got {list(filled_K.shape)}")
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    logit_NK = scale * x_ND.to(dtype) @ prototype_KD.detach().to(dtype).T
    return logit_NK if filled_K is None else logit_NK.masked_fill(~filled_K, -torch.inf)


def prototype_loss(
    x_ND: Tensor,
    prototype_KD: Tensor,
    target: Tensor,
    *,
    scale: Tensor | float,
    filled_K: Tensor | None = None,
    ignore_index: int = -1,
    process_group: Group = None,
) -> Tensor:
    """Mean cross-entropy over the rows with a target in the global batch; 0, with a zero gradient, if no row has one.

    x_ND      unit-norm features
    target    as in `torch.nn.functional.cross_entropy`: label_N, where `ignore_index` means no target, or probabilities
              target_NK, where a row of zeros means no target (`soft_targets` returns them)
    filled_K  False leaves a cluster out; None: all take part
    """
    logit_NK = prototype_logits(x_ND, prototype_KD, scale=scale, filled_K=filled_K)
    if target.shape == logit_NK.shape[:1] and not target.is_floating_point():
        known_N = target != ignore_index
        target_NK = torch.nn.functional.one_hot(target.where(known_N, 0), len(prototype_KD)) * known_N[:, None]
    elif target.shape == logit_NK.shape:
        target_NK = target.detach()
    else:
        raise ShapeError(f"targets must be labels [{len(x_ND)}] or shares {list(logit_NK.shape)}, got {list(target.shape)}")
    counted_N = (target_NK != 0).any(1).to(logit_NK)
    log_share_NK = logit_NK.log_softmax(1) if filled_K is None else _log_shares(logit_NK, filled_K)
    loss_N = -(target_NK.to(logit_NK) * log_share_NK).sum(1)
    count = mean_over_processes(counted_N.sum(), process_group)
    return mean_over_processes((loss_N * counted_N).sum(), process_group) / count.clamp_min(torch.finfo(logit_NK.dtype).tiny)


@torch.no_grad()
def prototype_accuracy(
    x_ND: Tensor, prototype_KD: Tensor, label_N: Tensor, *, filled_K: Tensor | None = None, process_group: Group = None
) -> Tensor:
    """Accuracy over the labelled rows of the global batch: the nearest prototype, by inner product, is that of the label; 0
    without labelled rows. Ties go to the lowest index. The released code logs it in percent, as `acc_img2text` and the like.
    """
    logit_NK = prototype_logits(x_ND, prototype_KD, scale=1.0, filled_K=filled_K)
    counted_N = label_N >= 0
    right_N = counted_N & (logit_NK.argmax(1) == label_N)
    count, right = (mean_over_processes(each_N.sum().to(x_ND), process_group) for each_N in (counted_N, right_N))
    return right / count.clamp_min(torch.finfo(x_ND.dtype).tiny)


def back_translation(
    image_ND: Tensor,
    text_ND: Tensor,
    *,
    image_prototype_KD: Tensor,
    text_prototype_KD: Tensor,
    image_clusters: ClusterTargets,
    text_clusters: ClusterTargets,
    scale: Tensor | float,
    tau: float = 0.01,
    process_group: Group = None,
) -> Tensor:
    """ProtoCLIP's loss between modalities: images against the clusters of the texts, texts against those of the images; their mean.

    image_prototype_KD  prototypes for images: means of image features over the clusters of the *texts*
    text_prototype_KD   prototypes for texts: means of text features over the clusters of the *images*
    image_clusters      clusters of the images: targets of the texts
    text_clusters       clusters of the texts: targets of the images
    tau                 temperature of the targets; 0 or less makes them one-hot
    """
    sides = ((image_ND, image_prototype_KD, text_clusters), (text_ND, text_prototype_KD, image_clusters))
    losses = [
        prototype_loss(
            x_ND, prototype_KD, soft_targets(clusters, tau), scale=scale, filled_K=clusters.filled_K, process_group=process_group
        )
        for x_ND, prototype_KD, clusters in sides
    ]
    return torch.stack(losses).mean()


def _log_shares(logit_NK: Tensor, filled_K: Tensor) -> Tensor:
    """log softmax over the filled clusters, 0 at the others; finite even if all are empty."""
    return logit_NK.masked_fill(~filled_K, -1e30).log_softmax(1).masked_fill(~filled_K, 0)
