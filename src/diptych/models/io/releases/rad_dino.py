"""A released folder of a DINOv2 encoder without registers, as RAD-DINO comes: "rad_dino:FOLDER" (config.json of model_type dinov2,
model.safetensors or pytorch_model.bin, preprocessor_config.json)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.io.foreign.parts import check_tensors
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.pairs.image_embedder import ImageTowerEmbedder
from diptych.models.towers.towers import image_tower

SOURCE = "the released folder of RAD-DINO, a Dinov2Model"
MEAN, STD, SIZE = (0.5307,) * 3, (0.2583,) * 3, 518
TOP = {
    "embeddings.patch_embeddings.projection.weight": "patches.weight",
    "embeddings.patch_embeddings.projection.bias": "patches.bias",
    "embeddings.cls_token": "class_D",
    "embeddings.mask_token": "mask_D",
    "embeddings.position_embeddings": "position_PD",
    "layernorm.weight": "norm_after.weight",
    "layernorm.bias": "norm_after.bias",
}
BLOCK = {
    "attention.output.dense": "block.attention.out",
    "attention.o_proj": "block.attention.out",
    "mlp.fc1": "block.mlp_in",
    "mlp.fc2": "block.mlp_out",
    "norm1": "block.norm_1",
    "norm2": "block.norm_2",
}
QUERIES = {
    **{f"attention.attention.{name}": name for name in ("query", "key", "value")},
    **{f"attention.{name[0]}_proj": name for name in ("query", "key", "value")},
}
"""As published, and as transformers 5 names them in memory."""
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")


def open_released(spec: str) -> ImageTowerEmbedder:
    """The image encoder of "rad_dino:FOLDER". Leaves the torch random state unchanged. Raises ConfigError or DataError."""
    folder = Path(spec.partition(":")[2]).expanduser()
    if not (folder / "config.json").is_file():
        raise DataError("the folder has no config.json", file=folder, expected=SOURCE)
    config = read_object(folder / "config.json")
    arguments = tower_arguments(config)
    with torch.random.fork_rng(devices=[]):
        tower = image_tower(**arguments)
    tensors = from_transformers_dinov2(read_tensors(weights_file(str(folder))))
    check_tensors(tensors, tower.state_dict(), str(folder))
    tower.load_state_dict(tensors)
    return ImageTowerEmbedder(tower.float().eval(), _preprocess(folder, int(arguments["image_size"])), spec)


def tower_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `image_tower` for a configuration of Dinov2Model. Raises ConfigError for another architecture."""
    if config.get("model_type") != "dinov2" or config.get("use_swiglu_ffn"):
        raise ConfigError(f"model_type is {config.get('model_type')!r} (expected dinov2 without SwiGLU, {SOURCE})")
    return {
        "name": "dense",
        "image_size": int(config.get("image_size", SIZE)),
        "patch": int(config.get("patch_size", 14)),
        "width": int(config.get("hidden_size", 768)),
        "layers": int(config.get("num_hidden_layers", 12)),
        "heads": int(config.get("num_attention_heads", 12)),
        "mlp_ratio": float(config.get("mlp_ratio", 4)),
        "eps": float(config.get("layer_norm_eps", 1e-6)),
        "second": False,
    }


def from_transformers_dinov2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `DenseViT` from that of a Dinov2Model. Raises ConfigError with a name that has no counterpart."""
    renamed: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("dinov2.")
        layer = LAYER.fullmatch(name)
        if name in TOP:
            one = ("embeddings.cls_token", "embeddings.mask_token")
            renamed[TOP[name]] = tensor.flatten() if name in one else tensor[0] if "position" in name else tensor
            continue
        if layer is None:
            raise ConfigError(f"tensor {full!r} does not belong to RAD-DINO (expected {SOURCE})")
        stem, _, leaf = layer[2].rpartition(".")
        if scale := re.fullmatch(r"layer_scale([12])", stem):
            renamed[f"blocks.{layer[1]}.scale_{scale[1]}_D"] = tensor
        elif stem in QUERIES:
            parts.setdefault((layer[1], leaf), {})[QUERIES[stem]] = tensor
        elif stem in BLOCK:
            renamed[f"blocks.{layer[1]}.{BLOCK[stem]}.{leaf}"] = tensor
        else:
            raise ConfigError(f"tensor {full!r} does not belong to RAD-DINO (expected {SOURCE})")
    for (number, leaf), each in parts.items():
        if len(each) == 3:
            renamed[f"blocks.{number}.block.attention.qkv.{leaf}"] = torch.cat([each[key] for key in ("query", "key", "value")])
    return renamed


def _preprocess(folder: Path, size: int) -> Preprocess:
    """As preprocessor_config.json has it: shorter side, square crop, mean and deviation."""
    file = folder / "preprocessor_config.json"
    given = read_object(file) if file.is_file() else {}
    mean, std = (
        tuple(float(value) for value in given.get(key, default)) for key, default in (("image_mean", MEAN), ("image_std", STD))
    )
    crop = given.get("crop_size", {})
    side = int(crop.get("height", size)) if isinstance(crop, Mapping) else int(crop)
    shorter = given.get("size", {})
    resized = int(shorter.get("shortest_edge", side)) if isinstance(shorter, Mapping) else int(shorter)
    return Preprocess(
        side, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), margin=max(0, resized - side), levels="stretched"
    )
