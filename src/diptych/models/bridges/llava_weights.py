"""LLaVA's weights in a bridge: from folders of transformers and of its authors (2304.08485, 2310.03744), and of Croc.

The three families of names that published folders have, and the part of a `Bridge` that each tensor fills, are in `RULES`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.models.bridges.bridge import Bridge
from diptych.models.io.tensor_files import read_tensors
from diptych.models.towers.hidden_layer import HiddenLayerTower

RULES = (
    (r"^model\.mask_token$", "pool.row_MD"),
    (r"^transform_block\.position_embeddings\.", "head.position."),
    (r"^transform_block\.layers\.", "head.layers."),
    (r"^transform_block\.resize\.", "head.map."),
    (r"^(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?", "encoder."),
    (r"^(?:model\.)?multi_modal_projector\.", "connector."),
    (r"^(?:model\.)?mm_projector\.0\.", "connector.linear_1."),
    (r"^(?:model\.)?mm_projector\.2\.", "connector.linear_2."),
    (r"^(?:model\.)?image_newline$", "connector.newline_D"),
    (r"^language_model\.base_model\.model\.", "language.inner."),
    (r"^language_model\.lm_head\.", "language.inner.lm_head."),
    (r"^lm_head\.", "language.inner.lm_head."),
    (r"^(?:model\.)?language_model\.(?:model\.)?", "language.inner.model."),
    (r"^model\.", "language.inner.model."),
)
"""The first matching rule gives the name in a bridge; `encoder.` denotes transformers' image encoder."""
UNREAD = re.compile(r"(\.rotary_emb\.inv_freq|\.position_ids)$|^model\.cross_attention\.")
"""Tensors without a place: those that are computed, and Croc's cross-attention, which its model has and never calls."""
POOL = "pool.row_MD"
OF_ONE_STAGE = re.compile(r"^(connector\.newline_D$|pool\.|head\.)")
"""The token after a row of LLaVA 1.6's tiles, which a bridge of whole images has no place for; pool and head of Croc's comprehension
stage (2410.14332), which its published folder has and other stages do not."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LlavaConfig:
    """Configuration of a LLaVA folder.

    text    of its language model, for `LanguageModel(config=...)`
    vision  of its image encoder, for `image_tower("hf_image", config=...)`; None if the folder names another one
    layer   of the image encoder that is read
    aspect  how images are shown: "pad" to a square, "anyres" in tiles, or "" cut to their middle square
    sizes   widths and heights of the grids of tiles, with "anyres"
    newline tokens of padding are left out, and a learned token ends every row of tiles
    mistral the language model is Mistral, whose form of dialogue differs
    unit    tokens of an image have norm 1: a Croc (2410.14332)
    """

    text: dict[str, Any]
    vision: dict[str, Any] | None
    layer: int
    aspect: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    newline: bool = False
    mistral: bool = False
    unit: bool = False

    @classmethod
    def read(cls, folder: Path) -> LlavaConfig:
        """Of config.json, in either form. Raises DataError for another model, and for features or a projector of another kind."""
        path = folder / "config.json"
        if not path.is_file():
            raise DataError("no config.json", file=folder, expected="a folder of LLaVA")
        plain = read_object(path)
        if "mm_projector_type" in plain or "mm_vision_tower" in plain:
            kind, select = plain.get("mm_projector_type"), plain.get("mm_vision_select_feature", "patch")
            if kind != "mlp2x_gelu" or select != "patch":
                raise DataError(
                    f"projector {kind!r} of features {select!r}", file=path, expected="mlp2x_gelu of patch (LLaVA 1.5)"
                )
            text = {name: value for name, value in plain.items() if not name.startswith(("mm_", "image_", "tune_", "freeze_"))}
            aspect, merge = plain.get("image_aspect_ratio"), plain.get("mm_patch_merge_type", "flat")
            if aspect == "anyres" and not merge.startswith("spatial"):
                raise DataError(f"tiles merged by {merge!r}", file=path, expected="spatial or spatial_unpad (LLaVA 1.6)")
            return cls(
                {**text, "model_type": "llama"},
                None,
                int(plain.get("mm_vision_select_layer", -2)),
                aspect if aspect in ("pad", "anyres") else "",
                _pairs(plain["image_grid_pinpoints"]) if aspect == "anyres" else (),
                aspect == "anyres" and "unpad" in merge,
                plain.get("model_type") == "llava_mistral",
                str(plain.get("model_type")).startswith("croc"),
            )
        if "text_config" not in plain or "vision_config" not in plain:
            raise DataError(
                "not the configuration of a LLaVA", file=path, expected="text_config and vision_config, or mm_vision_tower"
            )
        given: Any = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        act, select = given.projector_hidden_act, given.vision_feature_select_strategy
        if act != "gelu" or select != "default" or not isinstance(given.vision_feature_layer, int):
            raise DataError(
                f"projector {act!r} of features {select!r} of layer {given.vision_feature_layer}",
                file=path,
                expected="gelu, default, one layer (LLaVA 1.5)",
            )
        grids = getattr(given, "image_grid_pinpoints", None)
        return cls(
            given.text_config.to_dict(),
            given.vision_config.to_dict(),
            given.vision_feature_layer,
            "anyres" if grids else "pad",
            tuple((width, height) for height, width in grids or ()),
            bool(grids),
            given.text_config.model_type == "mistral",
        )


def _pairs(plain: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of numbers, which older folders have as text.

    >>> _pairs("[(336, 672), (672, 336)]")
    ((336, 672), (672, 336))
    """
    pairs = ast.literal_eval(plain) if isinstance(plain, str) else plain
    return tuple((int(width), int(height)) for width, height in pairs)


def bridge_name(name: str) -> str:
    """The name in a bridge of a published tensor; "" for one that has no place there.

    >>> bridge_name("model.mm_projector.2.bias"), bridge_name("language_model.model.norm.weight")
    ('connector.linear_2.bias', 'language.inner.model.norm.weight')
    """
    if UNREAD.search(name):
        return ""
    for pattern, ours in RULES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name, count=1)
    raise DataError(f"tensor {name} is unknown", expected="the weights of a LLaVA")


@torch.no_grad()
def take_llava_(bridge: Bridge, address: str, *, required: str = "", encoder: bool = False) -> None:
    """Copies projector, language model and, where the folder has one, image encoder into the bridge.

    address   "hf:FOLDER", as transformers or as the authors save it
    required  pattern of the tensors that a folder must have, where it holds a part of a model (PLLaVA's: projector and adapters)
    encoder   the folder has to hold an image encoder, too
    Raises DataError for a tensor that is missing, left over, or of another shape.
    """
    folder = Path(address.removeprefix("hf:")).expanduser()
    needed, filled = targets(bridge), set[str]()
    for name, tensor in weight_tensors(folder):
        ours = bridge_name(name)
        if ours == POOL and not getattr(bridge.connector, "unit", False):
            raise DataError(
                f"tensor {name} is of a Croc, whose image tokens have norm 1", file=folder, expected="the recipe croc"
            )
        if ours not in needed:
            if ours and not OF_ONE_STAGE.match(ours) and not unread_block(bridge, ours):
                raise DataError(f"tensor {name} does not belong to the recipe's model", file=folder, expected="the same layers")
            continue
        if needed[ours].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, the recipe's {list(needed[ours].shape)}"
            raise DataError(f"{name} is {shapes}", file=folder, expected="the same sizes")
        needed[ours].copy_(tensor)
        filled.add(ours)
    check_filled([name for name in needed if re.search(required, name)], filled, folder, encoder=encoder)


def targets(bridge: Bridge) -> dict[str, Tensor]:
    """Tensors of a bridge by the names of `bridge_name`."""
    named = {}
    for name, tensor in bridge.state_dict(keep_vars=True).items():
        named[re.sub(r"^encoder\.(inner\.)?net\.", "encoder.", name)] = tensor
    return named


def unread_block(bridge: Bridge, name: str) -> bool:
    """True for a tensor of the image encoder after the layer that is read."""
    if not isinstance(bridge.encoder, HiddenLayerTower) or not name.startswith("encoder."):
        return False
    block = re.match(r"encoder\.encoder\.layers\.(\d+)\.", name)
    inner: Any = bridge.encoder.inner
    return name.startswith(("encoder.post_layernorm.", "encoder.head.")) or bool(
        block and int(block[1]) >= len(inner.net.encoder.layers)
    )


def check_filled(needed: Iterable[str], filled: set[str], folder: Path, *, encoder: bool = False) -> None:
    """Raises DataError for the first tensor that a folder lacks; unless `encoder` an image encoder may be missing as a whole."""
    sees = encoder or any(name.startswith("encoder.") for name in filled)
    tied = "language.inner.model.embed_tokens.weight" in filled
    for name in needed:
        optional = (name.startswith("encoder.") and not sees) or (name == "language.inner.lm_head.weight" and tied)
        if name not in filled and not optional:
            raise DataError(f"tensor {name} is missing", file=folder, expected="projector and language model of a LLaVA")


def weight_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a transformers folder by name, from all of its weight files."""
    for file in _files(folder):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, a handle is no mapping
                    yield name, opened.get_tensor(name)
        else:
            yield from read_tensors(file).items()


def _files(folder: Path) -> list[Path]:
    for index in INDEXES:
        if (folder / index).is_file():
            parts = read_object(folder / index).get("weight_map")
            if not isinstance(parts, dict):
                raise DataError("has no weight_map", file=folder / index, expected="the index that transformers writes")
            return [folder / name for name in sorted({Path(str(part)).name for part in parts.values()})]
    whole = [folder / name for name in FILES if (folder / name).is_file()]
    if not whole:
        raise DataError("contains no weights", file=folder, expected=" or ".join((*FILES, *INDEXES)))
    return whole[:1]
