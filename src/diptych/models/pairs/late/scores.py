"""Late-interaction scores of images and texts (FILIP, 2111.07783), in both directions, without gradient.

Letters: N images, M texts, P patches, L words, D width, I images and K texts of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 1 << 21
"""Similarities of tokens that are held at once, unless a call says otherwise."""


@torch.no_grad()
def late_scores(
    patch_NPD: Tensor, word_MLD: Tensor, patch_mask_NP: Tensor, word_mask_ML: Tensor, *, cells: int = CELLS
) -> tuple[Tensor, Tensor]:
    """Late-interaction scores: each image against each text, and each text against each image, both [N, M].

    Of an image, the mean over its real patches of the best cosine with a real word; of a text, the mean over its real words of the best
    cosine with a real patch. Tokens are unit-norm; masks are True at real ones, one a row at least. The training loss is
    `objectives.pairs.late_interaction`.
    """
    patch_weight_NP, word_weight_ML = (mask.to(patch_NPD) / mask.sum(1, keepdim=True) for mask in (patch_mask_NP, word_mask_ML))
    texts = max(1, min(len(word_MLD), cells // word_MLD.shape[1]))
    images = max(1, cells // (texts * word_MLD.shape[1] * patch_NPD.shape[1]))
    score_2NM = patch_NPD.new_empty(2, len(patch_NPD), len(word_MLD))
    for start in range(0, len(patch_NPD), images):
        here = slice(start, start + images)
        for at in range(0, len(word_MLD), texts):
            there = slice(at, at + texts)
            a_IPKL = torch.einsum("ipd,kld->ipkl", patch_NPD[here], word_MLD[there])
            word_IPK = a_IPKL.masked_fill(~word_mask_ML[there], -torch.inf).amax(3)
            patch_IKL = a_IPKL.masked_fill(~patch_mask_NP[here][..., None, None], -torch.inf).amax(1)
            score_2NM[0, here, there] = torch.einsum("ipk,ip->ik", word_IPK, patch_weight_NP[here])
            score_2NM[1, here, there] = torch.einsum("ikl,kl->ik", patch_IKL, word_weight_ML[there])
    return score_2NM[0], score_2NM[1]
