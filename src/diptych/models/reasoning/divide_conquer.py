"""NDCR: choose which of several similar pictures a text describes, by its propositions (Li et al., 2023, arXiv 2305.02265).

Letters: B batch, K pictures per set, P propositions, R attended rows, D width, F twice that width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.rows import Rows
from diptych.models.reasoning.propositions import DROPOUT, bert_block
from diptych.models.reasoning.read_by_query import QueryAttention

Answers = Literal["full", "system1", "context"]
EXPECTED, MIXED = 0.2, 0.5
"""Temperatures of the softmax over pictures: for the expected picture, and for the mixed distributions."""


@dataclass(frozen=True, slots=True)
class Picks:
    """Logits over the K pictures of each set, and the final distribution. Outputs that a model does not compute are None.

    answer_BK       probabilities
    context_BK      logits of the whole text
    proposition_BPK logits of each proposition, negated_BPK of its negation; rows of missing propositions are undefined
    conjoined_BK    logits of the conjunction
    vector_BPD      the propositions in the space of the pictures
    """

    answer_BK: Rows[Tensor]
    context_BK: Rows[Tensor]
    proposition_BPK: Rows[Tensor] | None = None
    negated_BPK: Rows[Tensor] | None = None
    conjoined_BK: Rows[Tensor] | None = None
    vector_BPD: Rows[Tensor] | None = None


class OverPictures(nn.Module):
    """Two BERT layers over the pictures of a set, with position embeddings if their order is meaningful."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, layers: int, pictures: int) -> None:
        super().__init__()
        self.place = nn.Embedding(pictures, width)
        self.blocks = nn.ModuleList(bert_block(width, heads, mlp_width) for _ in range(layers))

    def forward(self, x_BKD: Tensor, ordered_B: Tensor) -> Tensor:
        x_BKD = x_BKD + self.place.weight[: x_BKD.shape[1]] * ordered_B[:, None, None].to(x_BKD)
        every_BK = torch.ones(x_BKD.shape[:2], dtype=torch.bool, device=x_BKD.device)
        for block in self.blocks:
            x_BKD = block(x_BKD, every_BK)
        return x_BKD


class Conjunction(nn.Module):
    """Conjunction: the context of a picture attends separately to propositions and to their negations, through gates."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.read = QueryAttention(width, heads, dropout=DROPOUT)
        self.gate = nn.Linear(2 * width, 1)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, query_B1F: Tensor, true_BRF: Tensor, negated_BRF: Tensor, exists_BR: Tensor) -> Tensor:
        """Return [B, 1, F]; each half has R rows, which exist where `exists_BR` is True."""
        x_B1F = query_B1F
        for half_BRF in (true_BRF, negated_BRF):
            read_B1F, _ = self.read(query_B1F, half_BRF, exists_BR)
            x_B1F = x_B1F + self.gate(torch.cat((query_B1F, read_B1F), -1)).sigmoid() * read_B1F
        inner_B1F = F.dropout(self.mlp_out(F.gelu(self.mlp_in(x_B1F))), DROPOUT, self.training)
        out_B1F: Tensor = self.norm(x_B1F + inner_B1F)
        return out_B1F


class DivideConquer(nn.Module):
    """NDCR network: System 1 compares each proposition with each picture; System 2 negates, conjoins and mixes the results.

    answers  "full", "system1" (the mean of the propositions' distributions) or "context" (the whole text only, the baseline of
    the paper); unused parts are not created
    """

    def __init__(
        self, width: int, *, pictures: int = 10, layers: int = 2, heads: int = 8, mlp_width: int = 3072, answers: Answers = "full"
    ) -> None:
        super().__init__()
        self.answers = answers
        self.context = OverPictures(width, heads, mlp_width, layers=layers, pictures=pictures)
        self.context_head = nn.Linear(width, 1)
        if answers == "context":
            return
        self.fuse = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Linear(2 * width, width), nn.Dropout(DROPOUT), nn.Linear(width, width)
        )  # no activation between, as released
        self.propositions = OverPictures(width, heads, mlp_width, layers=layers, pictures=pictures)
        self.modify = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.Tanh(), nn.Dropout(DROPOUT), nn.Linear(2 * width, width))
        self.proposition_head = nn.Linear(width, 1)
        if answers == "system1":
            return
        self.negate = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(2 * width, width, bias=False)
        )
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.conjoin = Conjunction(2 * width, heads, mlp_width)
        self.conjoined_head = nn.Linear(width, 1)
        self.pool = nn.Linear(width, 1)
        self.weigh = QueryAttention(2 * width, 1, dropout=0.01)
        self.mix = nn.Linear(4 * width, 1)

    def forward(self, pair_BKD: Tensor, image_BKD: Tensor, vector_BPD: Tensor, exists_BP: Tensor, ordered_B: Tensor) -> Picks:
        """pair_BKD    frozen features of the whole text with each picture; image_BKD of each picture
        vector_BPD  propositions, which exist where `exists_BP` is True: at least one per row
        ordered_B   True if the order of the pictures is meaningful (frames of a video)
        """
        context_BKD = self.context(pair_BKD, ordered_B) + pair_BKD
        context_BK = self.context_head(context_BKD).squeeze(-1)
        if self.answers == "context":
            return Picks(context_BK.softmax(-1), context_BK)
        state_BPKD = self._compared(image_BKD, vector_BPD, context_BKD.detach(), ordered_B)
        proposition_BPK = self.proposition_head(state_BPKD).squeeze(-1)
        if self.answers == "system1":
            share_BP1 = (exists_BP / exists_BP.sum(1, keepdim=True))[..., None].to(proposition_BPK)
            answer_BK = (share_BP1 * proposition_BPK.softmax(-1)).sum(1)
            return Picks(answer_BK, context_BK, proposition_BPK, vector_BPD=vector_BPD)
        negated_BPKD = self.negate(state_BPKD.detach())
        negated_BPK = self.proposition_head(negated_BPKD).squeeze(-1)
        halves = [
            torch.cat((rows_BPKD, _expected(logit_BPK, image_BKD)[:, :, None].expand_as(rows_BPKD)), -1)
            for rows_BPKD, logit_BPK in ((state_BPKD, proposition_BPK), (negated_BPKD, negated_BPK))
        ]
        conjoined_BKD = self._conjoined(context_BKD.detach(), halves, exists_BP)
        conjoined_BK = self.conjoined_head(conjoined_BKD).squeeze(-1)
        answer_BK = self._mixed(state_BPKD.detach(), proposition_BPK, conjoined_BKD.detach(), conjoined_BK, image_BKD, exists_BP)
        return Picks(answer_BK, context_BK, proposition_BPK, negated_BPK, conjoined_BK, vector_BPD)

    def _compared(self, image_BKD: Tensor, vector_BPD: Tensor, context_BKD: Tensor, ordered_B: Tensor) -> Tensor:
        """Return the states of System 1, modified by the context, [B, P, K, D]."""
        count, pictures = vector_BPD.shape[1], image_BKD.shape[1]
        vector_BPKD = vector_BPD[:, :, None].expand(-1, -1, pictures, -1)
        image_BPKD = image_BKD[:, None].expand(-1, count, -1, -1)
        fused_BPKD = self.fuse(torch.cat((vector_BPKD, image_BPKD), -1))
        over_NKD = self.propositions(fused_BPKD.flatten(0, 1), ordered_B.repeat_interleave(count))
        state_BPKD: Tensor = self.modify(
            torch.cat((over_NKD.unflatten(0, (-1, count)), context_BKD[:, None].expand(-1, count, -1, -1)), -1)
        )
        return state_BPKD

    def _conjoined(self, context_BKD: Tensor, halves: list[Tensor], exists_BP: Tensor) -> Tensor:
        """Return the context after attention to the propositions and their negations, picture by picture, [B, K, D]."""
        pictures = context_BKD.shape[1]
        true_NPF, negated_NPF = (half_BPKF.transpose(1, 2).flatten(0, 1) for half_BPKF in halves)
        query_N1F = self.widen(context_BKD).flatten(0, 1)[:, None]
        read_N1F = self.conjoin(query_N1F, true_NPF, negated_NPF, exists_BP.repeat_interleave(pictures, 0))
        conjoined_BKD: Tensor = self.narrow(read_N1F[:, 0]).unflatten(0, (-1, pictures))
        return conjoined_BKD

    def _mixed(
        self,
        state_BPKD: Tensor,
        proposition_BPK: Tensor,
        conjoined_BKD: Tensor,
        conjoined_BK: Tensor,
        image_BKD: Tensor,
        exists_BP: Tensor,
    ) -> Tensor:
        """Return the gated mixture of the propositions, weighted by the attention of the conjunction,
        and of the conjunction, [B, K].

        The mixed distributions are detached: the mixture trains only weights and gate.
        """
        source_BPF = torch.cat((self._pooled(state_BPKD), _expected(proposition_BPK, image_BKD)), -1)
        query_B1F = torch.cat((self._pooled(conjoined_BKD[:, None]), _expected(conjoined_BK[:, None], image_BKD)), -1)
        read_B1F, weight_B11P = self.weigh(query_B1F, source_BPF, exists_BP, temperature=MIXED)
        propositions_BK = (weight_B11P[:, 0] @ (proposition_BPK.detach() / MIXED).softmax(-1))[:, 0]
        gate_B1 = self.mix(torch.cat((read_B1F, query_B1F), -1))[:, 0].sigmoid()
        mixed_BK: Tensor = gate_B1 * propositions_BK + (1 - gate_B1) * (conjoined_BK.detach() / MIXED).softmax(-1)
        return mixed_BK

    def _pooled(self, x_BPKD: Tensor) -> Tensor:
        """Return the mean over pictures, weighted by the softmax of a sigmoid, [B, P, D]."""
        weight_BPK1 = self.pool(x_BPKD).sigmoid().softmax(2)
        pooled_BPD: Tensor = (weight_BPK1 * x_BPKD).sum(2)
        return pooled_BPD


def _expected(logit_BPK: Tensor, image_BKD: Tensor) -> Tensor:
    """Return the mean of the pictures under the distribution of each row, which is detached, [B, P, D]."""
    return (logit_BPK.detach() / EXPECTED).softmax(-1) @ image_BKD
