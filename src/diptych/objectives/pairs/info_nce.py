"""InfoNCE between images and texts: exact, in tiles, with memory linear in the batch size.

With unit rows v_i, t_j, a scale s and Z_ij = s v_i . t_j, the loss of pair i is

    l_i = ( CE(Z_i:, q_i:) + CE(Z_:i, q_:i) ) / 2,     CE(z, q) = logsumexp(z) - q . z,     loss = mean_i w_i l_i

where q is one-hot on the partner (CLIP, 2103.00020) unless smoothing, groups or targets say otherwise, and w_i = 1.
Pairs that are left out (masks) are in no sum at all.

What implementations get wrong: logits in half precision; log-sum-exps kept in float32, whose last digit near 100 is 8e-6, as is
then the error of every softmax (here they are float64); dividing by the sum of the weights; smoothing over left-out pairs;
gradients of features and of the temperature that differ by the number of processes (see `gather`); accuracy that counts ties
as hits, so that a collapsed model looks perfect (here a tie counts against the model).

Letters: N images of this process, M its texts (row i < N is image i's partner, further rows are extra negatives of images),
W processes, R image rows (N, then extra images), C text columns (partners of all processes, their further texts, extra texts),
T rows of a tile (one matrix product), S rows of a strip (what is done with the scores in between), K extra keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, all_gather, mean_over_processes
from diptych.objectives.pairs.pairing import PairLabels, Same, as_scalar, gather_pairs

REACH = 60.0
"""How far below a common reference exponentials may be summed: float32 loses what is below exp(-87), exp(-27) of such a sum."""

STRIP = 128
"""Rows of a tile that a processor works on together between two matrix products: few enough to stay in its cache."""

Directions = Literal["both", "image_to_text", "text_to_image"]


def info_nce(
    image_ND: Tensor,
    text_MD: Tensor,
    *,
    scale: Tensor | float,
    group_N: Tensor | None = None,
    group_M: Tensor | None = None,
    same: Same = "mask",
    keep_NM: Tensor | None = None,
    target_NM: Tensor | None = None,
    smoothing: float = 0.0,
    weight_N: Tensor | None = None,
    extra_text_KD: Tensor | None = None,
    extra_text_group_K: Tensor | None = None,
    extra_image_KD: Tensor | None = None,
    extra_image_group_K: Tensor | None = None,
    directions: Directions = "both",
    reduction: Literal["mean", "none"] = "mean",
    tile: int = 0,
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The contrastive loss of a batch and its parts.

    image_ND, text_MD   unit-norm features, M >= N; any floating type, computed in float32 (float64 when either is float64)
    scale               the factor itself, exp(log_scale): a number or a tensor of one element
    group_N, group_M    integer ids; pairs of equal id off the diagonal are (`same`) left out ("mask"), positives that share
                        the target evenly ("positive"), or ordinary negatives. group_M defaults to group_N when M == N
    keep_NM             bool, False leaves a pair out (known false negatives). Partners always stay
    target_NM           soft targets >= 0, normalised over each row, and over each column for text to image
    smoothing           share of the target spread evenly over all pairs that are not left out, the positives among them
    weight_N            weights of anchors (ALIP); a plain mean follows, not divided by their sum
    extra_text_KD       keys that images are compared with too: no gradient, no loss of their own (queues). The same on
                        every process; with extra_text_group_K they obey `same`. extra_image_KD likewise for texts
    directions          "both" is the mean of the two
    reduction           "none" gives the weighted losses [N] of this process, for a mean or sum of the caller's own
    tile                rows at a time, 0 for as many as the processor's cache holds; changes time and memory, nothing else

    With several processes features, groups and weights are each process's own; keep_NM and target_NM have own images as rows
    and, as columns, the partners of all processes in rank order and then their further texts. The loss returned is the global
    mean; after averaging over processes, every gradient is that of the global mean.
    One id for the whole batch and `same="mask"` leaves the extra keys as the only negatives (LexLIP's queue form).

    parts (detached, global means): image_to_text and text_to_image (unweighted losses, of the directions asked for),
    accuracy_image_to_text, accuracy_text_to_image (partner above every non-positive), positive_similarity (cosine).

    Raises ShapeError, or ConfigError for options that cannot work.
    """
    _check_options(smoothing, directions, reduction, weight_N, image_ND)
    paired = gather_pairs(
        image_ND,
        text_MD,
        group_N=group_N,
        group_M=group_M,
        same=same,
        keep_NM=keep_NM,
        target_NM=target_NM,
        extra_text=None if extra_text_KD is None else (extra_text_KD, extra_text_group_K),
        extra_image=None if extra_image_KD is None else (extra_image_KD, extra_image_group_K),
        tile=tile,
        process_group=process_group,
    )
    plan = _TilePlan(paired.pairing, smoothing, directions != "text_to_image", directions != "image_to_text", process_group)
    scale_1 = as_scalar(scale, "scale", device=image_ND.device)
    row_N, column_N, hit_2N, similarity_N = _TiledInfoNCE.apply(paired.image_RD, paired.text_CD, scale_1, plan)  # type: ignore[no-untyped-call]
    each_N = (row_N + column_N) / (2 if directions == "both" else 1)
    if weight_N is not None:
        each_N = each_N * weight_N.to(each_N)
    loss = each_N if reduction == "none" else mean_over_processes(each_N.mean(), process_group)
    return loss, _parts(plan, row_N, column_N, hit_2N, similarity_N)


@torch.no_grad()
def _parts(plan: _TilePlan, row_N: Tensor, column_N: Tensor, hit_2N: Tensor, similarity_N: Tensor) -> dict[str, Tensor]:
    means = torch.stack([row_N.mean(), column_N.mean(), hit_2N[0].mean(), hit_2N[1].mean(), similarity_N.mean()])
    row, column, row_hit, column_hit, similarity = mean_over_processes(means, plan.process_group).unbind()
    parts = {"image_to_text": row, "accuracy_image_to_text": row_hit} if plan.by_row else {}
    parts |= {"text_to_image": column, "accuracy_text_to_image": column_hit} if plan.by_column else {}
    return parts | {"positive_similarity": similarity}


def _check_options(smoothing: float, directions: str, reduction: str, weight_N: Tensor | None, image_ND: Tensor) -> None:
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing must be in [0, 1), got {smoothing}")
    if directions not in ("both", "image_to_text", "text_to_image"):
        raise ConfigError(f"directions must be 'both', 'image_to_text' or 'text_to_image', got {directions!r}")
    if reduction not in ("mean", "none"):
        raise ConfigError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    if weight_N is not None and weight_N.shape != image_ND.shape[:1]:
        raise ShapeError(f"weight_N must be [{len(image_ND)}], one weight a pair; got {list(weight_N.shape)}")


@dataclass(frozen=True, slots=True)
class _TilePlan:
    pairing: PairLabels
    smoothing: float
    by_row: bool
    by_column: bool
    process_group: Group


@dataclass(slots=True)
class _AxisSums:
    """Running sums over one axis of the score matrix: R rows, or the partner columns of all processes. In float64.

    lse       log-sum-exp of the scores that are kept
    positive  sum of target * score, and `target`, the sum of targets, to divide it by
    score     sum of the scores that are kept, and `kept`, their number (both only with smoothing)
    rival     highest score that is kept and not a positive
    """

    lse: Tensor
    positive: Tensor
    target: Tensor
    score: Tensor
    kept: Tensor
    rival: Tensor

    @classmethod
    def empty(cls, size: int, like: Tensor) -> _AxisSums:
        low = like.new_full((size,), -torch.inf, dtype=torch.float64)
        zero = torch.zeros_like(low)
        return cls(low, zero, zero.clone(), zero.clone(), zero.clone(), low.clone())

    def add(self, strip: _AxisSums, where: slice) -> None:
        self.lse[where] = torch.logaddexp(self.lse[where], strip.lse)
        self.rival[where] = torch.maximum(self.rival[where], strip.rival)
        for name in ("positive", "target", "score", "kept"):
            getattr(self, name)[where] += getattr(strip, name)

    def over_processes(self, process_group: Group) -> _AxisSums:
        """The sums of columns, which every process has seen only its own rows of. One collective."""
        own_6N = torch.stack([self.lse, self.positive, self.target, self.score, self.kept, self.rival])
        all_W6N = all_gather(own_6N, process_group)
        positive, target, score, kept = all_W6N[:, 1:5].sum(0).unbind()
        return _AxisSums(all_W6N[:, 0].logsumexp(0), positive, target, score, kept, all_W6N[:, 5].amax(0))

    def loss(self, smoothing: float) -> Tensor:
        loss = self.lse - (1 - smoothing) * self.positive / self.target
        return loss - smoothing * self.score / self.kept if smoothing else loss


class _TiledInfoNCE(torch.autograd.Function):
    """Per-pair losses of both directions. Saves features and one log-sum-exp a row and a column; backward forms each tile anew.

    The gradient flows from the losses of this process's rows and, as every process holds some rows of every column, from the
    column losses of all processes: their incoming gradients are gathered in backward.
    """

    @staticmethod
    def forward(
        ctx: Any, image_RD: Tensor, text_CD: Tensor, scale_1: Tensor, plan: _TilePlan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pairing, rows = plan.pairing, plan.pairing.rows
        with torch.autocast(image_RD.device.type, enabled=False):
            scores = _Scores(image_RD, text_CD, scale_1)
            row = _AxisSums.empty(len(image_RD), scores.text_CD)
            column = _AxisSums.empty(pairing.columns, scores.text_CD)
            own_N = scores.text_CD.new_empty(rows)
            for start, stop in pairing.tiles(len(image_RD)):
                for at, score_SC in scores.strips(start, scores.tile(start, stop)):
                    partner_S = pairing.partner(score_SC, at)
                    own_N[at : at + len(partner_S)] = partner_S
                    strip_S, strip_N = _strip_sums(score_SC, at, plan)
                    row.add(strip_S, slice(at, at + len(score_SC)))
                    column.add(strip_N, slice(None))
        column = column.over_processes(plan.process_group)
        targets = [row.target[:rows]] * plan.by_row + [column.target] * plan.by_column
        if not pairing.one_positive and bool(torch.cat(targets).amin() <= 0):
            raise ConfigError("targets must be above 0 somewhere in every row, and in the column of every image's own text")
        mine = slice(pairing.offset, pairing.offset + rows)
        row_N = row.loss(plan.smoothing)[:rows].to(own_N) if plan.by_row else torch.zeros_like(own_N)
        own_column_N = column.loss(plan.smoothing)[mine].to(own_N) if plan.by_column else torch.zeros_like(own_N)
        hit_2N = (own_N > torch.stack([row.rival[:rows], column.rival[mine]])).to(own_N)
        similarity_N = own_N / scale_1.to(own_N)
        ctx.plan, ctx.row_sums, ctx.column_sums = plan, (row.target, row.kept), (column.target, column.kept)
        ctx.save_for_backward(image_RD, text_CD, scale_1, row.lse, column.lse)
        ctx.mark_non_differentiable(hit_2N, similarity_N)
        return row_N, own_column_N, hit_2N, similarity_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_row_N: Tensor, grad_column_N: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        image_RD, text_CD, scale_1, row_lse_R, column_lse_N = ctx.saved_tensors
        plan: _TilePlan = ctx.plan
        grad_row_R = torch.zeros_like(row_lse_R)
        grad_row_R[: plan.pairing.rows] = grad_row_N
        grad_all_N = all_gather(grad_column_N, plan.process_group).flatten() if plan.by_column else None
        with torch.autocast(image_RD.device.type, enabled=False):
            scores = _Scores(image_RD, text_CD, scale_1)
            grads = _InfoNCEGrads.empty(scores, ctx.needs_input_grad)
            middle = _middle(plan, row_lse_R, column_lse_N, scores.text_CD.dtype)
            column = None if grad_all_N is None else _Axis(column_lse_N, grad_all_N, *ctx.column_sums)
            for start, stop in plan.pairing.tiles(len(image_RD)):
                score_TC = scores.tile(start, stop)
                for at, score_SC in scores.strips(start, score_TC):
                    here = slice(at, at + len(score_SC))
                    row = _Axis(row_lse_R[here, None], grad_row_R[here, None], *(x[here, None] for x in ctx.row_sums))
                    _strip_gradient(score_SC, scores.spare(score_SC), at, plan, row, column, middle)
                grads.add(score_TC, start, stop)
        scale_grad_1 = None if grads.scale is None else grads.scale.reshape(scale_1.shape)
        return grads.image_RD, grads.text_CD, scale_grad_1, None


class _Scores:
    """Tiles of the score matrix in two buffers that all tiles share. Text rows are widened once, image rows a tile at a time."""

    def __init__(self, image_RD: Tensor, text_CD: Tensor, scale_1: Tensor) -> None:
        dtype = torch.promote_types(torch.promote_types(image_RD.dtype, text_CD.dtype), torch.float32)
        self.image_RD, self.text_CD, self.scale = image_RD, text_CD.to(dtype), scale_1.to(dtype).reshape(())
        self._buffers: dict[int, Tensor] = {}

    def image(self, start: int, stop: int) -> Tensor:
        return self.image_RD[start:stop].to(self.text_CD.dtype)

    def tile(self, start: int, stop: int) -> Tensor:
        """Z of these rows, [T, C]; overwritten by the next call."""
        return torch.mm(self.image(start, stop) * self.scale, self.text_CD.T, out=self._buffer(0, stop - start))

    def strips(self, start: int, score_TC: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first row, view) of each strip of a tile."""
        size = STRIP if score_TC.device.type == "cpu" else len(score_TC)
        return ((start + at, score_TC[at : at + size]) for at in range(0, len(score_TC), size))

    def spare(self, score_SC: Tensor) -> Tensor:
        """A second buffer of the shape of a strip."""
        return self._buffer(1, len(score_SC))

    def _buffer(self, which: int, size: int) -> Tensor:
        if which not in self._buffers or len(self._buffers[which]) < size:
            self._buffers[which] = self.text_CD.new_empty(size, len(self.text_CD))
        return self._buffers[which][:size]


def _strip_sums(score_SC: Tensor, start: int, plan: _TilePlan) -> tuple[_AxisSums, _AxisSums]:
    """Sums over the rows of one strip and over its part of every partner column. Overwrites the scores."""
    pairing, columns = plan.pairing, plan.pairing.columns
    stop = start + len(score_SC)
    row, column = _AxisSums.empty(len(score_SC), score_SC), _AxisSums.empty(columns, score_SC)
    target_SC = pairing.targets(start, stop, score_SC.shape[1], score_SC.dtype)
    partner_S, at = pairing.partner(score_SC, start), pairing.offset + start
    if target_SC is None:
        row.positive[: len(partner_S)] = partner_S
        row.target.fill_(1)
        column.positive[at : at + len(partner_S)] = partner_S
        column.target[at : at + len(partner_S)] = 1
    else:
        row.target, column.target = _totals(target_SC, columns)
        row.positive, column.positive = _totals(target_SC * score_SC, columns)
    out_SC = pairing.left_out(start, stop, score_SC.shape[1])
    if plan.smoothing:
        kept_SC = torch.ones_like(score_SC) if out_SC is None else (~out_SC).to(score_SC)
        row.kept, column.kept = _totals(kept_SC, columns)
        kept_SC *= score_SC
        row.score, column.score = _totals(kept_SC, columns)
    if out_SC is not None:
        score_SC.masked_fill_(out_SC, -torch.inf)
    own_S = partner_S.clone()
    partner_S.fill_(-torch.inf)
    rival_SC = score_SC if target_SC is None else score_SC.masked_fill(target_SC > 0, -torch.inf)
    rival_S, rival_N = rival_SC.amax(1), rival_SC[:, :columns].amax(0)
    row.rival, column.rival = rival_S.double(), rival_N.double()
    partner_S.copy_(own_S)
    if target_SC is None:
        top_S, top_N = rival_S.clone(), rival_N.clone()
        top_S[: len(own_S)].clamp_(min=own_S)
        top_N[at : at + len(own_S)].clamp_(min=own_S)
    else:
        top_S, top_N = score_SC.amax(1), score_SC[:, :columns].amax(0)
    row.lse, column.lse = _log_sum_exp(score_SC, top_S, top_N)
    return row, column


def _totals(x_SC: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Sums over rows, and over the partner columns, in float64."""
    return x_SC.sum(1, dtype=torch.float64), x_SC[:, :columns].sum(0, dtype=torch.float64)


def _log_sum_exp(score_SC: Tensor, top_S: Tensor, top_N: Tensor) -> tuple[Tensor, Tensor]:
    """Over rows, and over the first N columns, from one exponential in place of the scores; float64. `top` are their maxima.

    Both sums use the strip's maximum as reference. Where some row or column lies so far below it that terms could be lost
    (possible from a scale of 30 on), each axis uses maxima of its own; a GPU always does, since the host would wait to learn it.
    """
    top, columns = top_S.amax(), len(top_N)
    if score_SC.device.type == "cpu" and bool(top - torch.minimum(top_S.amin(), top_N.amin()) < REACH):
        score_SC.sub_(top).exp_()
        return score_SC.sum(1).double().log_().add_(top), score_SC[:, :columns].sum(0).double().log_().add_(top)
    lowest = torch.finfo(score_SC.dtype).min  # for a row or column without any pair: its log-sum-exp is -inf
    top_S, top_N = top_S.clamp_min(lowest), top_N.clamp_min(lowest)
    row_S = (score_SC - top_S[:, None]).exp_().sum(1)
    column_N = score_SC[:, :columns].sub_(top_N).exp_().sum(0)
    return row_S.double().log_().add_(top_S), column_N.double().log_().add_(top_N)


@dataclass(slots=True)
class _Axis:
    """One direction in backward, shaped to broadcast over a strip: [S, 1] for rows, [N] for partner columns."""

    lse: Tensor
    grad: Tensor
    target: Tensor
    kept: Tensor

    def softmax(self, score_SC: Tensor, *, out: Tensor) -> Tensor:
        """The gradient of log-sum-exp times the incoming one. An axis without any pair (its log-sum-exp is -inf) has none.

        Scores are compared with the log-sum-exp as their own type rounds it, and the rest of it joins the factor.
        """
        near = self.lse.to(score_SC.dtype).clamp_min(torch.finfo(score_SC.dtype).min)
        return torch.sub(score_SC, near, out=out).exp_().mul_(self.share(near).to(score_SC.dtype))

    def share(self, reference: Tensor) -> Tensor:
        """The incoming gradient over the sum of exp(score - reference), float64."""
        lse = self.lse.clamp_min(torch.finfo(reference.dtype).min)
        return self.grad * (reference - lse).exp()


def _strip_gradient(
    score_SC: Tensor, spare_SC: Tensor, start: int, plan: _TilePlan, row: _Axis, column: _Axis | None, middle: Tensor | None
) -> Tensor:
    """Gradient of all losses in the scores of one strip, in the place of the scores."""
    pairing, columns = plan.pairing, plan.pairing.columns
    stop = start + len(score_SC)
    out_SC = pairing.left_out(start, stop, score_SC.shape[1])
    if out_SC is not None:
        score_SC.masked_fill_(out_SC, -torch.inf)
    if column is not None and middle is not None:
        _both_softmaxes(score_SC, spare_SC, row, column, middle)
    elif column is not None and plan.by_row:
        column_SN = column.softmax(score_SC[:, :columns], out=spare_SC[:, :columns])
        row.softmax(score_SC, out=score_SC)[:, :columns] += column_SN
    elif column is not None:
        score_SC[:, columns:] = 0
        column.softmax(score_SC[:, :columns], out=score_SC[:, :columns])
    else:
        row.softmax(score_SC, out=score_SC)
    target_SC = pairing.targets(start, stop, score_SC.shape[1], score_SC.dtype)
    for axis, width in ((row if plan.by_row else None, score_SC.shape[1]), (column, columns)):
        if axis is None:
            continue
        if target_SC is not None:
            share = axis.grad * ((plan.smoothing - 1) / axis.target)
            score_SC[:, :width].addcmul_(target_SC[:, :width], share.nan_to_num(0, 0, 0).to(score_SC.dtype))
        else:
            partner_S = pairing.partner(score_SC, start)
            at = pairing.offset + start
            grad_S = axis.grad[: len(partner_S), 0] if axis is row else axis.grad[at : at + len(partner_S)]
            partner_S.sub_(grad_S.to(partner_S.dtype), alpha=1 - plan.smoothing)
        if plan.smoothing:
            even = (axis.grad * (plan.smoothing / axis.kept)).nan_to_num(0, 0, 0).to(score_SC.dtype)
            score_SC[:, :width] -= even if out_SC is None else even * ~out_SC[:, :width]
    return score_SC


def _middle(plan: _TilePlan, row_lse_R: Tensor, column_lse_N: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The reference from which one exponential serves both directions in backward, or None if two are needed.

    Within REACH / 2 of every log-sum-exp nothing overflows, and what underflows is below exp(-57) of its sum.
    """
    if not (plan.by_row and plan.by_column) or row_lse_R.device.type != "cpu":  # elsewhere the host would wait for the answer
        return None
    lowest = torch.minimum(row_lse_R.amin(), column_lse_N.amin())
    highest = torch.maximum(row_lse_R.amax(), column_lse_N.amax())
    return ((lowest + highest) / 2).to(dtype) if bool(highest - lowest < REACH) else None


def _both_softmaxes(score_SC: Tensor, spare_SC: Tensor, row: _Axis, column: _Axis, middle: Tensor) -> None:
    """exp(z - row lse) * row grad + exp(z - column lse) * column grad, in the place of the scores."""
    columns = len(column.lse)
    row_S1, column_N = (axis.share(middle).to(score_SC.dtype) for axis in (row, column))
    torch.add(row_S1, column_N, out=spare_SC[:, :columns])
    spare_SC[:, columns:] = row_S1
    score_SC.sub_(middle).exp_().mul_(spare_SC)


@dataclass(slots=True)
class _InfoNCEGrads:
    """Sums up the gradients of features and scale over tiles; None for inputs that need none."""

    scores: _Scores
    image_RD: Tensor | None
    text_CD: Tensor | None
    scale: Tensor | None

    @classmethod
    def empty(cls, scores: _Scores, needed: tuple[bool, ...]) -> _InfoNCEGrads:
        inputs = (scores.image_RD, scores.text_CD, scores.scale)
        return cls(scores, *(torch.zeros_like(x) if need else None for x, need in zip(inputs, needed[:3], strict=True)))

    def add(self, grad_TC: Tensor, start: int, stop: int) -> None:
        image_TD, scale = self.scores.image(start, stop), self.scores.scale
        if self.text_CD is not None:
            self.text_CD.addmm_(grad_TC.T, image_TD * scale)
        if self.image_RD is not None or self.scale is not None:
            moved_TD = grad_TC @ self.scores.text_CD
            if self.scale is not None:
                self.scale += (moved_TD * image_TD).sum()
            if self.image_RD is not None:
                self.image_RD[start:stop] = moved_TD.mul_(scale)
