"""Pixel-to-sequence grounding: a decoder reads an instruction and image patches, and writes a box as four coordinate tokens.

Letters: B batch, P patches, L words of an instruction, D width, K bins, T = 4 coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diptych.models.io.inference import evaluating
from diptych.models.towers.outputs import Tower


class CoordinateWriter(nn.Module):
    """Image tower and transformer decoder over instruction and coordinates, with cross-attention to the patches in every layer.

    The decoder adds its own positions to the patches, since convolutional towers have none. After the instruction only
    coordinates can be written, so the head has only the bins.

    size  pixels per side, which determines the number of patches
    """

    def __init__(
        self,
        image_tower: Tower,
        *,
        size: int,
        words: int,
        length: int,
        bins: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.image_tower, self.bins, self.length = image_tower, bins, length
        with torch.no_grad(), evaluating(image_tower):
            patches = image_tower(torch.zeros(1, 3, size, size)).tokens_BPD.shape[1]
        self.place_1PD = nn.Parameter(torch.randn(1, patches, width) * 0.02)
        self.project = nn.Linear(image_tower.token_width, width)
        self.word_table, self.coordinate_table = nn.Embedding(words, width), nn.Embedding(bins, width)
        self.begin_11D = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_1SD = nn.Parameter(torch.randn(1, length + 4, width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, bins)

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """Return the patches [B, P, D] that the decoder attends to."""
        projected_BPD: Tensor = self.project(self.image_tower(image_BCHW).tokens_BPD) + self.place_1PD
        return projected_BPD

    def logits(self, patch_BPD: Tensor, word_BL: Tensor, mask_BL: Tensor, coordinate_BT: Tensor) -> Tensor:
        """Return logits [B, T + 1, K] of each next coordinate, given T of them (T may be 0)."""
        batch, given = coordinate_BT.shape
        row_BSD = torch.cat(
            [self.word_table(word_BL), self.begin_11D.expand(batch, -1, -1), self.coordinate_table(coordinate_BT)], 1
        )
        length = row_BSD.shape[1]
        hidden_SS = torch.ones(length, length, dtype=torch.bool, device=row_BSD.device).triu(1)
        padded_BS = torch.cat([~mask_BL, torch.zeros(batch, given + 1, dtype=torch.bool, device=row_BSD.device)], 1)
        read_BSD = self.decoder(
            row_BSD + self.position_1SD[:, :length],
            patch_BPD,
            tgt_mask=hidden_SS,
            tgt_key_padding_mask=padded_BS,
            tgt_is_causal=False,  # otherwise the decoder compares the mask, and the host waits for the GPU
        )
        logit_BTK: Tensor = self.head(read_BSD[:, self.length :])
        return logit_BTK

    def forward(self, image_BCHW: Tensor, word_BL: Tensor, mask_BL: Tensor, coordinate_BRT: Tensor) -> Tensor:
        """Return logits [B, R, 4, K] of each coordinate of R boxes per image, given the coordinates before it."""
        count = coordinate_BRT.shape[1]
        patch_MPD, word_ML, mask_ML = (one.repeat_interleave(count, 0) for one in (self.patches(image_BCHW), word_BL, mask_BL))
        logit_MTK = self.logits(patch_MPD, word_ML, mask_ML, coordinate_BRT.flatten(0, 1)[:, :3])
        logit_BRTK: Tensor = logit_MTK.unflatten(0, (-1, count))
        return logit_BRTK

    @torch.no_grad()
    def write(self, image_BCHW: Tensor, word_BL: Tensor, mask_BL: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Decode bins [B, 4]; `choose` picks a bin from the logits [B, K] of each coordinate."""
        patch_BPD = self.patches(image_BCHW)
        bin_BT = word_BL[:, :0]
        for _ in range(4):
            chosen_B = choose(self.logits(patch_BPD, word_BL, mask_BL, bin_BT)[:, -1])
            bin_BT = torch.cat([bin_BT, chosen_B[:, None]], 1)
        return bin_BT
