"""Convert image settings of other libraries to `Preprocess`. Settings that it cannot express are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess

_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers


def from_processor(folder: Path, model_type: str = "") -> Preprocess:
    """Read `Preprocess` from a transformers folder: preprocessor_config.json, or the image part of processor_config.json.

    Missing settings are the defaults of the image processor that the file names, or that of `model_type` if it names none.
    A NaFlex SigLIP 2 keeps the aspect ratio of an image within a number of patches: here its images are resized to a square with
    as many.
    """
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if settings is None and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")).get("image_processor")
    if settings is None:
        raise DataError(
            "image settings are missing", file=folder, expected="preprocessor_config.json, which the model was saved without"
        )
    settings = {**_defaults(settings, model_type), **settings}
    if "max_num_patches" in settings:
        side = math.isqrt(settings["max_num_patches"]) * settings["patch_size"]
        return _preprocess(side, *_affine(path, settings), "squash", _interpolation(path, settings))
    size, crop = settings.get("size"), settings.get("crop_size")
    if not settings.get("do_resize", True):
        raise ConfigError(f"{path}: do_resize is off (expected a size that every image gets)")
    side = _side(path, size)
    short = isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size)
    cut = _side(path, crop) if settings.get("do_center_crop", short) and crop is not None else side
    if cut > side:
        raise ConfigError(f"{path}: resizing to {side} and then cropping {cut} is not supported (expected a smaller crop)")
    made = _preprocess(cut, *_affine(path, settings), "crop" if short else "squash", _interpolation(path, settings))
    return replace(made, margin=side - cut, rounding="even" if settings.get("diptych_rounding") == "even" else "down")


_PROCESSORS = {
    "clip": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "align": "EfficientNetImageProcessor",
    "blip": "BlipImageProcessor",
    "chinese_clip": "ChineseCLIPImageProcessor",
    "altclip": "CLIPImageProcessor",
}
_ASKED = (
    *("size", "crop_size", "resample", "patch_size", "max_num_patches", "image_mean", "image_std"),
    *("rescale_factor", "rescale_offset", "include_top", "do_resize", "do_center_crop", "do_rescale", "do_normalize"),
)


def _defaults(settings: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Defaults of the image processor for settings missing in the file: class attributes of transformers."""
    import transformers

    named = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    name = named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor") or _PROCESSORS.get(model_type, "")
    if not hasattr(transformers, name):
        name = _PROCESSORS.get(model_type, "")
    kind = getattr(transformers, name, None)
    return {key: value for key in _ASKED if (value := getattr(kind, key, None)) is not None}


def _affine(path: Path, settings: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return mean and deviation of pixels in 0..1 that are equivalent to scaling, shifting and normalising."""
    factor = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
    else:
        mean, std = [0.0] * 3, [1.0] * 3
    if len(mean) != 3 or len(std) != 3:
        raise ConfigError(f"{path}: image_mean is {mean} (expected three numbers: pictures in colour)")
    shift = 1.0 if settings.get("rescale_offset", False) else 0.0
    again = settings["image_std"] if settings.get("include_top", False) else [1.0] * 3
    if factor == 255 / 255 and not shift and again == [1.0] * 3:
        return mean, std
    return [(m + shift) / factor for m in mean], [s * a / factor for s, a in zip(std, again, strict=True)]


def _interpolation(path: Path, settings: Mapping[str, Any]) -> str:
    number = int(settings.get("resample", 3))
    if number not in _RESAMPLE:
        raise ConfigError(f"{path}: resample is {number} (expected {', '.join(f'{k} ({v})' for k, v in _RESAMPLE.items())})")
    return _RESAMPLE[number]


def from_open_clip(settings: Mapping[str, Any]) -> Preprocess:
    """Return `Preprocess` from the `preprocess_cfg` of an open_clip image tower."""
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    if not isinstance(size, int) and size[0] != size[1]:
        raise ConfigError(f"images of {size} pixels are not supported (expected a square)")
    resize = {"shortest": "crop", "squash": "squash", "longest": "pad"}[settings.get("resize_mode") or "shortest"]
    return _preprocess(side, settings["mean"], settings["std"], resize, settings.get("interpolation") or "bicubic")


def from_timm(model: Any) -> Preprocess:
    """Return `Preprocess` from a timm model's settings, as in `timm.data.create_transform`:
    resize to size / `crop_pct`, centre crop.
    """
    import timm

    settings = timm.data.resolve_model_data_config(model)
    resize = {"center": "crop", "squash": "squash", "border": "pad"}[settings.get("crop_mode") or "center"]
    side = settings["input_size"][-1]
    made = _preprocess(side, settings["mean"], settings["std"], resize, settings["interpolation"])
    return replace(made, margin=0 if resize == "pad" else math.floor(side / (settings.get("crop_pct") or 0.875)) - side)


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
