"""Read folders in open_clip's format: open_clip_config.json, weights and tokenizer, such as BiomedCLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file
from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import SIDE_FILES

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
BERT_BASE = {
    f"microsoft/BiomedNLP-{name}-base-uncased-{corpus}": {"model_type": "bert", "vocab_size": 30_522}
    for name in ("BiomedBERT", "PubMedBERT")
    for corpus in ("abstract", "abstract-fulltext")
}
"""Configuration of text encoders that need no folder: BERT-base, for which BiomedCLIP's folder has only the name."""
_ENCODER_IDLE = ("architectures", "torch_dtype", "dtype", "_name_or_path")


def is_open_clip_folder(path: str) -> bool:
    """Return True for a folder with open_clip's configuration."""
    return bool(path) and is_file(Path(path).expanduser() / CONFIG)


def folder_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (model_cfg, preprocess_cfg) of a folder. Raises DataError for a configuration without architecture."""
    content = read_object(folder / CONFIG)
    settings = content.get("model_cfg", content)
    if not isinstance(settings, dict) or not all(key in settings for key in ("embed_dim", "vision_cfg", "text_cfg")):
        raise DataError("has no architecture", file=folder / CONFIG, expected="model_cfg with embed_dim, vision_cfg and text_cfg")
    preprocess = content.get("preprocess_cfg") or {}
    return settings, {key: value for key, value in preprocess.items() if value is not None}


def folder_weights(folder: Path) -> Path:
    """Return the file of the weights. Raises DataError if there is none."""
    for name in WEIGHTS:
        if is_file(folder / name):
            return folder / name
    raise DataError("no weights", file=folder, expected=" or ".join(WEIGHTS))


def tokenizer_folder(folder: Path, words: Mapping[str, Any], given: str) -> Path | None:
    """Return the folder of the tokenizer: the one after "#", else this one; None for CLIP's own,
    which plain architectures use.
    """
    if given:
        return Path(given).expanduser()
    sides = [read_object(folder / name) for name in SIDE_FILES if is_file(folder / name)]
    ours = any("diptych" in side for side in sides)
    return folder if ours or words.get("hf_tokenizer_name") or words.get("hf_model_name") else None


def encoder_settings(spec: str, folder: Path, words: Mapping[str, Any], given: str) -> dict[str, Any] | None:
    """Return the configuration of the text encoder of transformers; None if the architecture has another."""
    name = str(words.get("hf_model_name") or "")
    if not name:
        return None
    for source in (given, str(folder)):
        if (
            source
            and is_file(path := Path(source).expanduser() / "config.json")
            and "model_type" in (config := read_object(path))
        ):
            return {key: value for key, value in config.items() if key not in _ENCODER_IDLE}
    if name in BERT_BASE:
        return dict(BERT_BASE[name])
    raise ConfigError(f"{spec} needs the configuration of {name}: pass {spec.partition('#')[0]}#FOLDER with its config.json")
