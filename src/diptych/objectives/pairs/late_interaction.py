"""Token-wise contrastive loss of images and texts (FILIP, 2111.07783), in tiles: memory is linear in the batch size, not
quadratic.

With unit-norm patches v_ip of image i and words t_jl of text j, a_ij,pl = v_ip . t_jl, and a scale s,

    I_ij = 1 / P_i  sum_p max_l a_ij,pl            similarity of image i to text j
    T_ij = 1 / L_j  sum_l max_p a_ij,pl            similarity of text j to image i
    loss = mean_i ( CE(s I_i:, i) + CE(s T_:i, i) ) / 2

Images are scored against texts by I, texts against images by T; the two differ, and neither is symmetric. Padding is excluded
from every maximum and mean. Each token gets its gradient from the token that it matched, and from those that matched it; ties go
to the first.

What implementations get wrong: padding that wins a maximum (a zero vector is more similar than a negative cosine); means over padding,
so that short texts score low; one matrix for both directions, so that images have no texts as negatives; exponentials of logits whose
maximum was not subtracted; chunks under autograd, which keep every chunk until backward.

Letters: N images of this process, M its texts (row i < N is image i's), C texts of all processes, P patches, L words, D width,
T images of a tile, K texts of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, all_gather, check_equal_rows, gather_rows, mean_over_processes, world
from diptych.objectives.pairs.pairing import PairLabels, Same, as_scalar

CELLS = 1 << 21
"""Default number of token similarities held at once."""
PARTS = (
    "image_to_text",
    "text_to_image",
    "accuracy_image_to_text",
    "accuracy_text_to_image",
    "positive_image_score",
    "positive_text_score",
)
ROWS = 16
"""Maximum number of images per tile: a matrix product has P times as many rows."""


def late_interaction(
    patch_NPD: Tensor,
    word_NLD: Tensor,
    *,
    scale: Tensor | float,
    patch_mask_NP: Tensor | None = None,
    word_mask_NL: Tensor | None = None,
    group_N: Tensor | None = None,
    same: Same = "mask",
    cells: int = CELLS,
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its parts.

    patch_NPD, word_NLD   unit-norm tokens, as many images as texts; any floating type, computed in at least float32
    scale                 the factor itself, a number or a tensor of one element
    patch_mask_NP         True where a token is real; None: all are. word_mask_NL likewise. Every row needs a real token
    group_N               integer ids; pairs of equal id off the diagonal are (`same`) left out ("mask"), positives that share the
                          target evenly ("positive"), or ordinary negatives
    cells                 similarities held at once; affects only time and memory

    With several processes all arguments are local, of equal shapes; images are compared with the texts of all processes. The loss
    is the global mean, and averaged over processes every gradient is that of the global mean.

    parts (detached, global means): image_to_text, text_to_image, accuracy_image_to_text, accuracy_text_to_image (own text above every
    one that is not positive), positive_image_score and positive_text_score (of the pairs, I_ii and T_ii).

    Raises ShapeError, and ConfigError for invalid options.
    """
    patch_mask_NP, word_mask_NL = _checked(patch_NPD, word_NLD, patch_mask_NP, word_mask_NL)
    if same not in ("mask", "positive", "negative"):
        raise ConfigError(f"same must be 'mask', 'positive' or 'negative', got {same!r}")
    if group_N is not None and group_N.shape != patch_NPD.shape[:1]:
        raise ShapeError(f"group_N must be [{len(patch_NPD)}], one id a pair; got {list(group_N.shape)}")
    if len(patch_NPD) != len(word_NLD):
        raise ShapeError(f"every image needs its text in the same row: got {len(patch_NPD)} images and {len(word_NLD)} texts")
    rank, count = world(process_group)
    check_equal_rows(process_group, patch_NPD=patch_NPD, word_NLD=word_NLD)
    image, text = (
        pad_with_first_token(patch_NPD, patch_mask_NP),
        pad_with_first_token(word_NLD, word_mask_NL, everywhere=process_group),
    )
    text = _Tokens(gather_rows(text.token_NTD, process_group), gather_rows(text.weight_NT, process_group))
    group_C = None if group_N is None else gather_rows(group_N, process_group)
    rows = len(patch_NPD)
    pairing = PairLabels(rows, rows * count, rank * rows, min(ROWS, rows), group_N, group_C, same)
    plan = _ChunkPlan(pairing, max(1, cells), process_group)
    scale_1 = as_scalar(scale, "scale", device=patch_NPD.device)
    row_N, column_N, hit_2N, own_2N = _MaxMean.apply(  # type: ignore[no-untyped-call]
        image.token_NTD, text.token_NTD, image.weight_NT, text.weight_NT, scale_1, plan
    )
    loss = mean_over_processes(((row_N + column_N) / 2).mean(), process_group)
    with torch.no_grad():
        means = torch.stack([x.mean() for x in (row_N, column_N, hit_2N[0], hit_2N[1], own_2N[0], own_2N[1])])
        parts = dict(zip(PARTS, mean_over_processes(means, process_group).unbind(), strict=True))
    return loss, parts


@torch.no_grad()
def select_tokens(
    patch_NPD: Tensor,
    word_NLD: Tensor,
    share: float,
    *,
    patch_mask_NP: Tensor | None = None,
    word_mask_NL: Tensor | None = None,
    of: Literal["tokens", "places"] = "tokens",
    cells: int = CELLS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Selects the tokens that represent an image or text: those most similar to any token of any text, or image, of this process.

    Of the P real patches of an image the ceil(share * P) with the highest maximum over all words of all texts are kept, likewise
    for words. With "places" floor(share * P) are kept, where P includes padding: of a text padded to 77 the best 19, or all if it
    is shorter. (Published with a share of a quarter, before tokens are sent to other processes, so the choice depends on the
    local batch. The paper does not say a quarter of what; code that Huawei released later uses padded positions.)

    Returns place_NP and kept_NP, place_NL and kept_NL: the positions of the selected tokens, best first, padded to the longest
    row, and a mask of valid positions. The selection has no gradient; gathering the tokens at these positions does.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the share of tokens that are kept is {share:g} (expected above 0, up to 1)")
    patch_mask_NP, word_mask_NL = _checked(patch_NPD, word_NLD, patch_mask_NP, word_mask_NL)
    image, text = pad_with_first_token(patch_NPD, patch_mask_NP), pad_with_first_token(word_NLD, word_mask_NL)
    dtype = _wide(patch_NPD, word_NLD)
    patch_NP = patch_NPD.new_full(image.weight_NT.shape, -torch.inf, dtype=dtype)
    word_NL = word_NLD.new_full(text.weight_NT.shape, -torch.inf, dtype=dtype)
    with torch.autocast(patch_NPD.device.type, enabled=False):
        for start, stop in _spans(len(patch_NPD), ROWS):
            tile = _Tile(image.part(start, stop, dtype), text, dtype, cells)
            for at, end, a_TPKL in tile.chunks():
                patch_NP[start:stop] = torch.maximum(patch_NP[start:stop], a_TPKL.amax((2, 3)))
                word_NL[at:end] = torch.maximum(word_NL[at:end], a_TPKL.amax((0, 1)))
    if of not in ("tokens", "places"):
        raise ConfigError(f"of must be 'tokens' or 'places', got {of!r}")
    return *_best(patch_NP, patch_mask_NP, share, of), *_best(word_NL, word_mask_NL, share, of)


def _best(value_NT: Tensor, mask_NT: Tensor, share: float, of: str) -> tuple[Tensor, Tensor]:
    """`value_NT` may lack columns that are padding in all rows of `mask_NT`."""
    real_N, positions = mask_NT.sum(1), mask_NT.shape[1]
    mask_NT = mask_NT[:, : value_NT.shape[1]]
    if of == "places":
        wanted_N = real_N.clamp(max=max(1, int(share * positions + 1e-6)))
    else:
        wanted_N = (real_N * share - 1e-6).ceil().clamp_min(1).long()
    if wanted_N.device.type == "cpu":
        most = int(wanted_N.max())
    else:  # upper bound for a row without padding, which needs no device synchronisation
        most = max(1, int(share * positions + 1e-6) if of == "places" else math.ceil(share * positions - 1e-6))
    place_NT = value_NT.masked_fill(~mask_NT, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most]
    return place_NT, torch.arange(place_NT.shape[1], device=place_NT.device) < wanted_N[:, None]


# ---------------------------------------------------------------- tokens without padding


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens [N, T, D] without padding, and their weights [N, T] in the mean, which sum to 1."""

    token_NTD: Tensor
    weight_NT: Tensor

    def part(self, start: int, stop: int, dtype: torch.dtype) -> _Tokens:
        return _Tokens(self.token_NTD[start:stop].to(dtype), self.weight_NT[start:stop].to(dtype))


def pad_with_first_token(token_NTD: Tensor, mask_NT: Tensor, *, everywhere: Group | Literal[False] = False) -> _Tokens:
    """Replaces padding by copies of the row's first real token, with weight 0; columns that are padding in all rows are cut.

    A copy changes no maximum, for any padding values, and passes its gradient to the copied token.
    everywhere  process group over which the longest row is determined; False: only this process
    """
    on_host = mask_NT.device.type == "cpu"
    if on_host or (everywhere is not False and world(everywhere)[1] > 1):  # of other processes the length has to be known
        length = torch.where(mask_NT.any(0))[0].amax() + 1
        if everywhere is not False:
            length = all_gather(length, everywhere).amax()
        token_NTD, mask_NT = token_NTD[:, : int(length)], mask_NT[:, : int(length)]
    dtype = torch.promote_types(token_NTD.dtype, torch.float32)
    weight_NT = mask_NT / mask_NT.sum(1, keepdim=True).to(dtype)
    if on_host and bool(mask_NT.all()):
        return _Tokens(token_NTD, weight_NT)
    first_N1 = mask_NT.to(torch.uint8).argmax(1, keepdim=True)
    place_NT = torch.arange(mask_NT.shape[1], device=mask_NT.device).expand_as(mask_NT).where(mask_NT, first_N1)
    return _Tokens(token_NTD.gather(1, place_NT[..., None].expand_as(token_NTD)), weight_NT)


def _checked(
    patch_NPD: Tensor, word_MLD: Tensor, patch_mask_NP: Tensor | None, word_mask_ML: Tensor | None
) -> tuple[Tensor, Tensor]:
    if patch_NPD.ndim != 3 or word_MLD.ndim != 3 or patch_NPD.shape[2] != word_MLD.shape[2]:
        shapes = f"{list(patch_NPD.shape)} and {list(word_MLD.shape)}"
        raise ShapeError(f"patches must be [N, P, D] and words [M, L, D] with one D; got {shapes}")
    masks = []
    for what, token, mask in (("image", patch_NPD, patch_mask_NP), ("text", word_MLD, word_mask_ML)):
        if mask is None:
            mask = torch.ones(token.shape[:2], dtype=torch.bool, device=token.device)
        if mask.shape != token.shape[:2]:
            raise ShapeError(
                f"the mask of the {what}s must be {list(token.shape[:2])}, one value per token; got {list(mask.shape)}"
            )
        # this would synchronise with a GPU
        empty: list[int] = torch.where(~mask.bool().any(1))[0].tolist() if mask.device.type == "cpu" else []
        if empty or not mask.numel():
            row = f" in row {empty[0]}" if empty else ""
            raise ShapeError(f"the {what}{row} has no token (expected one or more that are not padding)")
        masks.append(mask.bool())
    return masks[0], masks[1]


def _wide(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)


def _spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, total)) for start in range(0, total, size))


# ---------------------------------------------------------------- tiles


class _Tile:
    """The similarities of some images with all texts, a chunk of texts at a time in one buffer."""

    def __init__(self, image: _Tokens, text: _Tokens, dtype: torch.dtype, cells: int) -> None:
        self.image, self.text, self.dtype = image, text, dtype
        rows = image.token_NTD.shape[0] * image.token_NTD.shape[1]
        self.size = min(len(text.token_NTD), max(1, cells // (rows * text.token_NTD.shape[1])))
        self.flat_RD = image.token_NTD.flatten(0, 1)
        self.buffer = image.token_NTD.new_empty(rows * self.size * text.token_NTD.shape[1])

    def words(self, at: int, end: int) -> Tensor:
        """The words of a chunk, [K L, D]."""
        return self.text.token_NTD[at:end].to(self.dtype).flatten(0, 1)

    def chunks(self) -> Iterator[tuple[int, int, Tensor]]:
        """(first text, last, a_TPKL) of each chunk; the tensor is overwritten by the next."""
        (images, patches, _), length = self.image.token_NTD.shape, self.text.token_NTD.shape[1]
        for at, end in _spans(len(self.text.token_NTD), self.size):
            columns = (end - at) * length
            out = self.buffer[: images * patches * columns].view(images * patches, columns)
            torch.mm(self.flat_RD, self.words(at, end).T, out=out)
            yield at, end, out.view(images, patches, end - at, length)

    def scores(self, at: int, end: int, a_TPKL: Tensor) -> Tensor:
        """I and T of a chunk, [2, T, K]."""
        return self.means(at, end, a_TPKL.amax(3), a_TPKL.amax(1))

    def means(self, at: int, end: int, best_TPK: Tensor, best_TKL: Tensor) -> Tensor:
        by_image_TK = torch.einsum("tpk,tp->tk", best_TPK, self.image.weight_NT)
        by_text_TK = (best_TKL * self.text.weight_NT[at:end].to(self.dtype)).sum(2)
        return torch.stack([by_image_TK, by_text_TK])


@dataclass(frozen=True, slots=True)
class _ChunkPlan:
    pairing: PairLabels
    cells: int
    process_group: Group


@dataclass(slots=True)
class _ScoreSums:
    """Per row of s I, or column of s T: log-sum-exp, target-weighted sum, sum of targets, and highest non-positive score."""

    lse: Tensor
    positive: Tensor
    target: Tensor
    rival: Tensor

    @classmethod
    def empty(cls, size: int, like: Tensor) -> _ScoreSums:
        low = like.new_full((size,), -torch.inf, dtype=torch.float64)
        return cls(low, torch.zeros_like(low), torch.zeros_like(low), low.clone())

    @classmethod
    def over(cls, logit_TC: Tensor, out_TC: Tensor | None, target_TC: Tensor, axis: int) -> _ScoreSums:
        kept_TC = logit_TC if out_TC is None else logit_TC.masked_fill(out_TC, -torch.inf)
        rival_TC = kept_TC.masked_fill(target_TC > 0, -torch.inf)
        positive = (target_TC * logit_TC).sum(axis)
        return cls(kept_TC.logsumexp(axis), positive, target_TC.sum(axis), rival_TC.amax(axis))

    def add(self, other: _ScoreSums) -> None:
        self.lse = torch.logaddexp(self.lse, other.lse)
        self.rival = torch.maximum(self.rival, other.rival)
        self.positive, self.target = self.positive + other.positive, self.target + other.target

    def over_processes(self, process_group: Group) -> _ScoreSums:
        all_W4C = all_gather(torch.stack([self.lse, self.positive, self.target, self.rival]), process_group)
        return _ScoreSums(all_W4C[:, 0].logsumexp(0), all_W4C[:, 1].sum(0), all_W4C[:, 2].sum(0), all_W4C[:, 3].amax(0))

    @property
    def loss(self) -> Tensor:
        return self.lse - self.positive / self.target


class _MaxMean(torch.autograd.Function):
    """Losses of rows by I and of columns by T. Saves tokens and one log-sum-exp per row and column; backward recomputes each
    chunk."""

    @staticmethod
    def forward(
        ctx: Any, image_RPD: Tensor, text_CLD: Tensor, weight_RP: Tensor, weight_CL: Tensor, scale_1: Tensor, plan: _ChunkPlan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pairing, dtype = plan.pairing, _wide(image_RPD, text_CLD)
        image, text, scale = _Tokens(image_RPD, weight_RP), _Tokens(text_CLD, weight_CL), scale_1.double()
        rows: list[_ScoreSums] = []
        column = _ScoreSums.empty(pairing.columns, image_RPD)
        own_2N = image_RPD.new_empty((2, pairing.rows), dtype=dtype)
        with torch.autocast(image_RPD.device.type, enabled=False):
            for start, stop in pairing.tiles(pairing.rows):
                tile = _Tile(image.part(start, stop, dtype), text, dtype, plan.cells)
                score_2TC = torch.cat([tile.scores(at, end, a_TPKL) for at, end, a_TPKL in tile.chunks()], dim=2)
                own_2N[:, start:stop] = torch.stack([pairing.partner(score_TC, start) for score_TC in score_2TC])
                by_image_TC, by_text_TC = (score_2TC.double() * scale).unbind()
                out_TC, target_TC = _out_and_target(pairing, start, stop, scale.device)
                rows.append(_ScoreSums.over(by_image_TC, out_TC, target_TC, 1))
                column.add(_ScoreSums.over(by_text_TC, out_TC, target_TC, 0))
        row = _ScoreSums(*(torch.cat([getattr(part, name) for part in rows]) for name in ("lse", "positive", "target", "rival")))
        column = column.over_processes(plan.process_group)
        mine = slice(pairing.offset, pairing.offset + pairing.rows)
        rival_2N = torch.stack([row.rival, column.rival[mine]])
        hit_2N = (own_2N.double() * scale > rival_2N).to(dtype)
        ctx.plan = plan
        ctx.save_for_backward(image_RPD, text_CLD, weight_RP, weight_CL, scale_1, row.lse, column.lse, row.target, column.target)
        ctx.mark_non_differentiable(hit_2N, own_2N)
        return row.loss.to(dtype), column.loss[mine].to(dtype), hit_2N, own_2N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_row_N: Tensor, grad_column_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        image_RPD, text_CLD, weight_RP, weight_CL, scale_1, row_lse_R, column_lse_C, row_target_R, column_target_C = (
            ctx.saved_tensors
        )
        plan: _ChunkPlan = ctx.plan
        pairing, dtype, scale = plan.pairing, _wide(image_RPD, text_CLD), scale_1.double()
        # Every process holds rows of every column, so it needs the incoming gradients of all columns.
        grad_column_C = all_gather(grad_column_N, plan.process_group).flatten().double()
        image, text = _Tokens(image_RPD, weight_RP), _Tokens(text_CLD, weight_CL)
        image_grad_RPD, text_grad_CLD = torch.zeros_like(image_RPD, dtype=dtype), torch.zeros_like(text_CLD, dtype=dtype)
        scale_grad = scale.new_zeros(())
        with torch.autocast(image_RPD.device.type, enabled=False):
            for start, stop in pairing.tiles(pairing.rows):
                tile = _Tile(image.part(start, stop, dtype), text, dtype, plan.cells)
                out_TC, target_TC = _out_and_target(pairing, start, stop, scale.device)
                grad_T1 = grad_row_N[start:stop, None].double()
                for at, end, a_TPKL in tile.chunks():
                    (best_TPK, word_TPK), (best_TKL, patch_TKL) = a_TPKL.max(3), a_TPKL.max(1)
                    score_2TK = tile.means(at, end, best_TPK, best_TKL).double()
                    part = slice(at, end)
                    soft_TK = ((score_2TK[0] * scale) - row_lse_R[start:stop, None]).exp()
                    other_TK = ((score_2TK[1] * scale) - column_lse_C[part]).exp()
                    if out_TC is not None:
                        soft_TK, other_TK = (x.masked_fill(out_TC[:, part], 0) for x in (soft_TK, other_TK))
                    by_image_TK = grad_T1 * (soft_TK - target_TC[:, part] / row_target_R[start:stop, None])
                    by_text_TK = grad_column_C[part] * (other_TK - target_TC[:, part] / column_target_C[part])
                    scale_grad += (by_image_TK * score_2TK[0] + by_text_TK * score_2TK[1]).sum()
                    by_image_TK, by_text_TK = ((x * scale).to(dtype) for x in (by_image_TK, by_text_TK))
                    grad_TPKL = a_TPKL.zero_()  # reuse the buffer: the similarities are no longer needed
                    grad_TPKL.scatter_(
                        3, word_TPK[..., None], (by_image_TK[:, None] * tile.image.weight_NT[..., None])[..., None]
                    )
                    to_word_TKL = by_text_TK[..., None] * weight_CL[part].to(dtype)
                    grad_TPKL.scatter_add_(1, patch_TKL[:, None], to_word_TKL[:, None])
                    grad_RK = grad_TPKL.flatten(2).flatten(0, 1)
                    image_grad_RPD[start:stop].view(len(grad_RK), -1).addmm_(grad_RK, tile.words(at, end))
                    text_grad_CLD[part].view(grad_RK.shape[1], -1).addmm_(grad_RK.T, tile.flat_RD)
        scale_grad_1 = scale_grad.to(scale_1).reshape(scale_1.shape) if ctx.needs_input_grad[4] else None
        return image_grad_RPD.to(image_RPD), text_grad_CLD.to(text_CLD), None, None, scale_grad_1, None


def _out_and_target(pairing: PairLabels, start: int, stop: int, device: torch.device) -> tuple[Tensor | None, Tensor]:
    """Mask of the excluded pairs of a tile, and the target weights, float64."""
    target_TC = pairing.targets(start, stop, pairing.columns, torch.float64)
    if target_TC is None:
        target_TC = torch.zeros(stop - start, pairing.columns, dtype=torch.float64, device=device)
        pairing.partner(target_TC, start).fill_(1)
    return pairing.left_out(start, stop, pairing.columns), target_TC
