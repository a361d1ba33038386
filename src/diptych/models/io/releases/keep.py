"""KEEP's released folder as a dual encoder: "keep:FOLDER" (config.json, pytorch_model.bin or model.safetensors, BERT's tokenizer).

The image side is timm's ViT-L/16 with layer scale after a head of two layers, the text side BERT with its pooling layer; neither is
projected further.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.pairs.embedder import PairEmbedder

VISIONS = {1024: "vit_large_patch16_224", 64: "test_vit"}
"""Width -> timm's vision transformer."""
LAYER_SCALE, LENGTH = 1e-5, 256
SOURCE = "the released folder of KEEP"
TOP = {"visual.": "image_tower.inner.net.", "visual_head.": "image_tower.head.", "text.": "text_tower.net."}


def open_released(spec: str) -> PairEmbedder:
    """The dual encoder of "keep:FOLDER". Leaves the torch random state unchanged.

    Raises ConfigError or DataError for a folder that lacks a file, or whose tensors are not KEEP's.
    """
    folder = Path(spec.partition(":")[2]).expanduser()
    if not (folder / "config.json").is_file():
        raise DataError("the folder has no config.json", file=folder, expected=SOURCE)
    config = read_object(folder / "config.json")
    if config.get("model_type") != "keep":
        raise ConfigError(f"{folder}: model_type is {config.get('model_type')!r} (expected 'keep', {SOURCE})")
    words = from_transformers(folder)
    parts = released_parts(config, read_tensors(weights_file(str(folder))))
    check_fits(words, parts.text, spec)
    side = int(parts.image["inner"]["image_size"])
    preprocess = Preprocess(side, IMAGENET_MEAN, IMAGENET_STD)
    return PairEmbedder(load_dual_encoder(parts, str(folder)), preprocess, words, int(parts.text["length"]), spec)


def released_parts(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`. Raises ConfigError for tensors that are not KEEP's."""
    patches, positions = (tensors.get(f"visual.{name}") for name in ("patch_embed.proj.weight", "pos_embed"))
    if patches is None or positions is None or "visual_head.2.weight" not in tensors:
        raise ConfigError(f"contains no image side of KEEP (expected {SOURCE}, with visual.pos_embed and visual_head.2.weight)")
    if len(patches) not in VISIONS:
        raise ConfigError(f"the vision transformer is {len(patches)} wide (expected {' | '.join(map(str, VISIONS))})")
    side = patches.shape[-1] * round((positions.shape[1] - 1) ** 0.5)
    inner = {"name": f"timm:{VISIONS[len(patches)]}", "image_size": side, "layer_scale": LAYER_SCALE}
    settings = {"model_type": "bert", **plain(config.get("text_config") or {})}
    length = min(LENGTH, int(settings.get("max_position_embeddings", 512)))
    width = len(tensors["visual_head.2.weight"])
    return DualEncoderParts(
        image={"name": "headed_image", "inner": inner, "hidden": width, "kind": "gelu", "image_size": side},
        text={"name": "hf", "config": settings, "pooling": "pooler", "length": length},
        width=width,
        image_projection="none",
        text_projection="none",
        tensors={_renamed(name): _shaped(name, tensor) for name, tensor in tensors.items() if not name.endswith("position_ids")},
    )


def _renamed(name: str) -> str:
    for theirs, ours in TOP.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name == "logit_scale":
        return "log_scale"
    raise ConfigError(f"tensor {name!r} does not belong to KEEP (expected {SOURCE})")


def _shaped(name: str, tensor: Tensor) -> Tensor:
    return tensor.reshape(1) if name == "logit_scale" else tensor
