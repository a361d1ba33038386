"""Loads a pretrained Q-Former and image encoder from a BLIP-2 folder of transformers or from another bridge's run."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.connectors import QueryConnector

INDEX = "model.safetensors.index.json"
NAMES = {
    "qformer.": "former.",
    "vision_model.post_layernorm.": "norm.",
    "embeddings.word_embeddings.": "former.embeddings.word_embeddings.",
    "embeddings.position_embeddings.": "former.embeddings.position_embeddings.",
}
"""Of BLIP-2 in transformers -> of the connector; `query_tokens` beside them. The last two are of its first stage, which reads texts."""
EVA = (
    (r"embeddings\.class_embedding$", "net.cls_token"),
    (r"embeddings\.position_embedding$", "net.pos_embed"),
    (r"embeddings\.patch_embedding\.", "net.patch_embed.proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.weight$", r"net.blocks.\1.attn.qkv.weight"),
    (r"encoder\.layers\.(\d+)\.self_attn\.projection\.", r"net.blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"net.blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"net.blocks.\1.mlp."),
)
"""Of BLIP-2's image encoder -> of timm's, "eva_g14". The bias of queries, keys and values is one tensor there; that of the keys
changes no attention, and timm has none."""
BIAS = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.qkv\.bias$")
VISION = "vision_model."
UNUSED = ("net.fc_norm.", "net.norm.")
"""Norms before a head, which patches do not pass."""
OWN, OWN_ENCODER = "connector.", "encoder."
"""Prefixes of the parameter names in a bridge."""


def take_blip2_(bridge: Bridge, address: str, *, encoder: bool) -> None:
    """Copies Q-Former, queries and the norm before it into the bridge's connector, if that is a Q-Former, and with `encoder` the image
    encoder, too. `address` as of the recipes: "hf:FOLDER", a run of ours, or its model folder; "" takes nothing."""
    if not address or not isinstance(bridge.connector, QueryConnector):
        return
    folder = Path(address.removeprefix("hf:")).expanduser()
    take_former_(bridge.connector, folder)
    if encoder:
        take_encoder_(bridge.encoder, folder)


@torch.no_grad()
def take_former_(connector: QueryConnector, folder: Path) -> None:
    """Copies Q-Former, queries and the norm before it into the connector; the linear map after it stays as it is. Raises DataError if
    the folder holds none, or one of another shape.

    folder  of transformers, a run folder of ours, or its model folder. A connector that reads texts takes them from BLIP-2's first stage
            (`Blip2ForImageTextRetrieval`) or from InstructBLIP
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder, (OWN, "query_tokens", *NAMES)):
        if name.startswith(OWN):
            tensors[name.removeprefix(OWN)] = tensor
        if name == "query_tokens":
            tensors["query_QD"] = tensor[0]
        for theirs, ours in NAMES.items():
            if name.startswith(theirs):
                tensors[ours + name.removeprefix(theirs)] = tensor
    if connector.reads_text:
        for last in ("weight", "bias"):
            if f"former.layernorm.{last}" in tensors:
                tensors[f"former.embeddings.layernorm.{last}"] = tensors[f"former.layernorm.{last}"]
    needed = {name: tensor for name, tensor in connector.state_dict().items() if not name.startswith("map.")}
    texts = ", with the texts of its first stage" if connector.reads_text else ""
    _copy(needed, tensors, folder, "a Q-Former", f"BLIP-2 as transformers saves it{texts}, or a bridge")


@torch.no_grad()
def take_encoder_(encoder: nn.Module, folder: Path) -> None:
    """Copies BLIP-2's image encoder, EVA without its last block, into "eva_g14", or that of a bridge of ours into its like. Raises
    DataError where the folder holds none, or one of another shape."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder, (OWN_ENCODER, VISION)):
        if name.startswith(OWN_ENCODER):
            tensors[name.removeprefix(OWN_ENCODER)] = tensor
            continue
        rest = name.removeprefix(VISION)
        if bias := BIAS.match(rest):
            block = f"net.blocks.{bias[1]}.attn."
            tensors[f"{block}q_bias"], _, tensors[f"{block}v_bias"] = tensor.chunk(3)
        for pattern, ours in EVA:
            if re.match(pattern, rest):
                tensors[re.sub(pattern, ours, rest)] = tensor
    needed = {name: tensor for name, tensor in encoder.state_dict().items() if name in tensors or not name.startswith(UNUSED)}
    _copy(needed, tensors, folder, "an image encoder", "BLIP-2 as transformers saves it before image_tower eva_g14, or a bridge")


def _copy(needed: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path, what: str, expected: str) -> None:
    for name, tensor in needed.items():
        if name not in tensors:
            raise DataError(f"contains no {name} of {what}", file=folder, expected=expected)
        if tensors[name].shape != tensor.shape:
            shapes = f"{list(tensors[name].shape)}, the recipe {list(tensor.shape)}"
            raise DataError(f"{name} is {shapes}", file=folder, expected="the same sizes")
        tensor.copy_(tensors[name])


def _tensors(folder: Path, starts: tuple[str, ...]) -> list[tuple[str, Tensor]]:
    """Tensors whose names start with the prefix, without the leading "model." that some folders have."""
    if (folder / "run.json").is_file():
        folder = folder / "model"
    tensors = []
    for file in _files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118, a handle is no mapping
                if (own := name.removeprefix("model.")).startswith(starts):
                    tensors.append((own, opened.get_tensor(name)))
    return tensors


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        parts = read_object(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict):
            raise DataError("has no weight_map", file=folder / INDEX, expected="the index that transformers writes")
        return [folder / name for name in sorted({Path(str(part)).name for part in parts.values()})]
    if not (folder / "model.safetensors").is_file():
        raise DataError("contains no weights", file=folder, expected="model.safetensors of BLIP-2 as transformers saves it")
    return [folder / "model.safetensors"]
