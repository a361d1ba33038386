"""A bridge whose image tokens are partly replaced and reconstructed (Croc's comprehension stage, 2410.14332).

Letters: B batch, K tokens of an image, L positions, D width, A answer tokens of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout, answer_places
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.attention_masks import Open, attention_mask
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.splice import norm_kurtosis
from diptych.models.bridges.token_replacement import PoolUsage, ReconstructionHead, TokenPool, reconstruction_loss


@dataclass(frozen=True, slots=True)
class ComprehensionLikelihood(AnswerLikelihood):
    """reconstruction_B  smooth L1 between an image's tokens and their reconstruction from the language model's states
    cosine_B  mean cosine of both at the replaced positions; at all positions if none is replaced
    perplexity, most  see `PoolUsage`
    """

    reconstruction_B: Rows[Tensor]
    cosine_B: Rows[Tensor]
    perplexity: Tensor
    most: Tensor


class ComprehensionBridge(Bridge):
    """A `Bridge` with a pool and a head. What is reconstructed are the connector's own tokens, through which no gradient runs back.

    beta  of the smooth L1 (`reconstruction_loss`)
    """

    def __init__(
        self,
        *parts: Any,
        pool: TokenPool,
        head: ReconstructionHead,
        open: Open = "prefix",
        beta: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self.pool, self.head, self.open, self.beta = pool, head, open, beta

    def forward(  # type: ignore[override]
        self, image_BCHW: Tensor, layout: Layout, chosen_BK: Tensor | None = None
    ) -> ComprehensionLikelihood:
        picture_BKD = self.picture(image_BCHW)
        if chosen_BK is None:
            chosen_BK = torch.zeros(picture_BKD.shape[:2], dtype=torch.bool, device=picture_BKD.device)
        shown_BKD, index_BK = self.pool(picture_BKD, chosen_BK)
        embed_BLD, ratio = self.embed(shown_BKD, layout)
        state_BLD = self.language.inner.base_model(
            inputs_embeds=embed_BLD,
            attention_mask=attention_mask(layout, self.open),
            position_ids=layout.positions(),
            use_cache=False,
        ).last_hidden_state
        column_C, row_A, place_A = layout.places or answer_places(layout.answer_BL)
        column_A = column_C[place_A]
        logit_AV = self.language.inner.get_output_embeddings()(state_BLD[row_A, column_A])
        target_A = layout.id_BL[row_A, column_A + 1]
        nll_B, count_B = answer_nll(logit_AV, target_A, row_A, len(layout))
        hit_A = (logit_AV.detach().argmax(1) == target_A).to(nll_B.dtype)
        made_BKD = self.head(_at_slots(state_BLD, layout.slot_BL, picture_BKD.shape[1]))
        target_BKD = picture_BKD.detach()
        shown_BK = (chosen_BK | ~chosen_BK.any(1, keepdim=True)).float()
        cosine_BK = F.cosine_similarity(made_BKD.detach().float(), target_BKD.float(), dim=2)
        usage: PoolUsage = self.pool.usage(index_BK)
        return ComprehensionLikelihood(
            nll_B,
            count_B,
            torch.zeros_like(nll_B).index_add(0, row_A, hit_A).detach(),
            ratio,
            norm_kurtosis(picture_BKD),
            reconstruction_loss(made_BKD, target_BKD, beta=self.beta),
            (cosine_BK * shown_BK).sum(1) / shown_BK.sum(1),
            usage.perplexity,
            usage.most,
        )


def _at_slots(state_BLD: Tensor, slot_BL: Tensor, tokens: int) -> Tensor:
    """States [B, K, D] at the K slots of each row, in order; the host does not wait to count them."""
    place_BK = slot_BL.long().argsort(dim=1, descending=True, stable=True)[:, :tokens]
    return state_BLD.gather(1, place_BK[..., None].expand(-1, -1, state_BLD.shape[2]))
