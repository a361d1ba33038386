"""A sigmoid for every image-text pair (SigLIP, 2303.15343): exact, in tiles, in memory that grows with the batch only.

With unit rows v_i, t_j, a scale s, a bias b, Z_ij = s v_i . t_j + b and y_ij = 1 for positive pairs, else 0,

    l_i = sum_j softplus(Z_ij) - y_ij Z_ij,        loss = mean_i w_i l_i,        w_i = 1

which is the published sum over all pairs of -log sigmoid(+-Z), divided by the number of images.

What implementations get wrong: a start at s = 1, b = 0, where the N - 1 negatives of every image drown the first steps
(published: 10 and -10); chunks under autograd, which are all still saved; texts gathered without gradient, which then learn from
no negatives of other processes.

Letters as in `info_nce`: N own images, M own texts, C texts of all processes, T rows of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes
from diptych.objectives.pairs.pairing import Pairing, Same, one_number, pair


def sigmoid_pairs(
    image_ND: Tensor,
    text_MD: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float,
    group_N: Tensor | None = None,
    group_M: Tensor | None = None,
    same: Same = "mask",
    keep_NM: Tensor | None = None,
    weight_N: Tensor | None = None,
    extra_text_KD: Tensor | None = None,
    extra_text_group_K: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
    tile: int = 512,
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The pairwise sigmoid loss of a batch and its parts. Arguments, errors and the contract on gradients are those of
    `info_nce`; `same="positive"` makes every pair of equal group a positive of its own, and weight_N weights image i's pairs.

    parts (detached, global means over images): positives and negatives (their shares of the unweighted loss),
    accuracy_image_to_text (partner above every non-positive), positive_similarity (cosine).
    """
    if reduction not in ("mean", "none"):
        raise ConfigError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    if weight_N is not None and weight_N.shape != image_ND.shape[:1]:
        raise ShapeError(f"weight_N must be [{len(image_ND)}], one weight an image; got {list(weight_N.shape)}")
    scale_1, bias_1 = (one_number(x, name, device=image_ND.device) for x, name in ((scale, "scale"), (bias, "bias")))
    paired = pair(
        image_ND,
        text_MD,
        group_N=group_N,
        group_M=group_M,
        same=same,
        keep_NM=keep_NM,
        target_NM=None,
        extra_text=None if extra_text_KD is None else (extra_text_KD, extra_text_group_K),
        extra_image=None,
        tile=tile,
        process_group=process_group,
    )
    each_N, positive_N, hit_N, own_N = _Tiled.apply(paired.image_RD, paired.text_CD, scale_1, bias_1, paired.pairing)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        cosine_N = (own_N - bias_1.to(own_N)) / scale_1.to(own_N)
        means = torch.stack([positive_N.mean(), (each_N - positive_N).mean(), hit_N.mean(), cosine_N.mean()])
        means = mean_over_processes(means, process_group)
    if weight_N is not None:
        each_N = each_N * weight_N.to(each_N)
    loss = each_N if reduction == "none" else mean_over_processes(each_N.mean(), process_group)
    names = ("positives", "negatives", "accuracy_image_to_text", "positive_similarity")
    return loss, dict(zip(names, means.unbind(), strict=True))


class _Tiled(torch.autograd.Function):
    """Loss of each image. Saves its inputs only; backward forms each tile anew. Every pair is one image's, so nothing but the
    texts crosses processes."""

    @staticmethod
    def forward(
        ctx: Any, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor, pairing: Pairing
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(image_ND.device.type, enabled=False):
            logits = _Logits(image_ND, text_CD, scale_1, bias_1, pairing)
            each_N, positive_N, hit_N, own_N = logits.text_CD.new_empty((4, len(image_ND))).unbind()
            for start, stop in pairing.tiles(len(image_ND)):
                here = slice(start, stop)
                logit_TC = logits.tile(start, stop)
                own_N[here] = pairing.partner(logit_TC, start)
                if pairing.one_positive:
                    positive_N[here] = F.softplus(-own_N[here])
                    pairing.partner(logit_TC, start).fill_(-torch.inf)
                else:
                    positive_TC = logits.positives(start, stop)
                    positive_N[here] = F.softplus(-logit_TC).mul_(positive_TC).nan_to_num_(0, 0, 0).sum(1)
                    logit_TC.masked_fill_(positive_TC > 0, -torch.inf)
                hit_N[here] = (own_N[here] > logit_TC.amax(1)).to(own_N)
                each_N[here] = positive_N[here] + F.softplus(logit_TC).sum(1)
        ctx.pairing = pairing
        ctx.save_for_backward(image_ND, text_CD, scale_1, bias_1)
        ctx.mark_non_differentiable(positive_N, hit_N, own_N)
        return each_N, positive_N, hit_N, own_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        image_ND, text_CD, scale_1, bias_1 = ctx.saved_tensors
        pairing: Pairing = ctx.pairing
        with torch.autocast(image_ND.device.type, enabled=False):
            logits = _Logits(image_ND, text_CD, scale_1, bias_1, pairing)
            image_grad_ND, text_grad_CD = torch.zeros_like(image_ND), torch.zeros_like(logits.text_CD)
            scale_grad, bias_grad = torch.zeros_like(logits.scale), torch.zeros_like(logits.bias)
            for start, stop in pairing.tiles(len(image_ND)):
                grad_TC = logits.tile(start, stop).sigmoid_()
                if pairing.one_positive:
                    pairing.partner(grad_TC, start).sub_(1)
                else:
                    grad_TC.sub_(logits.positives(start, stop))
                grad_TC.mul_(grad_N[start:stop, None])
                image_TD = logits.image(start, stop)
                moved_TD = grad_TC @ logits.text_CD
                scale_grad += (moved_TD * image_TD).sum()
                bias_grad += grad_TC.sum()
                image_grad_ND[start:stop] = moved_TD.mul_(logits.scale)
                if ctx.needs_input_grad[1]:
                    text_grad_CD.addmm_(grad_TC.T, image_TD * logits.scale)
        text_grad = text_grad_CD if ctx.needs_input_grad[1] else None
        return image_grad_ND, text_grad, scale_grad.reshape(scale_1.shape), bias_grad.reshape(bias_1.shape), None


@dataclass(slots=True, init=False)
class _Logits:
    """Tiles of Z, -inf where a pair is left out, in one buffer."""

    image_ND: Tensor
    text_CD: Tensor
    scale: Tensor
    bias: Tensor
    pairing: Pairing
    buffer_TC: Tensor

    def __init__(self, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor, pairing: Pairing) -> None:
        dtype = torch.promote_types(torch.promote_types(image_ND.dtype, text_CD.dtype), torch.float32)
        self.image_ND, self.text_CD, self.pairing = image_ND, text_CD.to(dtype), pairing
        self.scale, self.bias = scale_1.to(dtype).reshape(()), bias_1.to(dtype).reshape(())
        self.buffer_TC = self.text_CD.new_empty(min(pairing.tile, len(image_ND)), len(text_CD))

    def image(self, start: int, stop: int) -> Tensor:
        return self.image_ND[start:stop].to(self.text_CD.dtype)

    def tile(self, start: int, stop: int) -> Tensor:
        """Z of these rows; overwritten by the next call."""
        logit_TC = torch.mm(self.image(start, stop) * self.scale, self.text_CD.T, out=self.buffer_TC[: stop - start])
        logit_TC += self.bias
        out_TC = self.pairing.left_out(start, stop, len(self.text_CD))
        return logit_TC if out_TC is None else logit_TC.masked_fill_(out_TC, -torch.inf)

    def positives(self, start: int, stop: int) -> Tensor:
        """1 where a pair is positive, [T, C]."""
        positive_TC = self.pairing.targets(start, stop, len(self.text_CD), self.text_CD.dtype)
        assert positive_TC is not None
        return positive_TC
