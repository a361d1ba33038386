"""BioViL's and BioViL-T's released weights: "biovil:TEXT-FOLDER#IMAGE-FILE".

The text side is a folder of CXR-BERT (config.json of model_type cxr-bert, weights, vocabulary), the image side a .pt file of a residual
network with a projector; BioViL-T's compares with an earlier image, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.pairs.phrase_embedder import PhraseEmbedder

SOURCE = "CXR-BERT's folder and the image model's file, as biovil:FOLDER#FILE.pt"
RESIZED, PLAIN_CROP, TEMPORAL_CROP = 512, 480, 448
NETWORKS = {2048: "resnet50", 512: "resnet18"}
"""Channels of the last map -> timm's residual network."""
TEXT = {
    "cls_projection_head.dense_to_hidden": "0",
    "cls_projection_head.LayerNorm": "2",
    "cls_projection_head.dense_to_output": "3",
}
TEMPORAL = {
    "backbone_to_vit.weight": "narrow.weight",
    "missing_previous_emb": "missing_D",
    "vit_pooler.type_embed": "kind_2D",
    "vit_pooler.norm_post.": "norm.",
}
BLOCK = re.compile(r"vit_pooler\.blocks\.(\d+)\.(?:attn\.|mlp\.)?(.+)")


def open_released(spec: str) -> PhraseEmbedder:
    """The dual encoder of "biovil:TEXT-FOLDER#IMAGE-FILE". Leaves the torch random state unchanged.

    Raises ConfigError or DataError for a folder or file that lacks something, or whose tensors are not BioViL's.
    """
    where, _, file = spec.partition(":")[2].partition("#")
    folder, image = Path(where).expanduser(), Path(file).expanduser()
    if not file or not (folder / "config.json").is_file():
        raise DataError("does not name both a folder with config.json and an image file", file=spec, expected=SOURCE)
    config = read_object(folder / "config.json")
    if config.get("model_type") != "cxr-bert":
        raise ConfigError(f"{folder}: model_type is {config.get('model_type')!r} (expected 'cxr-bert', {SOURCE})")
    words = from_transformers(folder)
    parts = released_parts(config, read_tensors(weights_file(str(folder))), read_tensors(image))
    check_fits(words, parts.text, spec)
    size = int(parts.image["image_size"])
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    preprocess = Preprocess(size, zeros, ones, interpolation="bilinear", margin=RESIZED - size, levels="stretched")
    model = PhraseEmbedder(load_dual_encoder(parts, spec), preprocess, words, int(parts.text["length"]), spec)
    model.left = parts.left
    return model


def released_parts(config: Mapping[str, Any], text: Mapping[str, Tensor], image: Mapping[str, Tensor]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`. Raises ConfigError for tensors that are not BioViL's."""
    width = int(config.get("projection_size", 128))
    temporal = "encoder.missing_previous_emb" in image
    first = image.get("projector.model.0.weight")
    fc = image.get("encoder.encoder.fc.weight")
    if first is None or fc is None or fc.shape[1] not in NETWORKS or len(first) != width:
        raise ConfigError(f"contains no image side of BioViL (expected {SOURCE}, a projector to {width} dimensions)")
    network, size = NETWORKS[fc.shape[1]], TEMPORAL_CROP if temporal else PLAIN_CROP
    inner: dict[str, Any] = {"name": f"timm:{network}", "image_size": size}
    if temporal:
        inner = {"name": "temporal_image", "model": network, "image_size": size, "half": first.shape[1] // 2}
    settings = {**plain(config), "model_type": "bert"}
    length = int(settings.get("max_position_embeddings", 512))
    bert: dict[str, Any] = {"name": "hf", "config": settings, "pooling": "cls", "length": length}
    heads, left = _text_tensors(text)
    images, also = _image_tensors(image, temporal=temporal)
    return DualEncoderParts(
        image={"name": "projected_map", "inner": inner, "out": width, "image_size": size},
        text={
            "name": "headed_text",
            "inner": bert,
            "hidden": width,
            "kind": "cxr_bert",
            "length": length,
            "vocab_size": int(settings["vocab_size"]),
        },
        width=width,
        image_projection="none",
        text_projection="none",
        tensors={**heads, **images},
        left=(*left, *also),
    )


def _text_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    renamed: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if stem in TEXT:
            renamed[f"text_tower.head.{TEXT[stem]}.{leaf}"] = tensor
        elif name.startswith("bert.") and not name.startswith("bert.pooler.") and not name.endswith("position_ids"):
            renamed[f"text_tower.inner.net.{name.removeprefix('bert.')}"] = tensor
        elif name.startswith(("cls.predictions.", "bert.")):
            left.append(name)
        else:
            raise ConfigError(f"tensor {name!r} does not belong to CXR-BERT (expected {SOURCE})")
    return renamed, left


def _image_tensors(tensors: Mapping[str, Tensor], *, temporal: bool) -> tuple[dict[str, Tensor], list[str]]:
    renamed: dict[str, Tensor] = {}
    left: list[str] = []
    network = "image_tower.inner.net.net." if temporal else "image_tower.inner.net."
    for name, tensor in tensors.items():
        if name.startswith("encoder.encoder.fc."):
            left.append(name)
        elif name.startswith("encoder.encoder."):
            renamed[network + name.removeprefix("encoder.encoder.")] = tensor
        elif name.startswith("projector.model."):
            renamed[f"image_tower.project.{name.removeprefix('projector.model.')}"] = _flat(tensor)
        elif temporal and (ours := _temporal(name.removeprefix("encoder."))):
            renamed[f"image_tower.inner.{ours}"] = _flat(tensor) if "type_embed" not in name else tensor.flatten(0, 1)
        else:
            raise ConfigError(f"tensor {name!r} does not belong to BioViL's image side (expected {SOURCE})")
    return renamed, left


def _temporal(name: str) -> str:
    for theirs, ours in TEMPORAL.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    block = BLOCK.fullmatch(name)
    return f"blocks.{block[1]}.{block[2]}" if block else ""


def _flat(tensor: Tensor) -> Tensor:
    """1x1 convolutions are linear maps over places; a learned map of one place is a vector."""
    if tensor.ndim != 4:
        return tensor
    return tensor.flatten() if len(tensor) == 1 else tensor.flatten(1)
