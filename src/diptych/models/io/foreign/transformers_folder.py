"""Load transformers folders of dual encoders as trainable embedders (`transformers_layout.FAMILIES`)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.parts import DualEncoderParts, load_dual_encoder
from diptych.models.io.foreign.preprocess import from_processor
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.io.foreign.transformers_library import BY_TYPE
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.packaged.hf_text import silence_transformers


def open_folder(folder: Path, spec: str) -> PairEmbedder:
    """Load the model, image settings and tokenizer of a folder that transformers saved.

    Raises ConfigError for another family, and DataError for a folder that lacks a file or a tensor, or has one of another size.
    """
    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = plain.get("model_type", "")
    if kind not in FAMILIES:
        own = next(iter((plain.get("auto_map") or {}).values()), "")
        why = f", a model of the code of the folder ({own}), which is not run" if own else ""
        raise ConfigError(f"{spec}: model_type is {kind!r}{why} (expected {' | '.join((*FAMILIES, *BY_TYPE))})")
    family = FAMILIES[kind]
    named = next(iter(plain.get("architectures") or ()), "")
    name = named if named in family.classes else family.classes[0]
    if named and named not in family.classes:
        raise ConfigError(
            f"{spec}: architecture {named} has no two sides that are compared (expected {' | '.join(family.classes)})"
        )
    config, tensors = _loaded(folder, name)
    preprocess = from_processor(folder, kind)
    tokenizer = from_transformers(folder)
    parts = _sized(family.parts(config, tensors, name), tokenizer, preprocess.size, spec)
    check_fits(tokenizer, parts.text, spec)
    model = load_dual_encoder(parts, str(folder))
    positions = int(config["text_config"]["max_position_embeddings"])
    length = min(family.text_length or positions, positions - int(kind == "altclip") * 2)  # XLM-R counts positions from 2
    embedder = PairEmbedder(model, preprocess, tokenizer, length, spec)
    embedder.left = parts.left
    return embedder


def _sized(parts: DualEncoderParts, tokenizer: Tokenizer, size: int, spec: str) -> DualEncoderParts:
    """Complete parts with settings of the processor: padding that a text tower attends to, and the image size of convolutions."""
    image, text = dict(parts.image), dict(parts.text)
    if text.get("pooling") == "last":
        text["pad_id"] = tokenizer.pad_id
    if image["name"] == "hf_image" and image["config"]["model_type"] == "align_vision_model":
        image["image_size"] = size
    if image["image_size"] != size:
        raise ConfigError(
            f"{spec}: its processor makes images of {size} pixels and its image tower reads {image['image_size']} "
            "(expected the preprocessor_config.json that belongs to the weights)"
        )
    return replace(parts, image=image, text=text)


def _loaded(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load the configuration with all defaults, and tensors in float32, as transformers does,
    including sharded files and older names.
    """
    import transformers

    kind: Any = getattr(transformers, name)
    try:
        with silence_transformers():
            options = {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below
            model, report = kind.from_pretrained(str(folder), **options)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"not read: {reason[:200]}", file=folder, expected=f"the weights of a {name}") from error
    if report["mismatched_keys"]:
        first = min(report["mismatched_keys"])
        raise DataError(f"{first[0]} is {list(first[1])}", file=folder, expected=f"{list(first[2])}, as in config.json")
    if missing := [key for key in report["missing_keys"] if not key.endswith("position_ids")]:
        raise DataError(f"tensor {min(missing)} is missing", file=folder, expected=f"the weights of a {name}")
    config: dict[str, Any] = model.config.to_dict()
    return config, {key: tensor.float() for key, tensor in model.state_dict().items()}
