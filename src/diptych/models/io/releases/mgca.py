"""MGCA's released checkpoints (Wang et al., 2022, 2210.06044) as dual encoders: "mgca:FILE#FOLDER".

FILE is a checkpoint of Lightning with either image side, a vision transformer or ResNet-50. FOLDER has the tokenizer of its text encoder,
Bio_ClinicalBERT, and its config.json. Texts were lower-cased words without punctuation in training, and the word embeddings have no token
types. What aligns words with patches and with prototypes is used only in training and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import HALF, Preprocess
from diptych.models.detection.checkpoint import checkpoint_and_encoder, first_names
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.releases.slip_layout import count
from diptych.models.io.tensor_files import read_tensors
from diptych.models.pairs.embedder import PairEmbedder

SOURCE = "a released checkpoint of MGCA"
LENGTH, PADDED, SIDE, ENLARGED = 112, 256, 224, 299
"""Text tokens; pixels per side of the padded image, of what is cut out of it, and of what ResNet-50 enlarges that to."""
IMAGE, TEXT = "img_encoder_q.", "text_encoder_q."
VISIONS = {768: "vit_base_patch16_224", 1024: "vit_large_patch16_224", 64: "test_vit"}
"""Width of a vision transformer -> timm's name."""
NETWORKS = {2048: "resnet50", 512: "resnet18"}
"""Channels of a residual network's last map -> timm's name."""
TOP = {
    f"{IMAGE}model.": "image_tower.inner.net.",
    f"{IMAGE}global_embed.head.": "image_tower.head.",
    f"{TEXT}model.": "text_tower.inner.net.",
    f"{TEXT}global_embed.head.": "text_tower.head.",
}
LEFT = re.compile(
    r"(img|text)_encoder_q\.local_embed\..+|(patch|word)_local_atten_layer\..+|prototype_layer\.weight"
    r"|text_encoder_q\.model\.(pooler\..+|.+\.crossattention\..+|embeddings\.position_ids)"
)
"""Used only in training: heads of patches and words, attention between them, prototypes, and layers that would read an image."""


def open_released(spec: str) -> PairEmbedder:
    """The dual encoder of "mgca:FILE#FOLDER". Leaves the torch random state unchanged.

    Raises DataError for a file or folder that is missing or not what it should be, ConfigError for tensors that are not MGCA's.
    """
    file, folder = checkpoint_and_encoder(spec, "Bio_ClinicalBERT")
    if not Path(file).is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    words = from_transformers(folder)
    try:
        parts = released_parts(read_tensors(file), read_object(folder / "config.json"))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    check_fits(words, parts.text, spec)
    preprocess = Preprocess(SIDE, *HALF, "pad", "area", margin=PADDED - SIDE)
    embedder = PairEmbedder(load_dual_encoder(parts, str(file)), preprocess, words, int(parts.text["length"]), spec)
    embedder.left = parts.left
    return embedder


def released_parts(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`; `settings` of the BERT in its folder. Raises ConfigError for tensors that are not MGCA's."""
    needed = [f"{side}global_embed.head.{part}" for side in (IMAGE, TEXT) for part in ("0.weight", "3.weight")]
    needed.append(f"{TEXT}model.embeddings.word_embeddings.weight")
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    own, left, strange = dict[str, Tensor](), list[str](), list[str]()
    for name, tensor in tensors.items():
        start = next((start for start in TOP if name.startswith(start)), "")
        if LEFT.fullmatch(name):
            left.append(name)
        elif start:
            own[TOP[start] + name.removeprefix(start)] = tensor
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"tensor {first_names(strange)} does not belong to MGCA (expected {SOURCE})")
    word_VD = tensors[needed[-1]]
    bert = {**plain(settings), "model_type": "bert", "vocab_size": len(word_VD)}
    bert["num_hidden_layers"] = count(r"text_encoder_q\.model\.encoder\.layer\.(\d+)\..+", tensors)
    kinds = int(bert.get("type_vocab_size", 2))
    own["text_tower.inner.net.embeddings.token_type_embeddings.weight"] = torch.zeros_like(word_VD[:1]).repeat(kinds, 1)
    length = min(LENGTH, int(bert.get("max_position_embeddings", 512)))
    image_head, text_head = ({"kind": "normed_mlp", "middle": len(tensors[name])} for name in (needed[0], needed[2]))
    width = len(tensors[needed[1]])
    return DualEncoderParts(
        image={"name": "headed_image", "inner": _image_side(tensors), "hidden": width, "image_size": SIDE, **image_head},
        text={
            "name": "headed_text",
            "inner": {"name": "hf", "config": bert, "pooling": "cls", "length": length},
            "hidden": width,
            "length": length,
            "vocab_size": len(word_VD),
            **text_head,
        },
        width=width,
        image_projection="none",
        text_projection="none",
        tensors=own,
        left=tuple(left),
    )


def _image_side(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the tower that the file holds."""
    width = tensors[f"{IMAGE}global_embed.head.0.weight"].shape[1]
    transformer = f"{IMAGE}model.cls_token" in tensors
    names = VISIONS if transformer else NETWORKS
    if width not in names:
        raise ConfigError(f"the image side is {width} wide (expected {' | '.join(map(str, names))})")
    enlarged = {} if transformer else {"enlarged": ENLARGED}
    return {"name": f"timm:{names[width]}", "image_size": SIDE, **enlarged}
