"""Image-text matching (ALBEF, 2107.07651): a cross-encoder on a dual encoder that chooses candidates.

Letters: B batch, N items, M pairs, C channel, H W, P patches, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.pooling import mean_pool
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.matching.fusion_reader import CrossBlock

PartnerDraw = Callable[[Tensor, Tensor], Tensor]
"""Rule that samples indices [N] of wrong partners from logits [N, M] and a mask of allowed ones, bool [N,
M]: `sample_columns` or another.
"""
Gather = Callable[[Tensor], Tensor]
"""Tensors of all processes in one: [...] of each -> [W, ...] without gradient, or rows [N, ...] -> [W * N, ...] with it."""
CHUNK = 256
"""Default number of pairs per forward pass."""


@dataclass(frozen=True, slots=True)
class SideFeatures:
    """Cached features of images, or of texts, for matching pairs.

    vector_ND  unit-norm, in one space for both sides
    state_N    this side's input of matching: tokens, or ids if the text is encoded again with each picture
    mask_NT    True at real tokens
    """

    vector_ND: Tensor
    state_N: Tensor
    mask_NT: Tensor

    def rows(self, row: Tensor) -> SideFeatures:
        """Features of the rows with these indices."""
        return SideFeatures(self.vector_ND[row], self.state_N[row], self.mask_NT[row])


def alone(x: Tensor) -> Tensor:
    """Gathered tensor [1, ...] where there is one process."""
    return x[None]


def same_rows(x_ND: Tensor) -> Tensor:
    """Gathered rows where there is one process: the rows themselves."""
    return x_ND


def one_process() -> tuple[int, int]:
    """Rank and number of processes where there is one."""
    return 0, 1


class PairMatcher(Protocol):
    """Interface of modules that encode each side once and match pairs many times, for distillation by DCD."""

    fused_width: int

    def read_images(self, image_BCHW: Tensor) -> SideFeatures: ...

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures: ...

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        """Return the log-odds [M] that the pairs of rows match, and the fused vectors [M, D] that they are computed from."""
        ...


class Matcher(nn.Module):
    """`DualEncoder` with fusion blocks, in which words attend to words and image patches, and a two-class matching head.

    The head's second class is "match". (ALBEF uses the text tower's class token; ours is the mean of the words, since its towers
    need no class token.)
    """

    def __init__(self, encoder: DualEncoder, *, layers: int, heads: int) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"fusion_layers is {layers} (expected 1 or more blocks that read both)")
        self.encoder, self.layers, self.heads = encoder, layers, heads
        width, image_width = encoder.text_tower.token_width, encoder.image_tower.token_width
        self.blocks = nn.ModuleList(CrossBlock(width, heads, image_width=image_width, mlp_width=4 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)
        self.fused_width = width

    def read_images(self, image_BCHW: Tensor) -> SideFeatures:
        output = self.encoder.image_tower(image_BCHW)
        return SideFeatures(l2_normalise(self.encoder.image_projection(output.pooled_BD)), output.tokens_BPD, output.mask_BP)

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures:
        read = self.encoder.text_tower(text_BL, mask_BL)
        return SideFeatures(l2_normalise(self.encoder.text_projection(read.pooled_BD)), read.tokens_BPD, read.mask_BP)

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        answer_M2, fused_MD = self.answers(image, text)
        return answer_M2[:, 1] - answer_M2[:, 0], fused_MD

    def answers(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        """Return logits of "no match" and "match" [M, 2], and the fused vectors [M, D]."""
        x_MLD = text.state_N
        for block in self.blocks:
            x_MLD = block(x_MLD, text.mask_NT, image.state_N)
        fused_MD = mean_pool(self.norm(x_MLD), text.mask_NT)
        return self.head(fused_MD), fused_MD


@dataclass(frozen=True, slots=True)
class MatcherOutput:
    """Inputs of a matcher's losses.

    Vectors of both sides with the scale [1], and match logits for each image's own text, for one wrong text of each image, and
    for one wrong image of each text. `wrong_N` is False where the batch had none.
    """

    image_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor]
    scale: Tensor
    own_N2: Rows[Tensor]
    wrong_text_N2: Rows[Tensor]
    wrong_image_N2: Rows[Tensor]
    wrong_N: Rows[Tensor]


class MatcherTraining(nn.Module):
    """Training of a matcher by contrast and matching, with negatives sampled by similarity (ALBEF's hard negatives).

    Negatives are sampled from the batch of all processes, whose tokens are gathered for that: however many processes share a batch,
    the pairs are those of one.

    draw    rule that samples a wrong partner of each row from the logits and the mask of allowed partners
    gather  [...] of each process -> [W, ...], without gradient;  gather_rows  [N, ...] -> [W * N, ...], with it
    world   gives rank and number of processes
    """

    def __init__(
        self,
        matcher: Matcher,
        *,
        draw: PartnerDraw | None = None,
        gather: Gather = alone,
        gather_rows: Gather = same_rows,
        world: Callable[[], tuple[int, int]] = one_process,
    ) -> None:
        super().__init__()
        self.matcher, self.draw = matcher, draw or sample_columns
        self.gather, self.gather_rows, self.world = gather, gather_rows, world

    @property
    def encoder(self) -> DualEncoder:
        return self.matcher.encoder

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, text_mask_BL: Tensor, group_B: Tensor) -> MatcherOutput:
        matcher, scale = self.matcher, self.encoder.log_scale.exp()
        image, text = matcher.read_images(image_BCHW), matcher.read_texts(text_BL, text_mask_BL)
        own_N = self.world()[0] * len(group_B) + torch.arange(len(group_B), device=group_B.device)
        with torch.no_grad():
            image_CD, text_CD, group_C = (self.gather(x).flatten(0, 1) for x in (image.vector_ND, text.vector_ND, group_B))
            may_CC = group_C[:, None] != group_C
            share_CC = (scale * image_CD @ text_CD.T).float()
            other_text_N, other_image_N = (
                draw_alike(self.draw, logit_CC, may_CC, self.gather)[own_N] for logit_CC in (share_CC, share_CC.T)
            )
        own_N2, _ = matcher.answers(image, text)
        wrong_text_N2, _ = matcher.answers(image, self._everywhere(text).rows(other_text_N))
        wrong_image_N2, _ = matcher.answers(self._everywhere(image).rows(other_image_N), text)
        wrong_N = may_CC[own_N].any(1)
        return MatcherOutput(image.vector_ND, text.vector_ND, scale, own_N2, wrong_text_N2, wrong_image_N2, wrong_N)

    def _everywhere(self, own: SideFeatures) -> SideFeatures:
        """The features of all processes, by rank."""
        mask_CT = self.gather(own.mask_NT.to(torch.uint8)).flatten(0, 1).bool()
        return SideFeatures(self.gather(own.vector_ND).flatten(0, 1), self.gather_rows(own.state_N).to(own.state_N), mask_CT)


def draw_alike(draw: PartnerDraw, logit_NM: Tensor, may_NM: Tensor, gather: Gather) -> Tensor:
    """Wrong partners [N] that are the same on all processes: those that the first one draws from equal logits."""
    return gather(draw(logit_NM, may_NM))[0]


def sample_columns(logit_NM: Tensor, may_NM: Tensor, *, floor: float = 1e-4, over: Literal["all", "allowed"] = "all") -> Tensor:
    """Sample one allowed column per row [N] by softmax probability; column 0 for a row without allowed columns.

    floor  added to each probability before disallowed columns are removed; in the other order they could be sampled
    over   "all": the softmax is over all columns, as in ALBEF; if a disallowed column leads by about -log(floor), only the floor
           remains, and the others are equally likely. "allowed": over allowed columns only, for any lead
    """
    if over == "allowed":
        logit_NM = logit_NM.masked_fill(~may_NM, torch.finfo(logit_NM.dtype).min)
    share_NM = (logit_NM.softmax(1) + floor) * may_NM
    share_NM[~may_NM.any(1), 0] = 1.0
    return torch.multinomial(share_NM, 1)[:, 0]


@torch.no_grad()
def match_matrix(reader: PairMatcher, image: SideFeatures, text: SideFeatures, *, chunk: int = CHUNK) -> Tensor:
    """Return log-odds [N, M] of every image with every text: N * M forward passes."""
    place_N, place_M = (torch.arange(len(side.vector_ND), device=side.vector_ND.device) for side in (image, text))
    pair_K2 = torch.cartesian_prod(place_N, place_M).reshape(-1, 2)
    logits = [reader.match(image.rows(part[:, 0]), text.rows(part[:, 1]))[0] for part in pair_K2.split(chunk)]
    return torch.cat(logits).reshape(len(place_N), len(place_M))


@torch.no_grad()
def match_at(reader: PairMatcher, image: SideFeatures, text: SideFeatures, pair_NK2: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return log-odds [N, K] of pairs (image index, text index)."""
    logits = [reader.match(image.rows(part[:, 0]), text.rows(part[:, 1]))[0] for part in pair_NK2.flatten(0, 1).split(chunk)]
    return torch.cat(logits).reshape(pair_NK2.shape[:2])


def as_module(reader: PairMatcher) -> nn.Module:
    """Return a reader, typed as a module."""
    return cast(nn.Module, reader)
