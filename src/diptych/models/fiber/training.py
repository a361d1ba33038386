"""FIBER's pre-training: contrast, matching and masked words, with a queue of features and of the inputs behind them.

Contrast runs on separate towers; matching and masked words on fused ones. Letters: B N batch of a process, E batch of all
processes, C channel or all candidates for a wrong partner, H W pixels or positions, L tokens, D width, K filled and Q all slots of
the queue, M masked positions, V words, A answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.fiber.fiber import Fiber
from diptych.models.layers.feature_queue import FeatureQueue
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.pairs.matching.matcher import Gather, PartnerDraw, alone, draw_alike, one_process, same_rows, sample_columns

Unfilled = Literal["left_out", "random"]
Partners = Literal["others", "all"]
FLOOR = 1e-9
"""Added to the probability of each candidate before a wrong partner is drawn."""


@dataclass(frozen=True, slots=True)
class FiberFeatures:
    """Inputs of FIBER's losses; None if a term is not trained.

    ..._queue_KD, group_K   features of earlier batches
    own_N2, ...             answers to "do they fit", for own pairs, for a wrong text of each image and for a wrong image of each text
    wrong_N                 False where a row had no wrong partner
    word_NMV                logits at the hidden places
    caption_BLV, old_BLV    logits of each next token, and those of the frozen copy
    answer_BA               logits of the answers
    fit_N2, fits_N          answers to "do they fit" where matching is trained alone, and whether they do
    """

    image_ND: Embeddings[Tensor] | None
    text_ND: Embeddings[Tensor] | None
    image_queue_KD: Tensor
    text_queue_KD: Tensor
    group_K: Tensor
    temperature_1: Tensor
    own_N2: Rows[Tensor] | None
    wrong_text_N2: Rows[Tensor] | None
    wrong_image_N2: Rows[Tensor] | None
    wrong_N: Rows[Tensor] | None
    word_NMV: Rows[Tensor] | None
    caption_BLV: Rows[Tensor] | None
    old_BLV: Rows[Tensor] | None
    answer_BA: Rows[Tensor] | None
    fit_N2: Rows[Tensor] | None = None
    fits_N: Rows[Tensor] | None = None


class InputQueue(nn.Module):
    """The inputs behind the rows of a `FeatureQueue`, place by place: a wrong partner from an earlier batch is read again, with gradient.

    Kept as floats: 4,096 pictures of 384 pixels are 7.2 GB.
    """

    image_QCHW: Tensor
    text_QL: Tensor
    mask_QL: Tensor

    def __init__(self, size: int, image_size: int, text_length: int) -> None:
        super().__init__()
        self.register_buffer("image_QCHW", torch.zeros(size, 3, image_size, image_size))
        self.register_buffer("text_QL", torch.zeros(size, text_length, dtype=torch.int64))
        self.register_buffer("mask_QL", torch.zeros(size, text_length, dtype=torch.bool))

    @torch.no_grad()
    def push_(self, place_N: Tensor, image_NCHW: Tensor, text_NL: Tensor, mask_NL: Tensor) -> None:
        self.image_QCHW[place_N] = image_NCHW.to(self.image_QCHW)
        self.text_QL[place_N], self.mask_QL[place_N] = text_NL, mask_NL.bool()


class FiberTraining(nn.Module):
    """A `Fiber` with its temperature, queues, and the frozen copy that weighs captions where it is asked for.

    queue       places, 0 for none;  compares  whether the sides are contrasted, so that their vectors are needed
    unfilled    places of the queue that nothing was pushed to yet are left out of the contrast, or hold random values as released
    partners    a wrong partner's share is its softmax over "others", or over "all", the own partner among them, as released
    draw        which wrong partner each row gets, from the logits and from what may be its partner; None: by its share, as
                `partners` says. Partners are drawn from the batch of all processes and the queue
    copy_every  steps after which the frozen copy becomes the model as it is; 0 for no copy
    gather, gather_rows, world  rows of all processes, as of `MatcherTraining`
    """

    random_QD: Tensor
    random_text_QD: Tensor
    steps_1: Tensor

    def __init__(
        self,
        fiber: Fiber,
        *,
        queue: int,
        text_length: int,
        temperature: float = 0.07,
        compares: bool = True,
        unfilled: Unfilled = "left_out",
        partners: Partners = "others",
        draw: PartnerDraw | None = None,
        copy_every: int = 0,
        gather: Gather = alone,
        gather_rows: Gather = same_rows,
        world: Callable[[], tuple[int, int]] = one_process,
    ) -> None:
        super().__init__()
        self.gather, self.gather_rows, self.world = gather, gather_rows, world
        if unfilled not in ("left_out", "random"):
            raise ConfigError(f"unfilled is {unfilled!r} (expected left_out | random)")
        if partners not in ("others", "all"):
            raise ConfigError(f"partners is {partners!r} (expected others | all)")
        self.fiber, self.compares, self.copy_every = fiber, compares, copy_every
        self.draw: PartnerDraw = draw or partial(sample_columns, floor=FLOOR, over="allowed" if partners == "others" else "all")
        self.temperature_1 = nn.Parameter(torch.full((1,), temperature))
        self.image_queue = FeatureQueue(queue, fiber.width) if queue else None
        self.text_queue = FeatureQueue(queue, fiber.width) if queue else None
        self.inputs = InputQueue(queue, fiber.image_tower.image_size, text_length) if queue and fiber.fits is not None else None
        for name in ("random_QD", "random_text_QD"):
            random = unfilled == "random"
            self.register_buffer(name, torch.randn(queue if random else 0, fiber.width), persistent=random)
        self.old = FrozenModules(fiber, "copy") if copy_every else None
        if copy_every:
            self.register_buffer("steps_1", torch.zeros(1, dtype=torch.int64))

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        mask_BL: Tensor,
        group_B: Tensor,
        *,
        masked_BL: Tensor | None = None,
        place_BM: Tensor | None = None,
        question_BL: Tensor | None = None,
        question_mask_BL: Tensor | None = None,
    ) -> FiberFeatures:
        """masked_BL and place_BM: the texts with words hidden, and where; question_BL: questions with answers."""
        fiber = self.fiber
        image_BHWC, text_BLD = fiber.image_features(image_BCHW), fiber.text_features(text_BL, mask_BL)
        image_ND = fiber.image_vector(image_BHWC) if self.compares else None
        text_ND = fiber.text_vector(text_BLD, mask_BL) if self.compares else None
        image_queue_KD, text_queue_KD, group_K = self._held(group_B)
        group_E = self._everywhere(group_B)
        row_N = self.world()[0] * len(group_B) + torch.arange(len(group_B), device=group_B.device)
        own_N2 = wrong_text_N2 = wrong_image_N2 = wrong_N = None
        if fiber.fits is not None and image_ND is not None and text_ND is not None:
            every_image_ED, every_text_ED = self._everywhere(image_ND), self._everywhere(text_ND)
            may_EC = group_E[:, None] != torch.cat([group_E, group_K])
            wrong_N = may_EC[row_N].any(1)
            text_N = self._wrong(every_image_ED, every_text_ED, text_queue_KD, may_EC)[row_N]
            image_N = self._wrong(every_text_ED, every_image_ED, image_queue_KD, may_EC)[row_N]
            wrong_BL, wrong_mask_BL = self._texts(text_N, self._everywhere(text_BL), self._everywhere(mask_BL))
            wrong_BHWC = fiber.image_features(self._images(image_N, self._everywhere(image_BCHW)))
            own_N2, wrong_text_N2, wrong_image_N2 = (
                fiber.fits(fiber.fuse(*pair).pooled_BD)
                for pair in (
                    (image_BHWC, text_BLD, mask_BL),
                    (image_BHWC, fiber.text_features(wrong_BL, wrong_mask_BL), wrong_mask_BL),
                    (wrong_BHWC, text_BLD, mask_BL),
                )
            )
        fit_N2 = fits_N = None
        if fiber.fits is not None and not self.compares:
            place_N, fits_N = (self.gather(x_E.long())[0][row_N] for x_E in half_mismatched(group_E))
            shown_BHWC = self.gather_rows(image_BHWC)[place_N].to(image_BHWC)
            fit_N2 = fiber.fits(fiber.fuse(shown_BHWC, text_BLD, mask_BL).pooled_BD)
        word_NMV = caption_BLV = old_BLV = answer_BA = None
        if masked_BL is not None and place_BM is not None:
            assert fiber.guess is not None
            fused_BLD = fiber.fuse(image_BHWC, fiber.text_features(masked_BL, mask_BL), mask_BL).text_BLD
            word_NMV = fiber.guess(fused_BLD.gather(1, place_BM[..., None].expand(-1, -1, fused_BLD.shape[2])))
        if fiber.writes:
            finished_BPC = fiber.image_tower.finished(image_BHWC).flatten(1, 2)
            caption_BLV = fiber.write(finished_BPC, text_BL, mask_BL)
            if self.old is not None:
                old_BLV = self._of_copy(image_BCHW, text_BL, mask_BL)
        if question_BL is not None and question_mask_BL is not None:
            assert fiber.answer is not None
            question_BLD = fiber.text_features(question_BL, question_mask_BL)
            answer_BA = fiber.answer(fiber.fuse(image_BHWC, question_BLD, question_mask_BL).pooled_BD)
        return FiberFeatures(
            image_ND,
            text_ND,
            self._padded(image_queue_KD, self.random_QD),
            self._padded(text_queue_KD, self.random_text_QD),
            torch.cat([group_K, group_K.new_full((max(0, len(self.random_QD) - len(group_K)),), -1)]),
            self.temperature_1.clone(),  # a sharded parameter is whole only while the model is at work
            own_N2,
            wrong_text_N2,
            wrong_image_N2,
            wrong_N,
            word_NMV,
            caption_BLV,
            old_BLV,
            answer_BA,
            fit_N2,
            fits_N,
        )

    def _of_copy(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Caption logits of the frozen copy, renewed before the first step too, so that it holds the run's start weights."""
        assert self.old is not None
        copy = self.old["copy"]
        assert isinstance(copy, Fiber)
        with torch.no_grad():
            if self.training and int(self.steps_1) % self.copy_every == 0:
                self.old.copy_("copy", self.fiber)
            return copy.write(copy.image_tokens(image_BCHW), text_BL, mask_BL)

    def count_(self) -> None:
        """A step is over."""
        if self.old is not None:
            self.steps_1 += 1

    @torch.no_grad()
    def remember_(
        self, image_ND: Tensor, text_ND: Tensor, group_N: Tensor, image_NCHW: Tensor, text_NL: Tensor, mask_NL: Tensor
    ) -> None:
        """Features and inputs enter the queues: give those of all processes, so that each has the same."""
        if self.image_queue is None or self.text_queue is None:
            return
        if self.inputs is not None:
            size = self.image_queue.size
            kept = slice(max(0, len(image_ND) - size), None)
            place_N = (self.image_queue.pushed + torch.arange(len(image_ND), device=image_ND.device)[kept]) % size
            self.inputs.push_(place_N, image_NCHW[kept], text_NL[kept], mask_NL[kept])
        self.image_queue.push_(image_ND, group_N)
        self.text_queue.push_(text_ND, group_N)

    def _everywhere(self, x_N: Tensor) -> Tensor:
        """Rows of all processes [E, ...], without gradient. As integers, since not every backend gathers booleans."""
        if x_N.dtype == torch.bool:
            return self.gather(x_N.to(torch.uint8)).flatten(0, 1).bool()
        return self.gather(x_N).flatten(0, 1)

    def _wrong(self, side_ED: Tensor, other_ED: Tensor, queue_KD: Tensor, may_EC: Tensor) -> Tensor:
        """A wrong partner for each row [E], out of the batch and the queue behind it."""
        with torch.no_grad():
            share_EC = side_ED @ torch.cat([other_ED, queue_KD]).T / self.temperature_1
            return draw_alike(self.draw, share_EC.float(), may_EC, self.gather)

    def _held(self, group_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.image_queue is None or self.text_queue is None:
            none_0D = self.temperature_1.new_zeros(0, self.fiber.width)
            return none_0D, none_0D, group_B[:0]
        image_KD, group_K = self.image_queue.held()
        return image_KD, self.text_queue.held()[0], group_K

    @staticmethod
    def _padded(queue_KD: Tensor, random_QD: Tensor) -> Tensor:
        return torch.cat([queue_KD, random_QD[len(queue_KD) :].to(queue_KD)])

    def _images(self, drawn_N: Tensor, image_BCHW: Tensor) -> Tensor:
        if self.inputs is None:
            return image_BCHW[drawn_N]
        batch = len(image_BCHW)
        queued_NCHW = self.inputs.image_QCHW[(drawn_N - batch).clamp(min=0)].to(image_BCHW)
        return torch.where((drawn_N < batch)[:, None, None, None], image_BCHW[drawn_N.clamp(max=batch - 1)], queued_NCHW)

    def _texts(self, drawn_N: Tensor, text_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        if self.inputs is None:
            return text_BL[drawn_N], mask_BL[drawn_N]
        batch = len(text_BL)
        here_N1, place_N, kept_N = (drawn_N < batch)[:, None], drawn_N.clamp(max=batch - 1), (drawn_N - batch).clamp(min=0)
        return (
            torch.where(here_N1, text_BL[place_N], self.inputs.text_QL[kept_N]),
            torch.where(here_N1, mask_BL[place_N], self.inputs.mask_QL[kept_N]),
        )


@torch.no_grad()
def half_mismatched(group_N: Tensor) -> tuple[Tensor, Tensor]:
    """place_N and fits_N: the picture that each text is shown with, and whether it is its own. A random half of the texts, the
    smaller one, keep theirs; the others get that of another group, each as likely, and keep theirs if there is none."""
    other_NN = group_N[:, None] != group_N
    fits_N = torch.randperm(len(group_N), device=group_N.device) < len(group_N) // 2
    fits_N |= ~other_NN.any(1)
    own_NN = torch.eye(len(group_N), dtype=torch.bool, device=group_N.device)
    return torch.where(fits_N[:, None], own_NN, other_NN).float().multinomial(1)[:, 0], fits_N
