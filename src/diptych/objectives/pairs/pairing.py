"""Pair labels of an image-text score matrix (positive, negative or left out), computed one tile of rows at a time.

Letters: N images with a partner (this process's rows), R image rows (N, then extra images), C text columns (the partners of all
processes' images, then further texts), T rows of one tile. Row i's partner is column `offset + i`.
A partner is never left out, even if the group ids or the mask exclude it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, check_equal_rows, gather_rows, world
from diptych.objectives.pairs.tiling import tile_rows

Same = Literal["mask", "positive", "negative"]


@dataclass(frozen=True, slots=True)
class PairLabels:
    """Everything about a batch except its features. Ids, mask and targets may cover fewer rows or columns than there are: the
    rest are ordinary negatives.

    rows       N
    columns    how many columns, from the first, are partners: N times the number of processes
    offset     column of row 0's partner
    """

    rows: int
    columns: int
    offset: int
    tile: int
    group_R: Tensor | None = None
    group_C: Tensor | None = None
    same: Same = "mask"
    keep_NC: Tensor | None = None
    target_NC: Tensor | None = None

    def tiles(self, total_rows: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each tile; none holds both images and extra images."""
        for begin, end in ((0, self.rows), (self.rows, total_rows)):
            for start in range(begin, end, self.tile):
                yield start, min(start + self.tile, end)

    @property
    def one_positive(self) -> bool:
        """True if each row's only positive is its partner."""
        return self.target_NC is None and (self.group_R is None or self.same != "positive")

    def partner(self, tile_TC: Tensor, start: int) -> Tensor:
        """The partners' entries of a tile as a view [T]; empty for extra images."""
        return tile_TC.diagonal(self.offset + start)[: len(tile_TC)] if start < self.rows else tile_TC[:0, 0]

    def left_out(self, start: int, stop: int, columns: int) -> Tensor | None:
        """Mask of excluded pairs, bool [T, C]; None if no pair is excluded."""
        out_TC = self._equal(start, stop, columns) if self.same == "mask" else None
        if self.keep_NC is not None and start < self.rows:
            if out_TC is None:
                out_TC = torch.zeros(stop - start, columns, dtype=torch.bool, device=self.keep_NC.device)
            out_TC[:, : self.keep_NC.shape[1]] |= ~self.keep_NC[start:stop]
        if out_TC is not None:
            self.partner(out_TC, start).fill_(False)
        return out_TC

    def targets(self, start: int, stop: int, columns: int, dtype: torch.dtype) -> Tensor | None:
        """Unnormalised target weight of each pair of the tile, [T, C], zero where left out; None when `one_positive`."""
        if self.one_positive:
            return None
        if self.target_NC is not None:
            target_TC = torch.zeros(stop - start, columns, dtype=dtype, device=self.target_NC.device)
            if start < self.rows:
                target_TC[:, : self.target_NC.shape[1]] = self.target_NC[start:stop]
        else:
            equal_TC = self._equal(start, stop, columns)
            assert equal_TC is not None
            self.partner(equal_TC, start).fill_(True)
            target_TC = equal_TC.to(dtype)
        out_TC = self.left_out(start, stop, columns)
        return target_TC if out_TC is None else target_TC.masked_fill_(out_TC, 0)

    def _equal(self, start: int, stop: int, columns: int) -> Tensor | None:
        if self.group_R is None or self.group_C is None:
            return None
        group_T = self.group_R[start:stop]
        equal_TC = torch.zeros(stop - start, columns, dtype=torch.bool, device=group_T.device)
        equal_TC[: len(group_T), : len(self.group_C)] = group_T[:, None] == self.group_C
        return equal_TC


@dataclass(frozen=True, slots=True)
class GatheredPairs:
    """Inputs of the tiled functions: image rows of this process, text columns of all processes."""

    image_RD: Tensor
    text_CD: Tensor
    pairing: PairLabels


def gather_pairs(
    image_ND: Tensor,
    text_MD: Tensor,
    *,
    group_N: Tensor | None,
    group_M: Tensor | None,
    same: Same,
    keep_NM: Tensor | None,
    target_NM: Tensor | None,
    extra_text: tuple[Tensor, Tensor | None] | None,
    extra_image: tuple[Tensor, Tensor | None] | None,
    tile: int,
    process_group: Group,
) -> GatheredPairs:
    """Checks the arguments of an objective, gathers the texts of all processes and appends the extra keys without gradient.

    Raises ShapeError for inconsistent shapes, or shapes that differ between processes, and ConfigError for invalid options.
    """
    rank, count = world(process_group)
    _check_features(image_ND, text_MD, tile, same)
    check_equal_rows(process_group, image_ND=image_ND, text_MD=text_MD)
    rows, partners = len(image_ND), len(image_ND) * count
    if target_NM is not None and group_N is not None and same == "positive":
        raise ConfigError("targets and groups with same='positive' both define positives; give one of them")

    def everywhere(x_M: Tensor) -> Tensor:
        parts = [gather_rows(x_M[:rows], process_group)]
        parts += [gather_rows(x_M[rows:], process_group)] if len(x_M) > rows else []
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    group_R, group_C = _check_groups(image_ND, text_MD, group_N, group_M), None
    if group_R is not None:
        group_C = everywhere(group_R if group_M is None else group_M)
    text_CD = everywhere(text_MD)
    for name, dense in (("keep_NM", keep_NM), ("target_NM", target_NM)):
        if dense is not None and dense.shape != (rows, len(text_CD)):
            raise ShapeError(
                f"{name} must be {[rows, len(text_CD)]}, own images by the texts of all processes; got {list(dense.shape)}"
            )
    image_RD = image_ND
    if extra_text is not None:
        text_CD, group_C = _append(text_CD, group_C, *extra_text, name="extra_text")
    if extra_image is not None:
        # Every process holds the same keys, and each column must be counted once per key: each process takes a slice of them.
        key_KD, key_group_K = (None if x is None else x[rank::count] for x in extra_image)
        assert key_KD is not None
        image_RD, group_R = _append(image_ND, group_R, key_KD, key_group_K, name="extra_image")
    keep_NC = None if keep_NM is None else keep_NM.bool()
    tile = tile or tile_rows(len(text_CD), 4, cpu=image_ND.device.type == "cpu")
    pairing = PairLabels(rows, partners, rank * rows, tile, group_R, group_C, same, keep_NC, target_NM)
    return GatheredPairs(image_RD, text_CD, pairing)


def as_scalar(value: Tensor | float, name: str, *, device: torch.device) -> Tensor:
    """A scale or bias as a tensor of one element, whose gradient flows. A plain number becomes float64, so that it is exact beside
    features of any type. Raises ShapeError."""
    tensor = value.to(device) if isinstance(value, Tensor) else torch.full((), float(value), dtype=torch.float64, device=device)
    if tensor.numel() != 1:
        raise ShapeError(f"{name} must hold one number, got shape {list(tensor.shape)}")
    return tensor


def _check_features(image_ND: Tensor, text_MD: Tensor, tile: int, same: str) -> None:
    if image_ND.ndim != 2 or text_MD.ndim != 2 or image_ND.shape[1] != text_MD.shape[1]:
        raise ShapeError(f"features must be [N, D] and [M, D] with one D; got {list(image_ND.shape)} and {list(text_MD.shape)}")
    if not 0 < len(image_ND) <= len(text_MD):
        raise ShapeError(f"every image needs its text in the same row: got {len(image_ND)} images and {len(text_MD)} texts")
    if tile < 0:
        raise ConfigError(f"tile must be 1 or more rows, or 0 for as many as the cache holds; got {tile}")
    if same not in ("mask", "positive", "negative"):
        raise ConfigError(f"same must be 'mask', 'positive' or 'negative', got {same!r}")


def _check_groups(image_ND: Tensor, text_MD: Tensor, group_N: Tensor | None, group_M: Tensor | None) -> Tensor | None:
    if group_N is None:
        if group_M is not None:
            raise ShapeError("group_M needs group_N: ids are compared between images and texts")
        return None
    if group_M is None and len(text_MD) != len(image_ND):
        raise ShapeError(f"{len(text_MD)} texts but {len(image_ND)} images: group_M must give each text's group")
    for name, group, features in (("group_N", group_N, image_ND), ("group_M", group_M, text_MD)):
        if group is not None and group.shape != features.shape[:1]:
            raise ShapeError(f"{name} must be [{len(features)}], one id a row; got {list(group.shape)}")
    return group_N


def _append(
    x_ND: Tensor, group_N: Tensor | None, key_KD: Tensor, key_group_K: Tensor | None, *, name: str
) -> tuple[Tensor, Tensor | None]:
    if key_KD.ndim != 2 or key_KD.shape[1] != x_ND.shape[1]:
        raise ShapeError(f"{name}_KD must be [K, {x_ND.shape[1]}], got {list(key_KD.shape)}")
    if key_group_K is not None:
        if group_N is None:
            raise ShapeError(f"{name}_group_K needs group_N: ids are compared between keys and rows")
        if key_group_K.shape != key_KD.shape[:1]:
            raise ShapeError(f"{name}_group_K must be [{len(key_KD)}], one id a key; got {list(key_group_K.shape)}")
        group_N = torch.cat([group_N, key_group_K.to(group_N)])
    return torch.cat([x_ND, key_KD.detach().to(x_ND)]), group_N
