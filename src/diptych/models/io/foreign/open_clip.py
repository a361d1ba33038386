"""Load models of open_clip, from an architecture with a weight file or from a published folder, as trainable embedders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.cleaners import Clean
from diptych.models.io.foreign.hub_folder import hub_folder
from diptych.models.io.foreign.open_clip_folder import encoder_settings, folder_settings, folder_weights, tokenizer_folder
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import load_dual_encoder
from diptych.models.io.foreign.preprocess import from_open_clip
from diptych.models.io.foreign.tokenizer import check_fits, from_transformers
from diptych.models.io.tensor_files import chosen_weights, read_tensors
from diptych.models.pairs.embedder import PairEmbedder


def open_architecture(spec: str, arch: str, weights: str, *, download: bool = False) -> PairEmbedder:
    """Load an architecture with the weights of a file, of a tag (with `download`), or newly initialised ("random").

    Architectures with a tokenizer or text encoder of transformers need its folder: FILE#FOLDER,
    with config.json and tokenizer.json. With `download` it is found by its name.
    """
    import open_clip

    if arch not in open_clip.list_models():
        raise UnknownName("open_clip architecture", arch, open_clip.list_models(), hint="open_clip.list_models() lists them")
    settings: dict[str, Any] = open_clip.get_model_config(arch)
    words, (weights, _, given) = settings["text_cfg"], weights.partition("#")
    path, tag = chosen_weights(spec, weights, download, tags=open_clip.list_pretrained_tags_by_model(arch))
    folder = _folder(spec, words, given, download)
    tokenizer = _tokenizer(spec, words, folder)
    encoder = _encoder(words, folder) if words.get("hf_model_name") else None
    tensors = read_tensors(path) if path else _fresh_or_fetched(arch, tag)
    return _embedder(
        spec, settings, tensors, encoder, tokenizer, _preprocess_settings(arch, tag), source=str(path or spec), name=arch
    )


def open_model_folder(spec: str, folder: Path, given: str = "") -> PairEmbedder:
    """Load the model of a folder with open_clip_config.json.

    given  folder of the text encoder's configuration and tokenizer, if they are not in the first
    """
    settings, preprocess = folder_settings(folder)
    words = settings["text_cfg"]
    encoder = encoder_settings(spec, folder, words, given)
    tokenizer = _tokenizer(spec, words, tokenizer_folder(folder, words, given))
    path = folder_weights(folder)
    return _embedder(
        spec, settings, read_tensors(path), encoder, tokenizer, preprocess, source=str(path), name="the folder's configuration"
    )


def _embedder(
    spec: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    encoder: dict[str, Any] | None,
    tokenizer: Tokenizer,
    preprocess: Mapping[str, Any],
    *,
    source: str,
    name: str,
) -> PairEmbedder:
    import open_clip

    parts = open_clip_parts(settings, tensors, encoder)
    check_fits(tokenizer, parts.text, spec)
    try:
        model = load_dual_encoder(parts, source)
    except DataError as error:
        raise DataError(f"not a file of tensors that fit: {error}", file=source, expected=f"a state dict of {name}") from error
    default = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    image_settings = from_open_clip({**default, **preprocess, "size": parts.image["image_size"]})
    embedder = PairEmbedder(model, image_settings, tokenizer, int(settings["text_cfg"].get("context_length", 77)), spec)
    embedder.left = parts.left
    return embedder


def _fresh_or_fetched(arch: str, tag: str | None) -> dict[str, Tensor]:
    import open_clip

    with torch.random.fork_rng(devices=[], enabled=tag is not None):
        inner = open_clip.create_model(arch, pretrained=tag, weights_only=True, pretrained_text=False)
    return dict(inner.float().state_dict())


def _folder(spec: str, words: Mapping[str, Any], given: str, download: bool) -> Path | None:
    """Return the folder of the tokenizer and text encoder of transformers, for architectures with either; None for CLIP's own."""
    names = [str(words[key]) for key in ("hf_model_name", "hf_tokenizer_name") if words.get(key)]
    if not names:
        if given:
            raise ConfigError(f"{spec}: this architecture has its own tokenizer (expected no #FOLDER)")
        return None
    for name in (given, *names):
        if name and (Path(name).expanduser() / "config.json").is_file():
            return Path(name).expanduser()
    if given:
        raise DataError("the folder has no config.json", file=given, expected=f"that of {names[0]}, with its tokenizer")
    if not download:
        base = spec.partition("#")[0]
        raise ConfigError(f"{spec} needs the folder of {names[0]}: pass {base}#FOLDER, or --download to fetch it")
    return hub_folder(spec, names[0], download=True)


def _tokenizer(spec: str, words: Mapping[str, Any], folder: Path | None) -> Tokenizer:
    if folder is None:
        return Tokenizer.from_spec("clip")
    if words.get("tokenizer_mode"):
        raise ConfigError(f"{spec}: tokenizer_mode {words['tokenizer_mode']!r} is not supported (expected the usual one)")
    options = dict(words.get("tokenizer_kwargs") or {})
    cleanings: dict[str, Clean] = {"whitespace": "whitespace", "canonicalize": "canonicalize", "lower": "clip"}
    made = from_transformers(folder, clean=cleanings[options.get("clean", "whitespace")])
    if options.get("strip_sep_token"):  # open_clip replaces it by zeros
        made.suffix = (0,) * len(made.suffix)
    return made


def _encoder(words: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    plain: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in plain.items() if key not in ("architectures", "torch_dtype", "dtype", "_name_or_path")}


def _preprocess_settings(arch: str, tag: str | None) -> dict[str, Any]:
    """Return image settings of the tag; for a file those that all tags of the architecture share, else none."""
    import open_clip

    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(arch)
    keys = ("mean", "std", "interpolation", "resize_mode")
    settings = [
        {key: cfg[key] for key in keys if cfg.get(key) is not None}
        for cfg in (open_clip.get_pretrained_cfg(arch, t) for t in tags)
    ]
    return settings[0] if settings and all(cfg == settings[0] for cfg in settings) else {}
