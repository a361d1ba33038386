"""Metric losses between groups of items, mined softly by log-sum-exp: AdaSP and its relatives.

With s_ij the scaled cosines and LSE the log-sum-exp, groups a and b have

    negatives   hard         S_ab = LSE_{i in a, j in b} s_ij             least hard   S_ab = -LSE_{i in a}( -LSE_{j in b} s_ij )
    positives   hard         P_a = -LSE_{i,j in a}( -s_ij )               least hard   P_a = LSE_{i in a}( -LSE_{j in a}( -s_ij ) )
                adaptive     w of the hard one and 1 - w of the least hard one, w = 2 h l / (h + l) of their cosines h and l without
                             gradient, 0 where h < 0

and the loss is the mean over groups of log(1 + sum_{b != a} exp(S_ab - P_a)). The adaptive positive with the hard negatives is AdaSP (Zhou
et al., Adaptive Sparse Pairwise Loss for Object Re-Identification, CVPR 2023, arXiv 2303.18247); the least hard positive with the hard
negatives aligns pathology images with texts in KEEP (arXiv 2412.13126).

What implementations get wrong: sums of exponentials instead of log-sum-exps, which overflow float32 from a scale of 89 on; blocks that are
taken from positions, so that a group that comes twice is its own negative; related groups that are held apart as negatives.

Letters: N rows, M columns, G groups, E extra columns, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, check_equal_rows, gather_rows
from diptych.objectives.pairs.pairing import as_scalar

Positive = Literal["hard", "least_hard", "adaptive"]
Negative = Literal["hard", "least_hard"]
Ignored = Literal["floor", "drop"]


def block_metric(
    cosine_NM: Tensor,
    row_group_N: Tensor,
    column_group_M: Tensor,
    *,
    scale: Tensor | float,
    positive: Positive = "adaptive",
    negative: Negative = "hard",
    ignore_NM: Tensor | None = None,
    ignored: Ignored = "floor",
    extra_NE: Tensor | None = None,
    extra_group_E: Tensor | None = None,
    extra_ignore_E: Tensor | None = None,
) -> Tensor:
    """The loss of rows against columns; both have the same groups, of any sizes and in any order.

    cosine_NM   cosines, not scaled; within one set of items it holds each item's own 1, which the published sums keep
    row_group_N, column_group_M  integer ids
    scale       factor of the cosines: 1 / temperature, a number or a learned tensor of one element
    ignore_NM   bool, True where a pair of different groups is no negative (ancestors, descendants); within a group it is not looked at
    ignored     such a pair counts as one of cosine -1 ("floor", as published) or not at all ("drop"). A group that is left without any
                negative has a loss of 0
    extra_NE    cosines with further columns that are negatives only
    extra_group_E  the group of rows whose negative each extra column is; None makes it one of every group. A group's extra columns are one
                more group beside it, always in the hard form
    extra_ignore_E  bool, True for an extra column that is no negative after all, and counts as `ignored` says

    Raises ShapeError, or ConfigError for options or groups that rows and columns do not share.
    """
    _check(cosine_NM, row_group_N, column_group_M, ignore_NM, extra_NE, extra_group_E, extra_ignore_E)
    _check_options(positive, negative, ignored)
    wide_NM = cosine_NM.to(torch.promote_types(cosine_NM.dtype, torch.float32))
    scale_1 = as_scalar(scale, "scale", device=cosine_NM.device).to(wide_NM.dtype).reshape(())
    ids_G, row_N = row_group_N.unique(return_inverse=True)
    column_ids_G, column_M = column_group_M.unique(return_inverse=True)
    if not torch.equal(ids_G, column_ids_G):
        raise ConfigError(
            f"rows have groups {ids_G.tolist()[:8]} and columns {column_ids_G.tolist()[:8]} (expected the same groups on both sides)"
        )
    groups = len(ids_G)
    with torch.autocast(cosine_NM.device.type, enabled=False):
        own_NM = row_N[:, None] == column_M
        score_NM = wide_NM * scale_1
        nothing = -scale_1 if ignored == "floor" else score_NM.new_tensor(-torch.inf)
        if ignore_NM is not None:
            score_NM = score_NM.where(own_NM | ~ignore_NM, nothing)
        positive_G = _positives(score_NM, own_NM, row_N, groups, positive, scale_1)
        negative_GG = _negatives(score_NM, row_N, column_M, groups, negative)
        negative_GG = negative_GG.masked_fill(torch.eye(groups, dtype=torch.bool, device=row_N.device), -torch.inf)
        if extra_NE is not None:
            extra_NE = extra_NE.to(wide_NM.dtype) * scale_1
            if extra_ignore_E is not None:
                extra_NE = extra_NE.where(~extra_ignore_E, nothing)
            extra_G = _extra(extra_NE, row_N, ids_G, extra_group_E)
            negative_GG = torch.cat([negative_GG, extra_G[:, None]], 1)
        above_G = _lse(negative_GG, 1) - positive_G
        return F.softplus(above_G.where(above_G > -torch.inf, torch.finfo(above_G.dtype).min)).mean()


def block_metric_pairs(
    image_ND: Tensor,
    text_MD: Tensor,
    group_N: Tensor,
    *,
    scale: Tensor | float,
    positive: Positive = "least_hard",
    negative: Negative = "hard",
    ignore_RC: Tensor | None = None,
    ignored: Ignored = "floor",
    extra_text_ED: Tensor | None = None,
    extra_group_E: Tensor | None = None,
    extra_ignore_E: Tensor | None = None,
    process_group: Group = None,
) -> Tensor:
    """`block_metric` of images and their texts, the mean of both directions; row i of both belongs to group i. Features of any length.

    ignore_RC    over the images and texts of all processes in rank order
    extra_text_ED  own texts that are negatives of images only, `extra_group_E` and `extra_ignore_E` as there

    Every process forms the whole matrix of the global batch, so that a group may lie on several.
    """
    check_equal_rows(process_group, image_ND=image_ND, text_MD=text_MD)
    if image_ND.shape != text_MD.shape or group_N.shape != image_ND.shape[:1]:
        raise ShapeError(
            f"images, texts and groups must be [N, D], [N, D] and [N]; got {list(image_ND.shape)}, {list(text_MD.shape)} and "
            f"{list(group_N.shape)}"
        )
    image_RD, text_CD, group_R = (gather_rows(x, process_group) for x in (image_ND, text_MD, group_N))
    dtype = torch.promote_types(torch.promote_types(image_RD.dtype, text_CD.dtype), torch.float32)
    with torch.autocast(image_ND.device.type, enabled=False):
        image_RD, text_CD = (F.normalize(x.to(dtype), dim=-1) for x in (image_RD, text_CD))
        cosine_RC = image_RD @ text_CD.T
        extra_RE = None
        if extra_text_ED is not None:
            extra_RE = image_RD @ F.normalize(gather_rows(extra_text_ED, process_group).to(dtype), dim=-1).T
            extra_group_E, extra_ignore_E = (
                None if x is None else gather_rows(x, process_group) for x in (extra_group_E, extra_ignore_E)
            )
        by_image = block_metric(
            cosine_RC,
            group_R,
            group_R,
            scale=scale,
            positive=positive,
            negative=negative,
            ignore_NM=ignore_RC,
            ignored=ignored,
            extra_NE=extra_RE,
            extra_group_E=extra_group_E,
            extra_ignore_E=extra_ignore_E,
        )
        by_text = block_metric(
            cosine_RC.T,
            group_R,
            group_R,
            scale=scale,
            positive=positive,
            negative=negative,
            ignore_NM=None if ignore_RC is None else ignore_RC.T,
            ignored=ignored,
        )
    return (by_image + by_text) / 2


def _positives(score_NM: Tensor, own_NM: Tensor, row_N: Tensor, groups: int, positive: Positive, scale_1: Tensor) -> Tensor:
    against_N = _lse((-score_NM).masked_fill(~own_NM, -torch.inf), 1)  # LSE_{j in a}(-s_ij)
    hard_G = -_segment_lse(against_N[:, None], row_N, groups)[:, 0]
    if positive == "hard":
        return hard_G
    least_G = _segment_lse(-against_N[:, None], row_N, groups)[:, 0]
    if positive == "least_hard":
        return least_G
    hard_cosine_G, least_cosine_G = hard_G.detach() / scale_1.detach(), least_G.detach() / scale_1.detach()
    share_G = 2 * hard_cosine_G * least_cosine_G / (hard_cosine_G + least_cosine_G)
    share_G = share_G.masked_fill(hard_cosine_G < 0, 0).nan_to_num(0, 0, 0)
    return share_G * hard_G + (1 - share_G) * least_G


def _negatives(score_NM: Tensor, row_N: Tensor, column_M: Tensor, groups: int, negative: Negative) -> Tensor:
    each_NG = _segment_lse(score_NM.T, column_M, groups).T
    if negative == "hard":
        return _segment_lse(each_NG, row_N, groups)
    return -_segment_lse(-each_NG, row_N, groups)


def _extra(score_NE: Tensor, row_N: Tensor, ids_G: Tensor, extra_group_E: Tensor | None) -> Tensor:
    if extra_group_E is not None:
        score_NE = score_NE.masked_fill(ids_G[row_N][:, None] != extra_group_E, -torch.inf)
    return _segment_lse(_lse(score_NE, 1)[:, None], row_N, len(ids_G))[:, 0]


def _segment_lse(x_NC: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """[S, C], the log-sum-exp over the rows of each segment; -inf where all of them are, without a gradient that is not a number."""
    index_NC = segment_N[:, None].expand_as(x_NC)
    top_SC = x_NC.detach().new_full((segments, x_NC.shape[1]), -torch.inf).scatter_reduce(0, index_NC, x_NC.detach(), "amax")
    reference_SC = top_SC.where(top_SC.isfinite(), 0)
    total_SC = torch.zeros_like(reference_SC).index_add(0, segment_N, (x_NC - reference_SC[segment_N]).exp())
    none_SC = total_SC == 0
    return (total_SC.masked_fill(none_SC, 1).log() + reference_SC).masked_fill(none_SC, -torch.inf)


def _lse(x_NC: Tensor, dim: int) -> Tensor:
    """log-sum-exp, -inf with a gradient of 0 over nothing but -inf."""
    none_N1 = (x_NC == -torch.inf).all(dim, keepdim=True)
    return x_NC.masked_fill(none_N1, 0).logsumexp(dim).masked_fill(none_N1.squeeze(dim), -torch.inf)


def _check_options(positive: str, negative: str, ignored: str) -> None:
    for name, value, allowed in (
        ("positive", positive, ("hard", "least_hard", "adaptive")),
        ("negative", negative, ("hard", "least_hard")),
        ("ignored", ignored, ("floor", "drop")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r} (expected {' | '.join(allowed)})")


def _check(
    cosine_NM: Tensor,
    row_group_N: Tensor,
    column_group_M: Tensor,
    ignore_NM: Tensor | None,
    extra_NE: Tensor | None,
    extra_group_E: Tensor | None,
    extra_ignore_E: Tensor | None,
) -> None:
    if cosine_NM.ndim != 2 or (len(row_group_N), len(column_group_M)) != tuple(cosine_NM.shape):
        raise ShapeError(
            f"cosines must be [N, M] with an id a row and a column; got {list(cosine_NM.shape)}, {list(row_group_N.shape)} and "
            f"{list(column_group_M.shape)}"
        )
    if ignore_NM is not None and ignore_NM.shape != cosine_NM.shape:
        raise ShapeError(f"ignore_NM must be {list(cosine_NM.shape)}, one answer a pair; got {list(ignore_NM.shape)}")
    if extra_NE is not None and (extra_NE.ndim != 2 or len(extra_NE) != len(cosine_NM)):
        raise ShapeError(f"extra_NE must be [{len(cosine_NM)}, E], got {list(extra_NE.shape)}")
    for name, of_E in (("extra_group_E", extra_group_E), ("extra_ignore_E", extra_ignore_E)):
        if of_E is not None and extra_NE is None:
            raise ShapeError(f"{name} needs extra_NE, whose columns it refers to")
        if of_E is not None and extra_NE is not None and of_E.shape != extra_NE.shape[1:]:
            raise ShapeError(f"{name} must be [{extra_NE.shape[1]}], one per column; got {list(of_E.shape)}")
