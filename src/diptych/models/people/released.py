"""PLIP's released model of persons: "plip_person:FILE#BERT-FOLDER", FOLDER with the tokenizer and config.json of bert-base-uncased.

The file holds two state dicts: of CLIP's residual network over tall pictures, and of BERT with its pooling layer; neither is projected
further, and there is no temperature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess, Triple
from diptych.models.detection.checkpoint import checkpoint_and_encoder, first_names
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import plain
from diptych.models.io.tensor_files import read_content
from diptych.models.people.person_embedder import PersonEmbedder

SOURCE = "the released PLIP, with ImgEncoder_state_dict and TxtEncoder_state_dict"
MEAN: Triple = (0.357, 0.323, 0.328)
STD: Triple = (0.252, 0.242, 0.239)
LENGTH, HEADS, STRIDE = 64, 8, 32


def open_released(spec: str) -> PersonEmbedder:
    """The dual encoder of an address of that form. Leaves the torch random state unchanged.

    Raises DataError for a file or folder that is missing or not what it should be, ConfigError for another architecture.
    """
    file, folder = checkpoint_and_encoder(spec, "bert-base-uncased")
    content = read_content(file)
    entries = content if isinstance(content, dict) else {}
    sides = [side for name in ("Img", "Txt") if isinstance(side := entries.get(f"{name}Encoder_state_dict"), dict)]
    if len(sides) != 2:
        raise DataError("does not contain two encoders", file=file, expected=SOURCE)
    words = from_transformers(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    image, text = ({name.removeprefix("module."): tensor for name, tensor in side.items()} for side in sides)
    try:
        parts = released_parts(image, text, settings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    check_fits(words, parts.text, spec)
    width, height = int(parts.image["image_size"]), int(parts.image["image_height"])
    preprocess = Preprocess(width, MEAN, STD, resize="squash", height=height)
    return PersonEmbedder(load_dual_encoder(parts, str(file)), preprocess, words, int(parts.text["length"]), spec)


def released_parts(image: Mapping[str, Tensor], text: Mapping[str, Tensor], settings: Mapping[str, Any]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`; `settings` of the BERT in its folder. Raises ConfigError for tensors that are not PLIP's."""
    table = "encoder.embeddings.word_embeddings.weight"
    needed = [name for name in ("conv1.weight", "attnpool.positional_embedding", "attnpool.c_proj.weight") if name not in image]
    needed += [name for name in (table, "encoder.pooler.dense.weight") if name not in text]
    if needed:
        raise ConfigError(f"not in the file: {first_names(needed)} (expected {SOURCE})")
    if strange := [name for name in text if not name.startswith("encoder.")]:
        raise ConfigError(f"not of PLIP: {first_names(strange)} (expected {SOURCE})")
    across = round(((len(image["attnpool.positional_embedding"]) - 1) / 2) ** 0.5)  # twice as high as wide
    out = len(image["attnpool.c_proj.weight"])
    stages = (len({match[1] for name in image if (match := re.match(rf"layer{stage}\.(\d+)\.", name))}) for stage in (1, 2, 3, 4))
    words = {name.removeprefix("encoder."): tensor for name, tensor in text.items() if not name.endswith("position_ids")}
    config = {**plain(settings), "model_type": "bert", "vocab_size": len(text[table]), "hidden_size": text[table].shape[1]}
    return DualEncoderParts(
        image={
            "name": "resnet_clip_50",
            "image_size": STRIDE * across,
            "image_height": 2 * STRIDE * across,
            "depths": tuple(stages),
            "width": 2 * len(image["conv1.weight"]),
            "heads": HEADS,
            "out": out,
        },
        text={"name": "hf", "config": config, "pooling": "pooler", "length": LENGTH},
        width=out,
        image_projection="none",
        text_projection="none",
        tensors=from_open_clip({f"visual.{name}": tensor for name, tensor in image.items()})
        | {f"text_tower.net.{name}": tensor for name, tensor in words.items()},
    )
