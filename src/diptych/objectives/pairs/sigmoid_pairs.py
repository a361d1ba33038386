"""Pairwise sigmoid loss (SigLIP, 2303.15343): exact, in tiles, with memory linear in the batch size.

With unit rows v_i, t_j, a scale s, a bias b, Z_ij = s v_i . t_j + b and y_ij = 1 for positive pairs, else 0,

    l_i = sum_j softplus(Z_ij) - y_ij Z_ij,        loss = mean_i w_i l_i,        w_i = 1

which is the published sum over all pairs of -log sigmoid(+-Z), divided by the number of images.

What implementations get wrong: initialising s = 1, b = 0, where the N - 1 negatives of every image dominate the first steps
(published: 10 and -10); chunks under autograd, which are all still saved; texts gathered without gradient, which then get no
gradient from the negatives of other processes.

Letters as in `info_nce`: N own images, M own texts, C texts of all processes, T rows of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes
from diptych.objectives.pairs.pairing import PairLabels, Same, as_scalar, gather_pairs
from diptych.objectives.pairs.tiling import strip_rows


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
    tile: int = 0,
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
    scale_1, bias_1 = (as_scalar(x, name, device=image_ND.device) for x, name in ((scale, "scale"), (bias, "bias")))
    paired = gather_pairs(
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
    given = (paired.image_RD, paired.text_CD, scale_1, bias_1)
    at_once = reduction == "mean" and torch.is_grad_enabled() and (weight_N is None or not weight_N.requires_grad)
    if at_once:
        share_N = (
            torch.ones(len(image_ND), dtype=torch.float64, device=image_ND.device) if weight_N is None else weight_N.double()
        )
        total, each_N, positive_N, hit_N, own_N = _AtOnce.apply(*given, share_N / len(image_ND), paired.pairing)  # type: ignore[no-untyped-call]
    else:
        each_N, positive_N, hit_N, own_N = _TiledSigmoid.apply(*given, paired.pairing)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        cosine_N = (own_N - bias_1.to(own_N)) / scale_1.to(own_N)
        means = torch.stack([positive_N.mean(), (each_N - positive_N).mean(), hit_N.mean(), cosine_N.mean()])
        means = mean_over_processes(means, process_group)
    if not at_once:
        if weight_N is not None:
            each_N = each_N * weight_N.to(each_N)
        total = each_N if reduction == "none" else each_N.mean()
    loss = total if reduction == "none" else mean_over_processes(total, process_group)
    names = ("positives", "negatives", "accuracy_image_to_text", "positive_similarity")
    return loss, dict(zip(names, means.unbind(), strict=True))


class _TiledSigmoid(torch.autograd.Function):
    """Loss of each image. Saves only its inputs; backward recomputes each tile. Every pair belongs to one image, so only the
    texts are exchanged between processes."""

    @staticmethod
    def forward(
        ctx: Any, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor, pairing: PairLabels
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(image_ND.device.type, enabled=False):
            logits = _Logits(image_ND, text_CD, scale_1, bias_1, pairing)
            rows = _Rows.empty(len(image_ND), logits.text_CD)
            for start, stop in pairing.tiles(len(image_ND)):
                for at, logit_SC in logits.strips(start, logits.tile(start, stop)):
                    rows.add(logit_SC, at, logits)
        ctx.pairing = pairing
        ctx.save_for_backward(image_ND, text_CD, scale_1, bias_1)
        ctx.mark_non_differentiable(rows.positive_N, rows.hit_N, rows.own_N)
        return rows.each_N, rows.positive_N, rows.hit_N, rows.own_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        image_ND, text_CD, scale_1, bias_1 = ctx.saved_tensors
        pairing: PairLabels = ctx.pairing
        with torch.autocast(image_ND.device.type, enabled=False):
            logits = _Logits(image_ND, text_CD, scale_1, bias_1, pairing)
            grads = _SigmoidGrads.empty(logits, ctx.needs_input_grad[1])
            for start, stop in pairing.tiles(len(image_ND)):
                logit_TC = logits.tile(start, stop)
                for at, logit_SC in logits.strips(start, logit_TC):
                    logits.slope(logit_SC, at).mul_(grad_N[at : at + len(logit_SC), None])
                grads.add(logit_TC, start, stop, logits)
        return *grads.finished(image_ND, text_CD, scale_1, bias_1), None


class _AtOnce(torch.autograd.Function):
    """Weighted sum of the losses, with its gradient computed while each tile is in memory: one product less than recomputing the
    tiles in backward. The weight of every image's loss (share_N, without gradient) must be known in advance, as in a mean.
    Saves the gradients, which are as large as the features.
    """

    @staticmethod
    def forward(
        ctx: Any, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor, share_N: Tensor, pairing: PairLabels
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(image_ND.device.type, enabled=False):
            logits = _Logits(image_ND, text_CD, scale_1, bias_1, pairing)
            rows, grads = _Rows.empty(len(image_ND), logits.text_CD), _SigmoidGrads.empty(logits, ctx.needs_input_grad[1])
            share_N = share_N.to(logits.text_CD.dtype)
            for start, stop in pairing.tiles(len(image_ND)):
                logit_TC = logits.tile(start, stop)
                for at, logit_SC in logits.strips(start, logit_TC):
                    here = slice(at, at + len(logit_SC))
                    if pairing.one_positive:
                        rows.add(logit_SC, at, logits)
                        logit_SC.sigmoid_()  # 0 at partners, which `add` has left at -inf
                        pairing.partner(logit_SC, at).copy_(rows.own_N[here].sigmoid().sub_(1))
                    else:
                        slope_SC = logits.slope(logit_SC.clone(), at)
                        rows.add(logit_SC, at, logits)
                        logit_SC.copy_(slope_SC)
                    logit_SC.mul_(share_N[here, None])
                grads.add(logit_TC, start, stop, logits)
            total = rows.each_N @ share_N
        ctx.save_for_backward(*grads.finished(image_ND, text_CD, scale_1, bias_1))
        outputs = rows.each_N, rows.positive_N, rows.hit_N, rows.own_N
        ctx.mark_non_differentiable(*outputs)
        return total, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None, None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Per-image results of the sigmoid loss, filled in a strip at a time.

    Its loss, the share of positives, whether the partner scores above every non-positive, and the partner's logit.
    """

    each_N: Tensor
    positive_N: Tensor
    hit_N: Tensor
    own_N: Tensor

    @classmethod
    def empty(cls, rows: int, like: Tensor) -> _Rows:
        return cls(*like.new_empty((4, rows)).unbind())

    def add(self, logit_SC: Tensor, start: int, logits: _Logits) -> None:
        """Leaves -inf where a pair is positive."""
        here, pairing = slice(start, start + len(logit_SC)), logits.pairing
        own_S = self.own_N[here]
        own_S.copy_(pairing.partner(logit_SC, start))
        if pairing.one_positive:
            self.positive_N[here] = F.softplus(-own_S)
            pairing.partner(logit_SC, start).fill_(-torch.inf)
        else:
            positive_SC = logits.positives(start, here.stop)
            self.positive_N[here] = F.softplus(-logit_SC).mul_(positive_SC).nan_to_num_(0, 0, 0).sum(1)
            logit_SC.masked_fill_(positive_SC > 0, -torch.inf)
        self.hit_N[here] = (own_S > logit_SC.amax(1)).to(own_S)
        self.each_N[here] = self.positive_N[here] + F.softplus(logit_SC).sum(1)


@dataclass(frozen=True, slots=True)
class _SigmoidGrads:
    """Gradients of features, scale and bias, accumulated tile by tile in the dtype of the logits."""

    image_ND: Tensor
    text_CD: Tensor | None
    scale: Tensor
    bias: Tensor

    @classmethod
    def empty(cls, logits: _Logits, text: bool) -> _SigmoidGrads:
        like = logits.text_CD
        image_ND = like.new_empty(logits.image_ND.shape)
        return cls(
            image_ND, torch.zeros_like(like) if text else None, torch.zeros_like(logits.scale), torch.zeros_like(logits.bias)
        )

    def add(self, grad_TC: Tensor, start: int, stop: int, logits: _Logits) -> None:
        image_TD, moved_TD = logits.image(start, stop), self.image_ND[start:stop]
        torch.mm(grad_TC, logits.text_CD, out=moved_TD)
        self.scale.add_((moved_TD * image_TD).sum())
        self.bias.add_(grad_TC.sum())
        moved_TD.mul_(logits.scale)
        if self.text_CD is not None:
            self.text_CD.addmm_(grad_TC.T, image_TD * logits.scale)

    def finished(self, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients with the dtypes and shapes of their tensors."""
        text = None if self.text_CD is None else self.text_CD.to(text_CD.dtype)
        numbers = (grad.reshape(x.shape).to(x.dtype) for grad, x in ((self.scale, scale_1), (self.bias, bias_1)))
        return self.image_ND.to(image_ND.dtype), text, *numbers


@dataclass(slots=True, init=False)
class _Logits:
    """Tiles of Z in one buffer: the products, then bias and masks strip by strip."""

    image_ND: Tensor
    text_CD: Tensor
    scale: Tensor
    bias: Tensor
    pairing: PairLabels
    buffer_TC: Tensor

    def __init__(self, image_ND: Tensor, text_CD: Tensor, scale_1: Tensor, bias_1: Tensor, pairing: PairLabels) -> None:
        dtype = torch.promote_types(torch.promote_types(image_ND.dtype, text_CD.dtype), torch.float32)
        self.image_ND, self.text_CD, self.pairing = image_ND, text_CD.to(dtype), pairing
        self.scale, self.bias = scale_1.to(dtype).reshape(()), bias_1.to(dtype).reshape(())
        self.buffer_TC = self.text_CD.new_empty(min(pairing.tile, len(image_ND)), len(text_CD))

    def image(self, start: int, stop: int) -> Tensor:
        return self.image_ND[start:stop].to(self.text_CD.dtype)

    def tile(self, start: int, stop: int) -> Tensor:
        """The products of these rows; overwritten by the next call."""
        return torch.mm(self.image(start, stop) * self.scale, self.text_CD.T, out=self.buffer_TC[: stop - start])

    def strips(self, start: int, logit_TC: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first row, view) of each strip of a tile, the bias added and -inf where a pair is left out."""
        size = strip_rows(logit_TC.shape[1], logit_TC.itemsize) if logit_TC.device.type == "cpu" else len(logit_TC)
        for at in range(0, len(logit_TC), size):
            logit_SC = logit_TC[at : at + size].add_(self.bias)
            out_SC = self.pairing.left_out(start + at, start + at + len(logit_SC), logit_TC.shape[1])
            yield start + at, logit_SC if out_SC is None else logit_SC.masked_fill_(out_SC, -torch.inf)

    def slope(self, logit_SC: Tensor, start: int) -> Tensor:
        """Derivative of every pair's loss with respect to its logit, written in place."""
        logit_SC.sigmoid_()
        if self.pairing.one_positive:
            self.pairing.partner(logit_SC, start).sub_(1)
            return logit_SC
        return logit_SC.sub_(self.positives(start, start + len(logit_SC)))

    def positives(self, start: int, stop: int) -> Tensor:
        """1 where a pair is positive, [T, C]."""
        positive_TC = self.pairing.targets(start, stop, len(self.text_CD), self.text_CD.dtype)
        assert positive_TC is not None
        return positive_TC
