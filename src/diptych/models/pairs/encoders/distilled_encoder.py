"""Dual encoder distilled from a matcher on short candidate lists (dynamic contrastive distillation; our interpretation).

Letters: B batch, N items of this process, C items of all processes, K wrong candidates, C H W of an image, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.matching.matcher import PairMatcher, SideFeatures, match_at, match_matrix

Negatives = Literal["teacher", "student", "both", "random"]
Scores = Literal["match", "contrast"]


@dataclass(frozen=True, slots=True)
class DistilledPairs:
    """Inputs of the losses: the student's vectors with its scale [1], and a candidate list per anchor, its partner first.

    text_place_NK, image_place_NK  candidates of each row's image, and of its text: rows among those of all processes
    by_image_NK, by_text_NK        the teacher's scores of these
    kept_image_NK, kept_text_NK    False where there were fewer candidates than K
    fused_ND, guessed_ND           the teacher's vector of each pair, and the student's prediction of it; None without that term
    """

    image_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor]
    scale: Tensor
    text_place_NK: Rows[Tensor]
    image_place_NK: Rows[Tensor]
    by_image_NK: Rows[Tensor]
    by_text_NK: Rows[Tensor]
    kept_image_NK: Rows[Tensor]
    kept_text_NK: Rows[Tensor]
    fused_ND: Rows[Tensor] | None = None
    guessed_ND: Rows[Tensor] | None = None


class DistilledEncoder(nn.Module):
    """Student `encoder` with a frozen matcher as its teacher, which chooses candidates and scores them.

    candidates  K, wrong ones of each anchor
    negatives   source of hard negatives: the "teacher" by its vectors, the "student" by its current ones, "both" half and half,
                or "random"
    scores      distillation target: the teacher's "match" score of each pair, or the "contrast" of its vectors
    teacher_scale  factor of the teacher's contrast
    exact       the teacher finds hard candidates by matching all pairs of the batch, not by its vectors
    guess       also learn a linear prediction of the teacher's fused vector of each pair
    apart       items of one group are not wrong candidates of each other
    gather      [...] of each process -> [W, ...], without gradient; world gives rank and number of processes
    """

    def __init__(
        self,
        encoder: DualEncoder,
        teacher: PairMatcher,
        *,
        candidates: int,
        negatives: Negatives,
        scores: Scores,
        teacher_scale: float = 1 / 0.07,
        exact: bool = False,
        guess: bool = False,
        apart: bool = True,
        gather: Callable[[Tensor], Tensor],
        world: Callable[[], tuple[int, int]],
    ) -> None:
        super().__init__()
        if candidates < 1:
            raise ConfigError(f"candidates is {candidates} (expected 1 or more)")
        if negatives not in get_args(Negatives) or scores not in get_args(Scores):
            raise ConfigError(
                f"negatives is {negatives!r} and scores {scores!r} "
                f"(expected {' | '.join(get_args(Negatives))}, and {' | '.join(get_args(Scores))})"
            )
        self.encoder = encoder
        self.candidates, self.scores, self.exact, self.apart = candidates, scores, exact, apart
        self.negatives: Negatives = negatives
        self.gather, self.world = gather, world
        self.teacher_scale = teacher_scale
        self.guess = nn.Linear(2 * encoder.width, teacher.fused_width) if guess else None
        self.companions = FrozenModules(teacher=cast(nn.Module, teacher))

    @property
    def teacher(self) -> PairMatcher:
        return cast(PairMatcher, self.companions["teacher"])

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        teacher_image_BCHW: Tensor,
        teacher_text_BL: Tensor,
        teacher_mask_BL: Tensor,
        group_B: Tensor,
    ) -> DistilledPairs:
        encoder = self.encoder
        image_ND, text_ND = encoder.encode_image(image_BCHW), encoder.encode_text(text_BL, text_mask_BL)
        with torch.no_grad():
            image, text = self.teacher.read_images(teacher_image_BCHW), self.teacher.read_texts(teacher_text_BL, teacher_mask_BL)
            every_image, every_text = self._everywhere(image), self._everywhere(text)
            student = tuple(self.gather(x_ND).flatten(0, 1) for x_ND in (image_ND, text_ND))
            rank, count = self.world()
            own_N = rank * len(image_ND) + torch.arange(len(image_ND), device=image_ND.device)
            group_C = self.gather(group_B).flatten()
            may_NC = (
                (group_B[:, None] != group_C) if self.apart else torch.ones(len(own_N), len(group_C), device=own_N.device).bool()
            )
            text_hard_NC, image_hard_NC = image.vector_ND @ every_text.vector_ND.T, text.vector_ND @ every_image.vector_ND.T
            if self.exact and self.negatives in ("teacher", "both"):
                text_hard_NC = match_matrix(self.teacher, image, every_text)
                image_hard_NC = text_hard_NC.T if count == 1 else match_matrix(self.teacher, every_image, text).T
            text_place_NK, kept_image_NK = self._list(text_hard_NC, image_ND.detach() @ student[1].T, own_N, may_NC)
            image_place_NK, kept_text_NK = self._list(image_hard_NC, text_ND.detach() @ student[0].T, own_N, may_NC)
            own_NK = own_N[:, None].expand_as(text_place_NK)
            by_image_NK = self._scored(every_image, every_text, torch.stack([own_NK, text_place_NK], -1))
            by_text_NK = self._scored(every_image, every_text, torch.stack([image_place_NK, own_NK], -1))
        fused_ND = guessed_ND = None
        if self.guess is not None:
            with torch.no_grad():
                fused_ND = self.teacher.match(image, text)[1]
            guessed_ND = self.guess(torch.cat([image_ND, text_ND], 1))
        return DistilledPairs(
            image_ND,
            text_ND,
            encoder.log_scale.exp(),
            text_place_NK,
            image_place_NK,
            by_image_NK,
            by_text_NK,
            kept_image_NK,
            kept_text_NK,
            fused_ND,
            guessed_ND,
        )

    def _list(self, by_teacher_NC: Tensor, by_student_NC: Tensor, own_N: Tensor, may_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Return partner and wrong candidates of each anchor [N, 1 + K], and which of them exist."""
        may_NC = may_NC.scatter(1, own_N[:, None], False)
        count = min(self.candidates, may_NC.shape[1] - 1)
        if self.negatives == "random":
            place_NK, kept_NK = _best(torch.rand(may_NC.shape, device=may_NC.device), may_NC, count)
        elif self.negatives == "both":
            place_NK, kept_NK = _best(by_teacher_NC, may_NC, -(-count // 2))
            more = _best(by_student_NC, may_NC.scatter(1, place_NK, False), count // 2)
            place_NK, kept_NK = (torch.cat(two, 1) for two in zip((place_NK, kept_NK), more, strict=True))
        else:
            place_NK, kept_NK = _best(by_teacher_NC if self.negatives == "teacher" else by_student_NC, may_NC, count)
        return torch.cat([own_N[:, None], place_NK], 1), torch.cat([torch.ones_like(kept_NK[:, :1]), kept_NK], 1)

    def _everywhere(self, own: SideFeatures) -> SideFeatures:
        """Gather features of all processes, in rank order. Texts and images have the same number of positions on every rank."""
        vector, state, mask = (self.gather(x).flatten(0, 1) for x in (own.vector_ND, own.state_N, own.mask_NT.to(torch.uint8)))
        return SideFeatures(vector, state, mask.bool())

    def _scored(self, image: SideFeatures, text: SideFeatures, pair_NK2: Tensor) -> Tensor:
        if self.scores == "match":
            return match_at(self.teacher, image, text, pair_NK2)
        vectors = (side.vector_ND[pair_NK2[..., column]] for column, side in enumerate((image, text)))
        return self.teacher_scale * torch.stack(list(vectors)).prod(0).sum(-1)


def _best(value_NC: Tensor, may_NC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the highest allowed values of each row, and which of them were allowed."""
    place_NK = value_NC.masked_fill(~may_NC, -torch.inf).topk(count, dim=1).indices
    return place_NK, may_NC.gather(1, place_NK)
