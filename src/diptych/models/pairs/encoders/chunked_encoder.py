"""Dual encoder of long captions in several chunks, optionally with style transfer of images (SyViC, 2303.17590).

Each chunk fits the text tower's length; the vector of a caption is the mean of its chunks' before normalisation.

Letters: B batch, C channel, H W, K chunks per caption, N chunks of all captions, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.models.layers.style_transfer import StyleTransferAugmentation
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures


class ChunkedEncoder(nn.Module):
    """Wraps a `DualEncoder`, which is what is deployed. Missing chunks are not encoded (the release encodes rows of zeros).

    stylist  renders pictures in the styles that are given to `forward`
    """

    def __init__(self, encoder: DualEncoder, stylist: StyleTransferAugmentation | None = None) -> None:
        super().__init__()
        self.encoder, self.stylist = encoder, stylist

    def forward(
        self,
        image_BCHW: Tensor,
        text_BKL: Tensor,
        text_mask_BKL: Tensor,
        there_BK: Tensor,
        style_BCHW: Tensor | None = None,
    ) -> PairFeatures:
        encoder = self.encoder
        if self.stylist is not None and style_BCHW is not None:
            image_BCHW = self.stylist(image_BCHW, style_BCHW)
        read = encoder.text_tower(text_BKL[there_BK], text_mask_BKL[there_BK]).pooled_BD
        chunk_ND = encoder.text_projection(read)
        row_N = there_BK.nonzero()[:, 0]
        total_BD = torch.zeros(len(there_BK), chunk_ND.shape[1], dtype=chunk_ND.dtype, device=chunk_ND.device)
        mean_BD = total_BD.index_add(0, row_N, chunk_ND) / there_BK.sum(1, keepdim=True)
        return encoder.pairs(encoder.encode_image(image_BCHW), l2_normalise(mean_BD))
