"""Direct preference optimisation (Rafailov et al., 2023, arXiv 2305.18290) and its kin, on log-probabilities of whole answers.

    margin = (log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))
    sigmoid  -log sigmoid(beta margin)                     DPO
    hinge    relu(1 - beta margin)                         SLiC (2305.10425)
    ipo      (margin per token - 1 / (2 beta))^2           IPO (2310.12036)

A log-probability is a sum over the tokens of the answer and its end mark. What implementations get wrong: IPO takes means over tokens, as
its authors confirmed; at the start the policy is the reference, so that the loss is log 2 and not 0; the prompt counts on neither side.

Letters: B pairs, L places, V words, A answer tokens of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.core.rows import Rows

PreferenceForm = Literal["sigmoid", "hinge", "ipo"]
FORMS: tuple[PreferenceForm, ...] = ("sigmoid", "hinge", "ipo")
IGNORED = -100
"""The label of a token that does not count."""


@dataclass(frozen=True, slots=True)
class PairLogProbs:
    """Log-probabilities in nats of both answers, summed over their tokens, by the policy and by the reference.

    chosen_count_B, rejected_count_B  tokens of each answer; needed by "ipo" and by means over tokens alone
    """

    chosen_B: Rows[Tensor]
    rejected_B: Rows[Tensor]
    reference_chosen_B: Rows[Tensor]
    reference_rejected_B: Rows[Tensor]
    chosen_count_B: Rows[Tensor] | None = None
    rejected_count_B: Rows[Tensor] | None = None

    def per_token(self) -> PairLogProbs:
        """The same as means over the tokens of each answer. Raises ShapeError without counts."""
        if self.chosen_count_B is None or self.rejected_count_B is None:
            raise ShapeError(
                "means over tokens need the number of tokens of each answer (expected chosen_count_B, rejected_count_B)"
            )
        chosen_B, rejected_B = self.chosen_count_B.clamp_min(1), self.rejected_count_B.clamp_min(1)
        return PairLogProbs(
            self.chosen_B / chosen_B,
            self.rejected_B / rejected_B,
            self.reference_chosen_B / chosen_B,
            self.reference_rejected_B / rejected_B,
        )

    def margin(self) -> Tensor:
        """[B]: by how much the policy prefers the chosen answer more than the reference does, nats."""
        return (self.chosen_B - self.reference_chosen_B) - (self.rejected_B - self.reference_rejected_B)


def preference_loss(
    pairs: PairLogProbs,
    *,
    beta: float = 0.1,
    form: PreferenceForm = "sigmoid",
    average: bool = False,
    reference_free: bool = False,
) -> Tensor:
    """The loss of each pair, [B]. Its mean is what trl's `DPOTrainer` minimises.

    average         log-probabilities are means over tokens also in the forms "sigmoid" and "hinge"
    reference_free  the reference prefers neither answer
    Raises ConfigError for a beta that is not positive.
    """
    if beta <= 0:
        raise ConfigError(f"beta is {beta:g} (expected above 0)")
    taken = pairs.per_token() if average or form == "ipo" else pairs
    margin_B = taken.chosen_B - taken.rejected_B if reference_free else taken.margin()
    if form == "sigmoid":
        return -F.logsigmoid(beta * margin_B)
    if form == "hinge":
        return torch.relu(1 - beta * margin_B)
    if form == "ipo":
        return (margin_B - 1 / (2 * beta)).square()
    raise ConfigError(f"unknown form {form!r} (expected {', '.join(FORMS)})")


def chosen_loss(pairs: PairLogProbs, *, per: Literal["pair", "token"] = "pair") -> Tensor:
    """Negative log-likelihood of the chosen answers, which keeps them from getting unlikelier along with the rejected ones. [] nats

    per  "pair": summed over the tokens of an answer, mean over pairs: the regulariser of STIC, weight 1/1024, and the SFT term of RLAIF-V;
         "token": the mean over all tokens of all chosen answers of these pairs, as trl's loss "sft"
    """
    if per == "pair":
        return -pairs.chosen_B.mean()
    if pairs.chosen_count_B is None:
        raise ShapeError("a mean over tokens needs chosen_count_B")
    return -pairs.chosen_B.sum() / pairs.chosen_count_B.sum().clamp_min(1)


def implicit_rewards(pairs: PairLogProbs, beta: float) -> tuple[Tensor, Tensor]:
    """beta times the log-ratio of policy and reference, of the chosen and of the rejected answers; [B] each, without gradient."""
    chosen_B = beta * (pairs.chosen_B - pairs.reference_chosen_B)
    return chosen_B.detach(), (beta * (pairs.rejected_B - pairs.reference_rejected_B)).detach()


def sequence_log_probs(logit_BLV: Tensor, label_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the labels of each row, summed, and how many they are; [B] each.

    label_BL  token of each place, -100 where it does not count; logits at place l answer for the token at l + 1
    """
    if logit_BLV.shape[:2] != label_BL.shape:
        raise ShapeError(
            f"logits {list(logit_BLV.shape)} and labels {list(label_BL.shape)} differ (expected [B, L, V] and [B, L])"
        )
    target_BM, wide = label_BL[:, 1:], torch.promote_types(logit_BLV.dtype, torch.float32)
    counts_BM = target_BM != IGNORED
    log_BMV = logit_BLV[:, :-1].to(wide).log_softmax(-1)
    picked_BM = log_BMV.gather(2, target_BM.clamp_min(0)[..., None])[..., 0]
    return (picked_BM * counts_BM).sum(1), counts_BM.sum(1).to(wide)


def likeliest_other(logit_AV: Tensor, target_A: Tensor) -> Tensor:
    """[A]: log-probability of the likeliest token that is not the target, which STIC's released trainer sums in place of the target's."""
    wide = torch.promote_types(logit_AV.dtype, torch.float32)
    top_A2 = logit_AV.topk(2, dim=1).indices
    other_A = torch.where(top_A2[:, 0] == target_A, top_A2[:, 1], top_A2[:, 0])
    return logit_AV.to(wide).log_softmax(1).gather(1, other_A[:, None])[:, 0]
