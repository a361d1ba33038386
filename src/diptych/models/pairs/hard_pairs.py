"""Features of a dual encoder for images with hard negative texts.  Letters: B batch, N items, K negatives, L tokens, D width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings
from diptych.models.towers.outputs import PairFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class HardPairs(PairFeatures):
    """`PairFeatures` with the vectors of negative texts and of further positive ones.

    negative_NKD  unit-norm, 0 if there is none
    positive_ND   unit-norm; None without further texts
    """

    negative_NKD: Embeddings[Tensor]
    positive_ND: Embeddings[Tensor] | None = None


def hard_pairs(
    model: nn.Module,
    image_BCHW: Tensor,
    texts: tuple[Tensor, Tensor],
    negatives: tuple[Tensor, Tensor, Tensor],
    positives: tuple[Tensor, Tensor] | None = None,
) -> HardPairs:
    """Compute features in one call of a `DualEncoder`, with all texts in one batch of the text tower.

    Ids and masks: `texts` [B, L], `negatives` [B, K, L] with a mask of existing ones [B, K], `positives` [B, L].
    """
    negative_BKL, negative_mask_BKL, there_BK = negatives
    further = [] if positives is None else [positives]
    parts = [texts, *further, (negative_BKL[there_BK], negative_mask_BKL[there_BK])]
    ids, masks = (torch.cat(each) for each in zip(*parts, strict=True))
    pairs: PairFeatures = model(image_BCHW, ids, masks)
    # Copies, since sharding hangs its hooks on what forward returns and a view would lose them.
    text_ND, *positive, wrong_XD = (part.clone() for part in pairs.text_ND.split([len(part[0]) for part in parts]))
    negative_NKD = pairs.text_ND.new_zeros(*there_BK.shape, pairs.text_ND.shape[1])
    return HardPairs(
        image_ND=pairs.image_ND,
        text_ND=text_ND,
        scale=pairs.scale,
        bias=pairs.bias,
        negative_NKD=negative_NKD.masked_scatter(there_BK[..., None], wrong_XD) if len(wrong_XD) else negative_NKD,
        positive_ND=positive[0] if positive else None,
    )
