"""Other libraries' image settings as our `Preprocess`. What it cannot express is refused; the one exception is `from_timm`'s."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers


def from_processor(folder: Path) -> Preprocess:
    """From a transformers folder: preprocessor_config.json, or the image part of processor_config.json."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if settings is None and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")).get("image_processor")
    if settings is None:
        raise DataError("image settings are missing", file=folder, expected="preprocessor_config.json")
    size, crop = settings.get("size"), settings.get("crop_size")
    side, resize = _side(path, size), "squash"
    if isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size):
        resize = "crop"
        if settings.get("do_center_crop", True) and crop is not None and _side(path, crop) != side:
            raise ConfigError(
                f"{path}: resizing to {side} and then cropping {_side(path, crop)} is not supported (expected equal)"
            )
    if settings.get("rescale_factor", 1 / 255) not in (1 / 255, 0.00392156862745098):
        raise ConfigError(f"{path}: rescale_factor is {settings['rescale_factor']} (expected 1/255)")
    interpolation = _RESAMPLE.get(settings.get("resample", 3), "bicubic")
    return _preprocess(side, settings["image_mean"], settings["image_std"], resize, interpolation)


def from_open_clip(settings: Mapping[str, Any]) -> Preprocess:
    """From the `preprocess_cfg` of an open_clip image tower."""
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    if not isinstance(size, int) and size[0] != size[1]:
        raise ConfigError(f"images of {size} pixels are not supported (expected a square)")
    resize = {"shortest": "crop", "squash": "squash", "longest": "pad"}[settings.get("resize_mode") or "shortest"]
    return _preprocess(side, settings["mean"], settings["std"], resize, settings.get("interpolation") or "bicubic")


def from_timm(model: Any) -> Preprocess:
    """From a timm model's settings. The margin that timm cuts off before it resizes (`crop_pct` below 1) is kept in the picture."""
    import timm

    settings = timm.data.resolve_model_data_config(model)
    resize = {"center": "crop", "squash": "squash", "border": "pad"}[settings.get("crop_mode") or "center"]
    return _preprocess(settings["input_size"][-1], settings["mean"], settings["std"], resize, settings["interpolation"])


def _preprocess(side: int, mean: Any, std: Any, resize: Any, interpolation: Any) -> Preprocess:
    return Preprocess(side, tuple(mean), tuple(std), resize=resize, interpolation=interpolation)


def _side(path: Path, size: Any) -> int:
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if size.get(key) is not None}
        if len(sides) == 1:
            return int(sides.pop())
    raise ConfigError(f"{path}: size {size!r} is not supported (expected one number, shortest_edge, or equal height and width)")
