"""Checkpoints of DenseCLIP's released segmenters as models (`opened` opens them: "denseclip:CHECKPOINT").

The release stands on mmsegmentation 0.19: a Semantic FPN around CLIP's residual network of 50 or 101 layers, or its ViT-B/16. Names that
differ from those of the detectors: the head's, and of the vision transformer the four maps' own layers, fpn1 to fpn4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.built import DenseClipSettings, dense_segmenter
from diptych.models.denseclip.dense_segmenter import DenseClipSegmenter
from diptych.models.denseclip.released import count, from_released, text_settings
from diptych.models.denseclip.segmenting import DenseClipSegmenterModel
from diptych.models.detection.checkpoint import first_names, load_strictly

HEAD = "decode_head."
_SCALE = re.compile(r"scale_heads\.(\d)\.(\d)\.(conv|bn)\.(\w+)")
_MAP = re.compile(r"backbone\.fpn([1-4])\.(.+)")
STRIDE = 32


def is_segmenter(tensors: Mapping[str, Tensor]) -> bool:
    """True if tensors are those of a segmenter: they have its head."""
    return any(name.startswith(HEAD) for name in tensors)


def opened_segmenter(tensors: Mapping[str, Tensor], classes: tuple[str, ...], name: str) -> DenseClipSegmenterModel:
    """The segmenter of these tensors. Leaves the torch random state unchanged. Raises ConfigError."""
    settings, words = segmenter_settings(tensors, classes), Tokenizer.from_spec("clip")
    with torch.random.fork_rng(devices=[]):
        model = dense_segmenter(settings, words)
    load_segmenter(model, tensors)
    side = int(settings.image["image_size"])
    preprocess = Preprocess(side, OPENAI_MEAN, OPENAI_STD)
    return DenseClipSegmenterModel(model.eval(), settings, preprocess, words, name, stride=side * 2 // 3)


def segmenter_settings(tensors: Mapping[str, Tensor], classes: tuple[str, ...]) -> DenseClipSettings:
    """Sizes inferred from the tensors. Raises ConfigError if they are not DenseCLIP's or the classes are not as many."""
    needed = (
        *("contexts", "gamma", "backbone.conv1.weight", "text_encoder.token_embedding.weight", f"{HEAD}conv_seg.weight"),
        *("text_encoder.positional_embedding", "context_decoder.memory_proj.1.weight", "neck.lateral_convs.0.conv.weight"),
    )
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected a checkpoint of DenseCLIP's segmenters)")
    if len(classes) != (counted := len(tensors[f"{HEAD}conv_seg.weight"])):
        raise ConfigError(
            f"the file names {len(classes)} classes, its head has {counted} (expected meta['CLASSES'] of the same number)"
        )
    vit = "backbone.class_embedding" in tensors
    inner = len(tensors["context_decoder.memory_proj.1.weight"])
    return DenseClipSettings(
        classes=classes,
        image=_vit(tensors) if vit else _resnet(tensors),
        text=text_settings(tensors),
        width=len(tensors["gamma"]),
        project_image=vit,
        context=tensors["contexts"].shape[1],
        refiner=count(r"context_decoder\.decoder\.(\d+)\..+", tensors),
        inner=inner,
        heads=max(1, inner // 64),
        neck=len(tensors["neck.lateral_convs.0.conv.weight"]),
        class_twice=vit,
        positions="resized",
        text_length=len(tensors["text_encoder.positional_embedding"]),
    )


def from_segmenter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `DenseClipSegmenter` from that of the released model. Raises ConfigError with names that have no counterpart."""
    own, shared = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if match := _MAP.fullmatch(name):
            own[f"tap.steps.{int(match[1]) - 1}.{match[2]}"] = tensor
        elif match := _SCALE.fullmatch(name.removeprefix(HEAD)):
            level, index, part, kind = match.groups()
            # Each step is convolution, norm and activation there; here also the doubling, which the finest level does not have.
            own[f"head.scales.{level}.{4 * (int(index) // 2) + (part == 'bn')}.{kind}"] = tensor
        elif name.startswith(f"{HEAD}conv_seg."):
            own[f"head.classify.{name.removeprefix(f'{HEAD}conv_seg.')}"] = tensor
        else:
            shared[name] = tensor
    return own | from_released(shared)


def load_segmenter(model: DenseClipSegmenter, tensors: Mapping[str, Tensor]) -> None:
    """Puts released weights into a model of the same architecture, all or nothing."""
    load_strictly(model, from_segmenter(tensors))


def _vit(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, patch = tensors["backbone.conv1.weight"].shape[0], tensors["backbone.conv1.weight"].shape[-1]
    side = round((len(tensors["backbone.positional_embedding"]) - 1) ** 0.5)
    return {
        "name": "vit",
        "image_size": side * patch,
        "patch": patch,
        "width": width,
        "layers": count(r"backbone\.transformer\.resblocks\.(\d+)\..+", tensors),
        "heads": max(1, width // 64),
        "act": "quick_gelu",
    }


def _resnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    positions = tensors.get("backbone.attnpool.positional_embedding")
    if positions is None:
        raise ConfigError("not in the file: backbone.attnpool.positional_embedding (expected DenseCLIP's residual network)")
    return {
        "name": "resnet_clip_50",
        "image_size": STRIDE * round((len(positions) - 1) ** 0.5),
        "depths": tuple(count(rf"backbone\.layer{stage}\.(\d+)\..+", tensors) for stage in (1, 2, 3, 4)),
        "width": 2 * len(tensors["backbone.conv1.weight"]),
        "heads": 32,
        "out": len(tensors["backbone.attnpool.c_proj.weight"]),
    }
