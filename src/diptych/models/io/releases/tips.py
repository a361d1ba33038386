"""TIPS' and TIPSv2's released arrays as a dual encoder: "tips:VISION.npz#TEXT.npz#TOKENIZER.model", all three in the authors' names.

Both towers are compared as they are, without projections. Images are squashed to 448 pixels, of the low-resolution models 224. The
tokenizer's pieces stand alone, in lower case, without marks; its id 0 is padding. Names are those of the release for PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.sentence_pieces import from_sentence_pieces
from diptych.models.detection.checkpoint import first_names, load_strictly
from diptych.models.io.foreign.transformers_layout import mlp_ratio
from diptych.models.io.releases.slip_layout import count
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.dense_encoder import TwoTokenEncoder
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.towers import image_tower, text_tower

SOURCE = "the released arrays of TIPS"
FORM = "tips:VISION.npz#TEXT.npz#TOKENIZER.model"
SIDES = {True: 224, False: 448}
"""Pixels per side, of the low-resolution models and of all others."""
LENGTH = 64
HEADS = {1152: 16}
"""Of a tower that wide; of others a head has 64 dimensions."""
IMAGE = {"cls_token": "class_D", "register_tokens": "second_D", "mask_token": "mask_D", "pos_embed": "position_PD"}
IMAGE_BLOCK = {
    "attn.qkv": "block.attention.qkv", "attn.proj": "block.attention.out", "mlp.fc1": "block.mlp_in", "mlp.fc2": "block.mlp_out",
    "norm1": "block.norm_1", "norm2": "block.norm_2",
}  # fmt: skip
TEXT_BLOCK = {
    "attn.in_proj_": "attention.qkv.", "attn.out_proj.": "attention.out.", "ln_1.": "norm_1.", "ln_2.": "norm_2.", "mlp.c_fc.": "mlp_in.",
    "mlp.c_proj.": "mlp_out.",
}  # fmt: skip


def open_released(spec: str) -> PairEmbedder:
    """The dual encoder of an address of that form; `reading("second")` of it reads the second class token. Leaves the torch random state
    as it was. Raises DataError for a file that is missing or not what it should be, ConfigError for another architecture."""
    files = [Path(name).expanduser() for name in spec.partition(":")[2].split("#")]
    if len(files) != 3:
        raise ConfigError(f"{spec!r} names {len(files)} files (expected {FORM})")
    vision, text = read_arrays(files[0]), read_arrays(files[1])
    words = tokenizer(files[2])
    try:
        with torch.random.fork_rng(devices=[]):
            model = empty_encoder(vision, text)
        load_released(model, vision, text)
    except ConfigError as error:
        raise ConfigError(f"{files[0]} and {files[1]}: {error}") from error
    preprocess = Preprocess(SIDES["lowres" in files[0].name], (0.0,) * 3, (1.0,) * 3, resize="squash", interpolation="bilinear")
    return PairEmbedder(model.float().eval(), preprocess, words, LENGTH, spec)


def read_arrays(file: Path) -> dict[str, Tensor]:
    """Arrays of a .npz as tensors. Raises DataError."""
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise DataError(f"not a file of arrays: {error}", file=file, expected=SOURCE) from error


def tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece model. Raises DataError for a file that is none."""
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected="the tokenizer.model of the release")
    inner = from_sentence_pieces(file)
    return Tokenizer(inner, pad_id=0, prefix=(), suffix=(inner.token_to_id("</s>") or 0,), clean="ascii_lower", bare=True)


def empty_encoder(vision: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> TwoTokenEncoder:
    """The dual encoder of these sizes with fresh weights. Raises ConfigError for another architecture."""
    needed = [
        name
        for name in ("patch_embed.proj.weight", "pos_embed", "register_tokens", "blocks.0.norm1.weight")
        if name not in vision
    ]
    needed += [name for name in ("token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.weight") if name not in text]
    if needed:
        raise ConfigError(f"not in the files: {first_names(needed)} (expected {SOURCE})")
    if any(".mlp.w12." in name for name in vision):
        raise ConfigError("its blocks are SwiGLU's, as those of g/14 (expected S, B, L or So400m, whose MLPs are plain)")
    patches, words = vision["patch_embed.proj.weight"], text["token_embedding.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    image = image_tower(
        "dense_b14",
        image_size=patch * math.isqrt(vision["pos_embed"].shape[1] - 1),
        patch=patch,
        width=width,
        layers=count(r"blocks\.(\d+)\..+", vision),
        heads=HEADS.get(width, max(1, width // 64)),
        mlp_ratio=mlp_ratio(width, len(vision["blocks.0.mlp.fc1.weight"])),
        layer_scale=1.0,
    )
    rows, inner = words.shape
    hidden = text["transformer.resblocks.0.mlp.c_fc.weight"]
    sizes: dict[str, Any] = {
        "layers": count(r"transformer\.resblocks\.(\d+)\..+", text),
        "mlp_ratio": mlp_ratio(inner, len(hidden)),
    }
    heads = HEADS.get(inner, max(1, inner // 64))
    side = text_tower("text_tips", vocab_size=rows, length=LENGTH, width=inner, heads=heads, **sizes)
    return TwoTokenEncoder(image, side, width=width, project_image=False, project_text=False, max_scale=1e4)


def load_released(model: TwoTokenEncoder, vision: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> None:
    """Puts released arrays into a model of their sizes, all or nothing. Both temperatures are the one that the text's file has, where it
    has one. Raises ConfigError with what is left over, missing or of another size."""
    assert isinstance(model.image_tower, DenseViT)
    read = {f"image_tower.{name}": tensor for name, tensor in from_vision(vision).items()}
    read |= {f"text_tower.{name}": tensor for name, tensor in from_text(text).items()}
    temperature = text.get("temperature", text.get("temperature_contrastive"))
    own = model.state_dict()
    for name in ("log_scale", "log_second_scale"):
        read[name] = own[name] if temperature is None else -temperature.float().log().reshape(1)
    load_strictly(model, read)


def from_vision(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `DenseViT` from the released image encoder's. Raises ConfigError with names that have no counterpart."""
    out, strange = dict[str, Tensor](), list[str]()
    for name, array in arrays.items():
        if name in IMAGE:
            out[IMAGE[name]] = array[0] if name == "pos_embed" else array.flatten()
        elif match := re.fullmatch(r"(patch_embed\.proj|norm)\.(weight|bias)", name):
            out[f"{'patches' if match[1] != 'norm' else 'norm_after'}.{match[2]}"] = array
        elif match := re.fullmatch(r"blocks\.(\d+)\.ls([12])\.gamma", name):
            out[f"blocks.{match[1]}.scale_{match[2]}_D"] = array
        elif (match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)) and match[2] in IMAGE_BLOCK:
            out[f"blocks.{match[1]}.{IMAGE_BLOCK[match[2]]}.{match[3]}"] = array
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"not of TIPS' image encoder: {first_names(strange)} (expected {SOURCE})")
    return out


def from_text(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a text tower from the released text encoder's. Raises ConfigError with names that have no counterpart."""
    out, strange = dict[str, Tensor](), list[str]()
    for name, array in arrays.items():
        if name in ("temperature", "temperature_contrastive"):
            continue
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)(weight|bias)", name)
        if name == "token_embedding.weight":
            out["embed.weight"] = array
        elif name.startswith("ln_final."):
            out[f"norm_after.{name.removeprefix('ln_final.')}"] = array
        elif match and match[2] in TEXT_BLOCK:
            out[f"transformer.blocks.{match[1]}.{TEXT_BLOCK[match[2]]}{match[3]}"] = array
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"not of TIPS' text encoder: {first_names(strange)} (expected {SOURCE})")
    return out
