"""Checkpoints of DenseCLIP's released detectors as models (`opened` opens them: "denseclip:CHECKPOINT").

The release stands on mmdetection 2.17: a RetinaNet, or a Mask R-CNN, around CLIP's residual network of 50 or 101 layers. A checkpoint
has its class names, and its tensors the sizes. The text side has thirteen positions, of which eight are learned context: a class name
has three tokens at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.built import DenseClipSettings, dense_detector, dense_mask_detector
from diptych.models.denseclip.dense_detector import DenseClipDetector
from diptych.models.denseclip.dense_mask_detector import DenseClipMaskDetector
from diptych.models.denseclip.detecting import DenseClipDetectorModel
from diptych.models.detection.anchor_boxes import AnchorConfig
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.mask_rcnn import MaskRCNNConfig
from diptych.models.io.foreign.clip_layout import from_open_clip

SIDE = 1344
"""Pixels per side for which the released table of positions is made."""
TAU = 0.07
TOWERS = {
    "image_tower": "tap.tower",
    "image_projection": "tap.projection",
    "text_tower": "guide.text_tower",
    "text_projection": "guide.projection",
}
REFINER = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "proj": "out"}
NAMES = (
    (r"context_decoder\.memory_proj\.(.+)", r"guide.refiner.places.\1"),
    (r"context_decoder\.text_proj\.(.+)", r"guide.refiner.texts.\1"),
    (r"context_decoder\.out_proj\.(.+)", r"guide.refiner.out.\1"),
    *(
        (rf"context_decoder\.decoder\.(\d+)\.{theirs}\.(\w+)", rf"guide.refiner.layers.\1.{ours}.\2")
        for theirs, ours in (
            *((rf"self_attn\.{name}", f"among.{own}") for name, own in REFINER.items()),
            *((rf"cross_attn\.{name}", f"read.{own}") for name, own in REFINER.items()),
            ("norm1", "norm_among"),
            ("norm2", "norm_read"),
            ("norm3", "norm_mlp"),
            (r"mlp\.0", "mlp_in"),
            (r"mlp\.3", "mlp_out"),
        )
    ),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"neck.sides.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"neck.smooth.\1.\2"),
    (r"bbox_head\.cls_convs\.(\d)\.conv\.(\w+)", r"head.classification_head.conv.\1.0.\2"),
    (r"bbox_head\.reg_convs\.(\d)\.conv\.(\w+)", r"head.regression_head.conv.\1.0.\2"),
    (r"bbox_head\.retina_cls\.(\w+)", r"head.classification_head.cls_logits.\1"),
    (r"bbox_head\.retina_reg\.(\w+)", r"head.regression_head.bbox_reg.\1"),
    (r"rpn_head\.rpn_conv\.(\w+)", r"heads.proposer.conv.0.0.\1"),
    (r"rpn_head\.rpn_cls\.(\w+)", r"heads.proposer.cls_logits.\1"),
    (r"rpn_head\.rpn_reg\.(\w+)", r"heads.proposer.bbox_pred.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.(\w+)", r"heads.layers.fc6.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.(\w+)", r"heads.layers.fc7.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", r"heads.classify.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", r"heads.correct.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(\w+)", r"heads.mask_layers.\1.0.\2"),
    (r"roi_head\.mask_head\.upsample\.(\w+)", r"heads.mask.conv5_mask.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(\w+)", r"heads.mask.mask_fcn_logits.\1"),
)
"""(pattern, replacement): the first that matches a whole name of the release makes it ours. Towers are CLIP's."""


def opened_detector(tensors: Mapping[str, Tensor], classes: tuple[str, ...], name: str) -> DenseClipDetectorModel:
    """The detector of these tensors, RetinaNet or Mask R-CNN. Leaves the torch random state unchanged. Raises ConfigError."""
    settings, words = released_settings(tensors, classes), Tokenizer.from_spec("clip")
    with torch.random.fork_rng(devices=[]):
        model: DenseClipDetector | DenseClipMaskDetector = (
            dense_mask_detector(settings, MaskRCNNConfig(), TAU, words)
            if any(key.startswith("roi_head.") for key in tensors)
            else dense_detector(settings, AnchorConfig(limits="anchors"), TAU, words)
        )
    load_released(model, tensors)
    preprocess = DetectionPreprocess(mean=OPENAI_MEAN, std=OPENAI_STD, smooth=False)
    return DenseClipDetectorModel(model.eval(), settings, preprocess, words, name)


def released_settings(tensors: Mapping[str, Tensor], classes: tuple[str, ...]) -> DenseClipSettings:
    """Sizes inferred from the tensors. Raises ConfigError if they are not DenseCLIP's or the classes are not as many."""
    image, text = "backbone.attnpool.c_proj.weight", "text_encoder.positional_embedding"
    needed = (image, text, "contexts", "backbone.conv1.weight", "text_encoder.token_embedding.weight")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected a checkpoint of DenseCLIP's detectors)")
    head, per_place = tensors.get("roi_head.bbox_head.fc_cls.weight"), AnchorConfig().per_place
    classified = len(head) - 1 if head is not None else len(tensors.get("bbox_head.retina_cls.weight", ())) // per_place
    if len(classes) != classified:
        raise ConfigError(
            f"the file names {len(classes)} classes, its head has {classified} (expected meta['CLASSES'] of the same number)"
        )
    return DenseClipSettings(
        classes=classes,
        image={
            "name": "resnet_clip_50",
            "image_size": SIDE,
            "depths": tuple(count(rf"backbone\.layer{stage}\.(\d+)\..+", tensors) for stage in (1, 2, 3, 4)),
            "width": 2 * len(tensors["backbone.conv1.weight"]),
            "heads": 32,
            "out": len(tensors[image]),
        },
        text=text_settings(tensors),
        width=len(tensors[image]),
        project_image=False,
        context=tensors["contexts"].shape[1],
        positions="cut",
        text_length=len(tensors[text]),
    )


def text_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the text tower, CLIP's cut to the places that context and names take."""
    (length, inner), words = (
        tensors["text_encoder.positional_embedding"].shape,
        len(tensors["text_encoder.token_embedding.weight"]),
    )
    return {
        "name": "text_clip",
        "length": length,
        "width": inner,
        "layers": count(r"text_encoder\.transformer\.resblocks\.(\d+)\..+", tensors),
        "heads": max(1, inner // 64),
        "act": "quick_gelu",
        "vocab_size": words,
        "eot_id": words - 1,
        "causal": True,
        "pooling": "eot",
    }


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `DenseClipDetector` or `DenseClipMaskDetector` from that of the released model.

    Raises ConfigError with the names of tensors that have no counterpart.
    """
    sides = count(r"neck\.lateral_convs\.(\d)\..+", tensors)
    clip, out, strange = dict[str, Tensor](), dict[str, Tensor](), list[str]()
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            clip["visual." + name.removeprefix("backbone.")] = tensor
        elif name.startswith("text_encoder."):
            clip[name.removeprefix("text_encoder.")] = tensor
        elif name == "contexts":
            out["guide.bank.context"] = tensor[0]
        elif name == "gamma":
            out["guide.refiner.gate_D"] = tensor
        elif ours := _renamed(name, sides):
            out[ours] = tensor
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"not of DenseCLIP's detectors: {first_names(strange)} (expected a checkpoint of its release)")
    for name, tensor in from_open_clip(clip).items():
        part, _, rest = name.partition(".")
        out[f"{TOWERS[part]}.{rest}"] = tensor
    return out


def load_released(model: DenseClipDetector | DenseClipMaskDetector, tensors: Mapping[str, Tensor]) -> None:
    """Puts released weights into a model of the same architecture, all or nothing."""
    load_strictly(model, from_released(tensors))


def _renamed(name: str, sides: int) -> str | None:
    """`sides`: how many maps of the backbone the pyramid reads; its convolutions beyond them make the coarser maps."""
    if (match := re.fullmatch(r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", name)) and int(match[1]) >= sides:
        return f"coarser.steps.{int(match[1]) - sides}.{match[2]}"
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    """Number of distinct values of the pattern's first group among tensor names."""
    return len({match[1] for name in tensors if (match := re.fullmatch(pattern, name))})
