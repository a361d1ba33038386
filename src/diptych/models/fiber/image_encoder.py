"""FIBER's image tower: a Swin transformer of timm whose last blocks may read a text.

Letters: B batch, H W rows and columns of a map, C channels of its stage, L tokens, D width of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.detection.padded_swin import PaddedSwinBlock
from diptych.models.fiber.gated_cross_attention import GatedCrossAttention


class GatedSwinBlock(SwinTransformerBlock):  # type: ignore[misc]  # timm is untyped
    """timm's block, which may add something to the output of its window attention."""

    def forward(self, x: Tensor, read: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The map after the block. With `read`, a + read(a) takes the place of the attention's output a [B, H, W, C]."""
        attended_BHWC: Tensor = self._attn(self.norm1(x))
        if read is not None:
            attended_BHWC = attended_BHWC + read(attended_BHWC)
        x = x + self.drop_path1(attended_BHWC)
        out_BHWC: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out_BHWC


class PaddedGatedSwinBlock(GatedSwinBlock, PaddedSwinBlock):
    """The same for maps of any size (`detection.padded_swin`)."""


class FiberImageEncoder(nn.Module):
    """Swin (2103.14030) with a gate beside the window attention of each of its last `fused` blocks.

    In a fused block a is what window attention gives; the block goes on with a + alpha c, where c reads the text from a. Without a text
    the block is timm's.

    image_size, patch  pixels per side; the published tower takes windows of image_size / 32 places (`window` None)
    width              of the first stage; each later one has twice the width and half the side
    drop_path          stochastic depth of the last block; earlier ones have less in proportion
    any_size           pictures of any size, padded to whole windows as detectors are trained (`detection.padded_swin`)
    mlp_ratio          width of a block's MLP over that of the block
    gate_norm          whether a gate norms what it reads from; the released second stage has no such norm
    """

    def __init__(
        self,
        *,
        image_size: int = 384,
        patch: int = 4,
        width: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int | None = None,
        drop_path: float = 0.1,
        fused: int = 6,
        text_width: int = 768,
        any_size: bool = False,
        gate_norm: bool = True,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        scale = patch * 2 ** (len(depths) - 1)
        if len(depths) != len(heads) or image_size % scale:
            raise ConfigError(
                f"a Swin of {len(depths)} stages and {len(heads)} head counts cannot read {image_size} pixels (expected one head count a "
                f"stage, and pixels that {scale} divides)"
            )
        if not 0 <= fused <= sum(depths):
            raise ConfigError(f"{fused} fused blocks of {sum(depths)} (expected 0 up to all)")
        self.spec: dict[str, Any] = {
            "image_size": image_size, "patch": patch, "width": width, "depths": list(depths), "heads": list(heads), "window": window,
            "drop_path": drop_path, "fused": fused, "text_width": text_width, "any_size": any_size,
            "gate_norm": gate_norm, "mlp_ratio": mlp_ratio,
        }  # fmt: skip
        self.image_size, self.fused = image_size, fused
        self.net: Any = SwinTransformer(
            img_size=image_size,
            patch_size=patch,
            num_classes=0,
            embed_dim=width,
            depths=tuple(depths),
            num_heads=tuple(heads),
            mlp_ratio=mlp_ratio,
            window_size=window or image_size // scale,
            drop_path_rate=drop_path,
            strict_img_size=not any_size,
            always_partition=any_size,
        )
        for module in self.net.modules():
            if type(module) is SwinTransformerBlock:
                module.__class__ = PaddedGatedSwinBlock if any_size else GatedSwinBlock
        self.widths, self.strides = [width * 2**n for n in range(len(depths))], [patch * 2**n for n in range(len(depths))]
        self._stage = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
        self._place = [block for depth in depths for block in range(depth)]
        self.first = len(self._stage) - fused
        self.out_width = width * 2 ** (len(depths) - 1)
        self.fused_widths = [width * 2**stage for stage in self._stage[self.first :]]
        self.fused_sides = [image_size // (patch * 2**stage) for stage in self._stage[self.first :]]
        self.gates = nn.ModuleList(
            GatedCrossAttention(width * 2**stage, heads[stage], text_width, normed=gate_norm)
            for stage in self._stage[self.first :]
        )

    def begun(self, image_BCHW: Tensor) -> Tensor:
        """The map [B, H, W, C] before the first block that may read a text."""
        x_BHWC: Tensor = self.net.patch_embed(image_BCHW)
        return self._through(x_BHWC, 0, self.first)

    def finished(self, x_BHWC: Tensor) -> Tensor:
        """Output of `begun` after the last blocks without a text; not yet normalised."""
        return self._through(x_BHWC, self.first, len(self._stage))

    def stage_of(self, number: int) -> int:
        """The stage of the fused block of that number."""
        return self._stage[self.first + number]

    def stage_maps(self, image_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output of `begun`, and the maps [B, H, W, C] at the ends of the stages completed by then."""
        x_BHWC: Tensor = self.net.patch_embed(image_BCHW)
        maps = []
        for block in range(self.first):
            x_BHWC = self._through(x_BHWC, block, block + 1)
            if block + 1 == len(self._stage) or self._stage[block + 1] != self._stage[block]:
                maps.append(x_BHWC)
        return x_BHWC, maps

    def normed(self, x_BHWC: Tensor) -> Tensor:
        """The tower's last norm. The fused path ends without it."""
        out_BHWC: Tensor = self.net.norm(x_BHWC)
        return out_BHWC

    def entered(self, number: int, x_BHWC: Tensor) -> Tensor:
        """The map as the fused block of that number finds it: merged to the side of its stage where it begins one."""
        block = self.first + number
        if self._place[block] or not self._stage[block]:
            return x_BHWC
        merged_BHWC: Tensor = self.net.layers[self._stage[block]].downsample(x_BHWC)
        return merged_BHWC

    def fuse(self, number: int, x_BHWC: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The fused block of that number on a map that has entered."""
        out_BHWC: Tensor = self._block(self.first + number)(x_BHWC, partial(self._read, number, text_BLD, mask_BL))
        return out_BHWC

    def _read(self, number: int, text_BLD: Tensor, mask_BL: Tensor, x_BHWC: Tensor) -> Tensor:
        """Output [B, H, W, C] of the gate of that number, which reads the text from each place."""
        read_BHWC: Tensor = self.gates[number](x_BHWC.flatten(1, 2), text_BLD, mask_BL).unflatten(1, x_BHWC.shape[1:3])
        return read_BHWC

    def _block(self, block: int) -> SwinTransformerBlock:
        return self.net.layers[self._stage[block]].blocks[self._place[block]]

    def _through(self, x_BHWC: Tensor, start: int, stop: int) -> Tensor:
        for block in range(start, stop):
            if not self._place[block] and self._stage[block]:
                x_BHWC = self.net.layers[self._stage[block]].downsample(x_BHWC)
            x_BHWC = self._block(block)(x_BHWC)
        return x_BHWC
