"""CTP's released checkpoints as dual encoders: "ctp:FILE#BERT-FOLDER", FOLDER with the tokenizer and config.json of bert-base-chinese.

Image side: BLIP's vision transformer. Text side: the lower half of BERT, which reads texts alone; the upper half, which reads
pictures too, the word head and the queues are of training and are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.models.detection.checkpoint import checkpoint_and_encoder, first_names
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.releases.slip_layout import count, slip_image_name, slip_image_tensor
from diptych.models.io.tensor_files import read_tensors
from diptych.models.pairs.embedder import PairEmbedder

SOURCE = "a released checkpoint of CTP"
LENGTH = 30
IMAGE, TEXT, TWIN = "visual_encoder.", "text_encoder.", "text_mlm_encoder."
PROJECTIONS = {"vision_proj": "image_projection", "text_proj": "text_projection"}
LEFT = re.compile(r"text_mlm_encoder\..+|distill_temp|(image|text)_queue|queue_ptr|text_encoder\.pooler\..+")
"""Used only in training: BERT a second time with its word head, queues, the temperature of distillation."""
_LAYER = re.compile(r"text_encoder\.encoder\.layer\.(\d+)\..+")


def open_released(spec: str) -> PairEmbedder:
    """The dual encoder of "ctp:FILE#BERT-FOLDER". Leaves the torch random state unchanged.

    Raises DataError for a file or folder that is missing or not what it should be, ConfigError for an address without both.
    """
    file, folder = checkpoint_and_encoder(spec, "bert-base-chinese")
    if not Path(file).is_file():
        raise DataError("there is no such file", file=file, expected=SOURCE)
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(file).items()}
    words = from_transformers(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        parts = released_parts(tensors, settings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    check_fits(words, parts.text, spec)
    side = int(parts.image["image_size"])
    model = load_dual_encoder(parts, str(file))
    embedder = PairEmbedder(model, Preprocess(side, resize="squash"), words, LENGTH, spec)
    embedder.left = parts.left
    return embedder


def released_parts(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`; `settings` of the BERT in its folder. Raises ConfigError for tensors that are not CTP's."""
    needed = (
        f"{IMAGE}patch_embed.proj.weight",
        f"{IMAGE}pos_embed",
        "vision_proj.weight",
        f"{TEXT}embeddings.word_embeddings.weight",
    )
    if lost := [name for name in needed if name not in tensors]:
        raise ConfigError(f"not in the file: {first_names(lost)} (expected {SOURCE})")
    crossing = [int(match[1]) for name in tensors if ".crossattention." in name and (match := _LAYER.fullmatch(name))]
    depth = min(crossing, default=count(r"text_encoder\.encoder\.layer\.(\d+)\..+", tensors))
    own, left, strange = dict[str, Tensor](), list[str](), list[str]()
    for name, tensor in tensors.items():
        head = name.partition(".")[0]
        layer = _LAYER.fullmatch(name)
        if LEFT.fullmatch(name) or (layer and int(layer[1]) >= depth):
            left.append(name)
        elif name.startswith(IMAGE):
            own[f"image_tower.{slip_image_name(name.removeprefix(IMAGE))}"] = slip_image_tensor(name, tensor)
        elif name.endswith("position_ids"):
            continue
        elif name.startswith(TEXT):
            own[f"text_tower.net.{name.removeprefix(TEXT)}"] = tensor
        elif head in PROJECTIONS:
            own[name.replace(head, PROJECTIONS[head])] = tensor
        elif name == "temp":
            own["log_scale"] = -tensor.log().reshape(1)
        else:
            strange.append(name)
    if strange:
        raise ConfigError(f"not of CTP: {first_names(strange)} (expected {SOURCE})")
    patches = tensors[needed[0]]
    width, patch = patches.shape[0], patches.shape[-1]
    words, inner = tensors[needed[3]].shape
    sizes = {"vocab_size": words, "hidden_size": inner, "num_hidden_layers": depth, "model_type": "bert"}
    sizes |= {"max_position_embeddings": len(tensors[f"{TEXT}embeddings.position_embeddings.weight"])}
    return DualEncoderParts(
        image={
            "name": "slip_b16",
            "image_size": patch * round((tensors[needed[1]].shape[1] - 1) ** 0.5),
            "patch": patch,
            "width": width,
            "layers": count(r"visual_encoder\.blocks\.(\d+)\..+", tensors),
            "heads": max(1, width // 64),
        },
        text={"name": "hf", "config": {**plain(settings), **sizes}, "pooling": "cls", "length": LENGTH},
        width=len(tensors["vision_proj.weight"]),
        image_projection="bias",
        text_projection="bias",
        tensors=own,
        left=tuple(left),
    )
