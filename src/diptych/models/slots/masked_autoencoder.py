"""Masked autoencoder (He et al., 2022, 2111.06377): patches are hidden, and drawn again from the others.

Letters: B batch, P patches, K kept patches, D width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MaskedOutput:
    """Patches drawn again [B, P, C p p], those of the picture, and which were hidden [B, P]."""

    drawn_BPd: Tensor
    patch_BPd: Tensor
    hidden_BP: Tensor


def fixed_positions(side: int, width: int) -> Tensor:
    """[side * side, width]: sines and cosines of the column, then of the row."""
    omega_F = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle_SF = torch.arange(side, dtype=torch.float64)[:, None] * omega_F
    wave_SE = torch.cat([angle_SF.sin(), angle_SF.cos()], 1)
    column, row = wave_SE.repeat(side, 1), wave_SE.repeat_interleave(side, 0)
    return torch.cat([column, row], 1).float()


class MaskedAutoencoder(nn.Module):
    """A transformer over visible patches, and a smaller one that draws the others.

    hidden_share  of the patches. The loss is the squared error of hidden patches, mean over their pixels.
    """

    position_1PD: Tensor
    decoder_position_1PD: Tensor

    def __init__(
        self, size: int, *, patch: int = 8, width: int = 768, depth: int = 12, heads: int = 12, decoder_width: int = 512,
        decoder_depth: int = 8, decoder_heads: int = 16, hidden_share: float = 0.75, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if size % patch:
            raise ConfigError(f"size is {size}, patch {patch} (expected a multiple of the patch)")
        self.patch, self.channels, self.hidden_share, self.side = patch, channels, hidden_share, size // patch
        self.embed = nn.Conv2d(channels, width, patch, patch)
        nn.init.xavier_uniform_(self.embed.weight.view(width, -1))
        self.class_11D, self.mask_11D = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, decoder_width))
        nn.init.normal_(self.class_11D, std=0.02)
        nn.init.normal_(self.mask_11D, std=0.02)
        self.register_buffer("position_1PD", fixed_positions(self.side, width)[None])
        self.register_buffer("decoder_position_1PD", fixed_positions(self.side, decoder_width)[None])
        self.blocks = nn.Sequential(*(_block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.narrow = nn.Linear(width, decoder_width)
        self.decoder_blocks = nn.Sequential(*(_block(decoder_width, decoder_heads) for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.draw = nn.Linear(decoder_width, patch * patch * channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """[B, P, p p C]: pixels of the patches, channels last."""
        cut = image_BCHW.unflatten(3, (self.side, self.patch)).unflatten(2, (self.side, self.patch))
        patch_BPD: Tensor = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return patch_BPD

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        """[B, P, D]: every patch, none hidden; what a policy reads."""
        token_BPD = self.embed(image_BCHW).flatten(2).transpose(1, 2) + self.position_1PD
        begin_B1D = self.class_11D.expand(len(token_BPD), -1, -1)
        read_BPD: Tensor = self.norm(self.blocks(torch.cat([begin_B1D, token_BPD], 1)))[:, 1:]
        return read_BPD

    def forward(self, image_BCHW: Tensor, noise_BP: Tensor | None = None) -> MaskedOutput:
        """noise_BP: patches with the smallest numbers are kept; None draws them."""
        token_BPD = self.embed(image_BCHW).flatten(2).transpose(1, 2) + self.position_1PD
        batch, patches, width = token_BPD.shape
        noise_BP = torch.rand(batch, patches, device=image_BCHW.device) if noise_BP is None else noise_BP
        kept = int(patches * (1 - self.hidden_share))
        order_BP = noise_BP.argsort(1)
        keep_BKD = order_BP[:, :kept, None].expand(-1, -1, width)
        read_BKD = torch.cat([self.class_11D.expand(batch, -1, -1), token_BPD.gather(1, keep_BKD)], 1)
        small_BKd = self.narrow(self.norm(self.blocks(read_BKD)))
        filled_BPd = torch.cat([small_BKd[:, 1:], self.mask_11D.expand(batch, patches - kept, -1)], 1)
        filled_BPd = filled_BPd.gather(1, order_BP.argsort(1)[..., None].expand(-1, -1, filled_BPd.shape[2]))
        whole_BPd = torch.cat([small_BKd[:, :1], filled_BPd + self.decoder_position_1PD], 1)
        drawn_BPd = self.draw(self.decoder_norm(self.decoder_blocks(whole_BPd)))[:, 1:]
        hidden_BP = torch.ones_like(noise_BP, dtype=torch.bool).scatter(1, order_BP[:, :kept], False)
        return MaskedOutput(drawn_BPd, self.patches(image_BCHW), hidden_BP)


def hidden_patch_error(drawn_BPd: Tensor, patch_BPd: Tensor, hidden_BP: Tensor) -> Tensor:
    """[B]: squared error of the hidden patches, mean over their pixels."""
    error_BP = (drawn_BPd - patch_BPd).square().mean(-1)
    return (error_BP * hidden_BP).sum(1) / hidden_BP.sum(1)


def _block(width: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
