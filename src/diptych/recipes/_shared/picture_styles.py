"""Styles of real pictures for rendered ones: which picture lends its style to a step, and in which colours.

Letters: B batch, C channel, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.decode import decode
from diptych.models.io.tensor_files import read_tensors
from diptych.models.layers.style_transfer import STRIDE, StyleTransfer, coral_colours
from diptych.worlds.address import open_data, training_rows

Colours = Literal["own", "first", "style"]
WEIGHTS = ("vgg_normalised", "decoder")
"""Files of the published weights, .pth or .safetensors."""


def check_style_options(weights: str, strength: float, colours: str, pixels: str, size: int) -> None:
    """Raises ConfigError for options of styles that do not fit together."""
    if not weights:
        raise ConfigError(f"styles need --style-weights, a folder of {' and '.join(WEIGHTS)} (.pth or .safetensors)")
    if colours not in ("own", "first", "style") or pixels not in ("plain", "normalised") or not 0 <= strength <= 1:
        raise ConfigError(
            f"style_colours is {colours!r}, style_pixels {pixels!r}, style_strength {strength} "
            "(expected own | first | style, plain | normalised, 0..1)"
        )
    if size % STRIDE:
        raise ConfigError(f"image_size is {size} (expected a multiple of {STRIDE}, where pictures get styles)")


def style_transfer(folder: str) -> StyleTransfer:
    """The network with the weights of that folder."""
    transfer = StyleTransfer()
    files = [_file(Path(folder).expanduser(), stem) for stem in WEIGHTS]
    transfer.read(*(read_tensors(file) for file in files))
    return transfer


def random_picture(address: str, rng: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    """One of the pictures, [H, W, C] uint8, of which no side is shorter than `size` pixels unless the picture is smaller."""
    rows = _rows(address)
    sample = rows[int(rng.integers(len(rows)))]
    if sample.image is None:
        raise DataError(f"sample '{sample.uid}' of '{rows.name}' has no picture to take a style from", field="image")
    return decode(sample.image, min_side=size)


def recolour(style_CHW: Tensor, image_BCHW: Tensor, colours: Colours) -> Tensor:
    """[B, C, H, W]: the style in the colours that each picture is to have."""
    if colours == "own":
        return torch.stack([coral_colours(style_CHW, image_CHW) for image_CHW in image_BCHW])
    if colours == "first":
        style_CHW = coral_colours(style_CHW, image_BCHW[0])
    return style_CHW.expand_as(image_BCHW)


def _file(folder: Path, stem: str) -> Path:
    files = [path for suffix in (".safetensors", ".pth") if (path := folder / f"{stem}{suffix}").is_file()]
    if not files:
        raise DataError(f"no weights '{stem}'", file=folder, expected=f"{stem}.safetensors or {stem}.pth in it")
    return files[0]


@lru_cache(maxsize=2)
def _rows(address: str) -> Any:
    """Kept between the steps of a process."""
    rows: Dataset = training_rows(open_data(address))
    if not len(rows):
        raise DataError(f"'{rows.name}' has no picture to take a style from", expected="one sample or more")
    return rows
