"""FILIP in MindFormers' names: "filip:FILE.ckpt#BERT-FOLDER", FOLDER with the tokenizer and config.json of bert-base-chinese.

A vision transformer whose patches become 24 tokens after the projection, and a causal text transformer that is compared word by word.
Norms have an epsilon of 1e-5, as those of MindFormers' blocks; MindSpore's own norms before and after the blocks have 1e-7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.detection.checkpoint import checkpoint_and_encoder, first_names
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import mlp_ratio
from diptych.models.io.releases.mindspore import is_mindspore, read_mindspore
from diptych.models.io.releases.slip_layout import count
from diptych.models.io.tensor_files import read_tensors
from diptych.models.pairs.late.embedder import LateEmbedder

SOURCE = "a checkpoint of FILIP by MindFormers"
PLAIN = {
    "image_encoder.conv1.weight": "image_tower.inner.patches.weight", "image_encoder.class_embedding": "image_tower.inner.class_token_D",
    "image_encoder.positional_embedding": "image_tower.inner.position_PD", "image_encoder.proj": "image_tower.joint.weight",
    "text_encoder.embedding_table": "text_tower.embed.weight", "text_encoder.positional_embedding": "text_tower.position_LD",
    "text_encoder.text_projection": "text_projection.weight", "image_encoder.token_learner.attntion_maps.0.weight":
    "image_tower.learner.mix.weight", "image_encoder.token_learner.attntion_maps.1.weight": "image_tower.learner.weigh.weight",
    "image_encoder.token_learner.feat_conv.weight": "image_tower.learner.value.weight",
}  # fmt: skip
NORMS = {
    "image_encoder.ln_pre": "image_tower.inner.norm_before", "image_encoder.ln_post": "image_tower.inner.norm_after",
    "text_encoder.ln_final": "text_tower.norm_after", "image_encoder.token_learner.norm": "image_tower.learner.norm",
}  # fmt: skip
SIDES = {"image_encoder.transformer": "image_tower.inner", "text_encoder.transformer_layer": "text_tower"}
BLOCK = {
    "layernorm1": "norm_1", "layernorm2": "norm_2", "attention.projection": "attention.out", "attention.dense1": "attention.q",
    "attention.dense2": "attention.k", "attention.dense3": "attention.v", "output.mapping": "mlp_in", "output.projection": "mlp_out",
}  # fmt: skip
TURNED = ("attention.projection", "output.mapping", "output.projection")
"""Layers whose matrices MindFormers stores inputs first."""
KINDS = {"gamma": "weight", "beta": "bias"}
_BLOCK = re.compile(r"(.+)\.encoder\.blocks\.(\d+)\.(.+)\.(\w+)")
_SCALE = re.compile(r"loss\.gather_and_compute\.get_(img|txt)_logits\.logit_scale")
_LEFT = re.compile(
    r"(adam_[mv]|moments?|accum)\..+|global_step|learning_rate|scale_sense|current_iterator\w*|last_overflow\w*|\w+_num|beta[12]_power"
)
"""Of the optimiser and of the loss's scaling."""


def open_released(spec: str) -> LateEmbedder:
    """The model of an address of that form. Leaves the torch random state unchanged.

    Raises DataError for a file or folder that is missing or not what it should be, ConfigError for another architecture.
    """
    file, folder = checkpoint_and_encoder(spec, "bert-base-chinese")
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    tensors = read_mindspore(file) if is_mindspore(file) else read_tensors(file)
    words = from_transformers(folder)
    try:
        parts = released_parts(tensors, words.eot_id)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    check_fits(words, parts.text, spec)
    model = load_dual_encoder(parts, str(file))
    preprocess = Preprocess(int(parts.image["image_size"]))
    embedder = LateEmbedder(model, preprocess, words, int(parts.text["length"]), spec)
    embedder.left = parts.left
    return embedder


def released_parts(tensors: Mapping[str, Tensor], eot_id: int) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`. Raises ConfigError for tensors that are not MindFormers' FILIP's."""
    needed = (*PLAIN, "image_encoder.transformer.encoder.blocks.0.output.mapping.weight")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    own, left, strange = dict[str, Tensor](), list[str](), list[str]()
    for name, tensor in tensors.items():
        if name in PLAIN:
            projects = name in ("image_encoder.proj", "text_encoder.text_projection")
            own[PLAIN[name]] = (tensor.T if projects else tensor).float()
        elif ours := _renamed(name):
            turned = any(f".{layer}.weight" in name for layer in TURNED)
            own[ours] = (tensor.T if turned else tensor).float()
        elif (match := _SCALE.fullmatch(name)) and match[1] == "img":
            own["log_scale"] = tensor.reshape(1).float()
        elif _SCALE.fullmatch(name) or _LEFT.fullmatch(name):
            left.append(name)
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"not of FILIP: {first_names(strange)} (expected {SOURCE})")
    image, text = _sizes(tensors, eot_id)
    return DualEncoderParts(
        image=image,
        text=text,
        width=image["out"],
        image_projection="none",
        text_projection="plain",
        tensors=_joined(own),
        left=tuple(left),
    )


def _sizes(tensors: Mapping[str, Tensor], eot_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of both towers."""
    patches, joint = tensors["image_encoder.conv1.weight"], tensors["image_encoder.proj"].shape[1]
    width, patch = patches.shape[0], patches.shape[-1]
    side = patch * round((len(tensors["image_encoder.positional_embedding"]) - 1) ** 0.5)
    inner = {
        "name": "vit", "image_size": side, "patch": patch, "width": width, "heads": max(1, width // 64), "act": "quick_gelu",
        "layers": count(r"image_encoder\.transformer\.encoder\.blocks\.(\d+)\..+", tensors),
        "mlp_ratio": mlp_ratio(width, tensors["image_encoder.transformer.encoder.blocks.0.output.mapping.weight"].shape[1]),
    }  # fmt: skip
    learner = tensors["image_encoder.token_learner.attntion_maps.0.weight"]
    tokens = len(tensors["image_encoder.token_learner.attntion_maps.1.weight"])
    image = {"name": "learned_tokens_image", "inner": inner, "out": joint, "tokens": tokens, "groups": joint // learner.shape[1]}
    rows, words = tensors["text_encoder.embedding_table"].shape
    text = {
        "name": "transformer", "vocab_size": rows, "length": len(tensors["text_encoder.positional_embedding"]), "width": words,
        "layers": count(r"text_encoder\.transformer_layer\.encoder\.blocks\.(\d+)\..+", tensors), "heads": max(1, words // 64),
        "mlp_ratio": mlp_ratio(words, tensors["text_encoder.transformer_layer.encoder.blocks.0.output.mapping.weight"].shape[1]),
        "act": "quick_gelu", "causal": True, "pooling": "eot", "eot_id": eot_id,
    }  # fmt: skip
    return {**image, "image_size": side}, text


def _renamed(name: str) -> str | None:
    head, _, kind = name.rpartition(".")
    if head in NORMS:
        return f"{NORMS[head]}.{KINDS.get(kind, kind)}"
    match = _BLOCK.fullmatch(name)
    if not match or match[1] not in SIDES or match[3] not in BLOCK:
        return None
    return f"{SIDES[match[1]]}.transformer.blocks.{match[2]}.{BLOCK[match[3]]}.{KINDS.get(match[4], match[4])}"


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a block in one matrix."""
    out = dict[str, Tensor]()
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+\.attention)\.([qkv])\.(\w+)", name)
        if not match:
            out[name] = tensor
        elif match[2] == "q":
            parts = [tensors.get(f"{match[1]}.{part}.{match[3]}") for part in "qkv"]
            if any(part is None for part in parts):
                raise ConfigError(f"{name} has no keys or values beside it (expected {SOURCE})")
            out[f"{match[1]}.qkv.{match[3]}"] = torch.cat([part for part in parts if part is not None])
    return out
