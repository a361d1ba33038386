"""Style transfer by adaptive instance normalisation of VGG features (Huang and Belongie, 2017, arXiv 1703.06868).

    t = s (sigma(y) (x - mu(x)) / sigma(x) + mu(y)) + (1 - s) x        x, y: features of picture and style;
    statistics over positions

x are features of VGG-19 up to its fourth block (`relu4_1`), and a decoder trained with it maps t to a picture.
The weights are those published with the PyTorch implementation: `vgg_normalised.pth`, whose first layer takes pixels in 0..1,
and `decoder.pth`.

Letters: B batch, C channel, H W pixels, P positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from diptych.core.errors import DataError

Triple = tuple[float, float, float]

STRIDE = 8
"""Pixels per side of one feature position; the sides of decoded pictures are multiples of it."""


class StyleTransfer(nn.Module):
    """Frozen style transfer network without gradient, for augmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 3, 1), *_block(3, 64, 64), *_block(64, 128, 128), *_block(128, 256, 256, 256, 256)
        )
        self.encoder.extend(_convolution(256, 512))
        self.decoder = nn.Sequential(
            *_convolution(512, 256), _twice(), *_convolution(256, 256), *_convolution(256, 256), *_convolution(256, 256),
            *_convolution(256, 128), _twice(), *_convolution(128, 128),
            *_convolution(128, 64), _twice(), *_convolution(64, 64), *_convolution(64, 3)[:2],
        )  # fmt: skip
        self.requires_grad_(False)

    def read(self, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
        """Load the published weights, without VGG's layers after the fourth block. Raises DataError for others."""
        own = self.encoder.state_dict()
        for part, given in ((self.encoder, {name: encoder[name] for name in own if name in encoder}), (self.decoder, decoder)):
            try:
                part.load_state_dict(dict(given))
            except RuntimeError as error:
                what = str(error).splitlines()[-1].strip()
                raise DataError(f"weights of another network: {what}", expected="vgg_normalised.pth and decoder.pth") from error

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor, style_BCHW: Tensor, strength: float) -> Tensor:
        """Return pictures [B, C, H, W] with the content of `image_BCHW` in the styles of `style_BCHW`;
        H and W are multiples of 8.
        """
        x_BCHW, y_BCHW = self.encoder(image_BCHW), self.encoder(style_BCHW)
        made: Tensor = self.decoder(strength * adain(x_BCHW, y_BCHW) + (1 - strength) * x_BCHW)
        return made


class StyleTransferAugmentation(nn.Module):
    """`StyleTransfer` as augmentation of pictures that are normalised for another model.

    strength    s above
    mean, deviation  of the other model's normalisation
    normalised  pictures stay normalised for the other model, and the decoder's output is used directly, as in SyViC's release.
                False: they are converted to 0..1, for which VGG and decoder were trained, and normalised again
    """

    def __init__(
        self, transfer: StyleTransfer, *, strength: float, mean: Triple, deviation: Triple, normalised: bool = False
    ) -> None:
        super().__init__()
        self.transfer, self.strength, self.normalised = transfer, strength, normalised
        self.register_buffer("mean_C11", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation_C11", torch.tensor(deviation)[:, None, None], persistent=False)

    def forward(self, image_BCHW: Tensor, style_BCHW: Tensor) -> Tensor:
        """Return pictures [B, C, H, W] in the styles of `style_BCHW`, whose pixels are in the input range of VGG."""
        if self.normalised:
            made: Tensor = self.transfer(image_BCHW, style_BCHW, self.strength)
            return made
        mean_C11, deviation_C11 = self.get_buffer("mean_C11"), self.get_buffer("deviation_C11")
        made = self.transfer(image_BCHW * deviation_C11 + mean_C11, style_BCHW, self.strength).clamp(0, 1)
        return (made - mean_C11) / deviation_C11


def adain(x_BCHW: Tensor, y_BCHW: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Return x with y's mean and deviation of each channel over positions."""
    mean_BC11, deviation_BC11 = _moments(x_BCHW, eps)
    new_mean_BC11, new_deviation_BC11 = _moments(y_BCHW, eps)
    return (x_BCHW - mean_BC11) / deviation_BC11 * new_deviation_BC11 + new_mean_BC11


def coral_colours(style_CHW: Tensor, image_CHW: Tensor) -> Tensor:
    """Match the colours of a style to a picture (CORAL; Sun et al., 2016).

    The pixels of the style are decorrelated, then get the picture's correlations, means and deviations.
    Correlations are summed over pixels with one added on the diagonal, as released with the style transfer. A constant channel,
    for which that code divides zero by zero, has no correlations.

    Computed in float64 for any input: roots of sums over pixels.
    """
    style_CP, _, _ = _standardised(style_CHW)
    image_CP, mean_C1, deviation_C1 = _standardised(image_CHW)
    whitened_CP = _root(style_CP, -0.5) @ style_CP
    return ((_root(image_CP, 0.5) @ whitened_CP) * deviation_C1 + mean_C1).reshape(style_CHW.shape).to(style_CHW.dtype)


def _standardised(image_CHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pixel_CP = image_CHW.double().flatten(1)
    mean_C1, deviation_C1 = pixel_CP.mean(1, keepdim=True), pixel_CP.std(1, keepdim=True)
    return (pixel_CP - mean_C1) / torch.where(deviation_C1 > 0, deviation_C1, 1.0), mean_C1, deviation_C1


def _root(pixel_CP: Tensor, power: float) -> Tensor:
    """Return a power of the sum of products of channels plus the identity: symmetric, with eigenvalues of at least one."""
    value_C, vector_CC = torch.linalg.eigh(pixel_CP @ pixel_CP.T + torch.eye(len(pixel_CP), dtype=pixel_CP.dtype))
    root_CC: Tensor = (vector_CC * value_C**power) @ vector_CC.T
    return root_CC


def _moments(x_BCHW: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance_BC11, mean_BC11 = torch.var_mean(x_BCHW, (2, 3), keepdim=True)
    return mean_BC11, (variance_BC11 + eps).sqrt()


def _convolution(width: int, out: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(width, out, 3), nn.ReLU()]


def _block(*widths: int) -> list[nn.Module]:
    """Return convolutions of these widths, followed by downsampling by two."""
    layers = [layer for width, out in pairwise(widths) for layer in _convolution(width, out)]
    return [*layers, nn.MaxPool2d(2, ceil_mode=True)]


def _twice() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")
