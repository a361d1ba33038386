"""Image tokens that are replaced by rows of a learned pool, and the head that reconstructs them (Croc, 2410.14332).

Letters: B batch, K tokens of an image, N tokens that are replaced, M rows of the pool, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import transformers
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.host_copy import on_host

Assign = Literal["hungarian", "nearest"]
"""Assignment of pool rows to replaced tokens: distinct rows per image with the least sum of distances ("hungarian"), or the
nearest row of each."""


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Use of a pool by a batch: perplexity [1] of all assignments, most [1] times that an image uses one row."""

    perplexity: Tensor
    most: Tensor


class TokenPool(nn.Module):
    """M learned rows, initialised from a normal distribution; one of them replaces each chosen token. Gradients flow to the rows,
    not to the tokens.

    unit  rows are scaled to norm 1 before they are compared and put in; without, where tokens have norm 1 the nearest rule takes
          the row of least norm for nearly all of them
    """

    def __init__(self, rows: int, width: int, *, assign: Assign = "hungarian", unit: bool = False) -> None:
        super().__init__()
        if assign not in get_args(Assign) or rows < 1:
            raise ConfigError(
                f"a pool of {rows} rows with assign {assign!r} (expected 1 or more, {' | '.join(get_args(Assign))})"
            )
        self.row_MD = nn.Parameter(torch.randn(rows, width))
        self.assign, self.unit = assign, unit

    def rows(self) -> Tensor:
        """[M, D] as they are put in."""
        return F.normalize(self.row_MD, dim=1) if self.unit else self.row_MD

    @torch.no_grad()
    def match(self, token_BKD: Tensor, chosen_BK: Tensor) -> Tensor:
        """The row of each chosen token, int64 [B, K]; -1 for those that stay. Raises ConfigError for a pool of fewer rows than an image
        has chosen tokens, with assign "hungarian"."""
        distance_BKM = torch.cdist(token_BKD.float(), self.rows().float())
        if self.assign == "nearest":
            return torch.where(chosen_BK, distance_BKM.argmin(2), -1)
        index_BK = torch.full(chosen_BK.shape, -1)
        distances, chosen = on_host((distance_BKM, chosen_BK))
        for distance_KM, chosen_K, index_K in zip(distances, chosen, index_BK, strict=True):
            distance_NM = distance_KM[chosen_K]
            if distance_NM.shape[0] > distance_NM.shape[1]:
                raise ConfigError(
                    f"a pool of {distance_NM.shape[1]} rows for {distance_NM.shape[0]} replaced tokens of an image "
                    "(expected as many rows at least, or assign 'nearest')"
                )
            _, column_N = linear_sum_assignment(distance_NM.numpy())
            index_K[chosen_K] = torch.from_numpy(column_N).to(index_K)
        return index_BK.to(token_BKD.device, non_blocking=True)

    def forward(self, token_BKD: Tensor, chosen_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with rows of the pool in the chosen places, and `match`."""
        index_BK = self.match(token_BKD, chosen_BK)
        drawn_BKD = self.rows()[index_BK.clamp_min(0)].to(token_BKD.dtype)
        return torch.where(chosen_BK[..., None], drawn_BKD, token_BKD), index_BK

    @torch.no_grad()
    def usage(self, index_BK: Tensor) -> PoolUsage:
        """Usage statistics of the rows: the perplexity is M if all are used equally and 1 if only one is used."""
        chosen_BK = index_BK >= 0
        count_BM = torch.zeros(len(index_BK), len(self.row_MD), device=index_BK.device)
        count_BM.scatter_add_(1, index_BK.clamp_min(0), chosen_BK.to(count_BM))
        share_M = count_BM.sum(0) / count_BM.sum().clamp_min(1)
        entropy = -(share_M * share_M.clamp_min(1e-12).log()).sum()
        return PoolUsage(entropy.exp().reshape(1), count_BM.max().reshape(1))


def choose_tokens(images: int, tokens: int, share: float, generator: torch.Generator) -> Tensor:
    """Random positions to replace, bool [B, K]: of each image all but (1 - share) of its tokens, rounded down."""
    if not 0 <= share < 1:
        raise ConfigError(f"a share of {share} replaced tokens (expected 0 or more and below 1)")
    kept = int(tokens * (1 - share))
    chosen_BK = torch.zeros(images, tokens, dtype=torch.bool)
    for row in range(images if share else 0):
        chosen_BK[row, torch.randperm(tokens, generator=generator)[kept:]] = True
    return chosen_BK


class ReconstructionHead(nn.Module):
    """Learned positions, layers of BERT, a linear map: states of a language model at an image's places [B, K, D] to its tokens.

    positions  K, which every image has; layers  published: 1; a head of attention for every 64 dimensions
    std        of linear maps and positions in the beginning, biases are 0: a Llama's `initializer_range`, by which transformers
               initialises what the released model has beside Vicuna
    """

    def __init__(self, width: int, positions: int, *, layers: int = 1, std: float = 0.02) -> None:
        super().__init__()
        settings = transformers.BertConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=max(1, width // 64),
            num_hidden_layers=layers,
            attn_implementation="sdpa",
        )
        self.position = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(transformers.models.bert.modeling_bert.BertEncoder(settings).layer)
        self.map = nn.Linear(width, width)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=std)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, state_BKD: Tensor) -> Tensor:
        if state_BKD.shape[1] != self.position.num_embeddings:
            raise ShapeError(f"{state_BKD.shape[1]} states of an image (expected {self.position.num_embeddings})")
        x_BKD = state_BKD + self.position.weight
        for layer in self.layers:
            given = layer(x_BKD)
            x_BKD = given if isinstance(given, Tensor) else given[0]
        made_BKD: Tensor = self.map(x_BKD)
        return made_BKD


def reconstruction_loss(made_BKD: Tensor, target_BKD: Tensor, *, beta: float = 0.01) -> Tensor:
    """Smooth L1 of each image, the mean over all its tokens, replaced or not, and dimensions. [B]"""
    return F.smooth_l1_loss(made_BKD.float(), target_BKD.float(), beta=beta, reduction="none").flatten(1).mean(1)
