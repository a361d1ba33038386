"""Convert tokenizers of transformers to our `Tokenizer`: the same ids, saved with a run, usable in loader workers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import SIDE_FILES, Tokenizer
from diptych.data.text.tokens.cleaners import Clean
from diptych.data.text.tokens.sentence_pieces import from_sentence_pieces

PROBES = ("a photo of a cat", "Two dogs, one ball: 3 m!", "une fenêtre bleue", "一只红色的鸟", "")
"""Texts for which ids are compared when a folder is loaded."""

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Files of a tokenizer."""


def from_transformers(folder: Path, *, clean: Clean = "none") -> Tokenizer:
    """Load the tokenizer of a transformers folder.

    clean  cleaning applied to a text first, for tokenizers that transformers calls after its own cleaning
    Raises DataError for a folder without tokenizer, and ConfigError for one whose ids cannot be reproduced.
    """
    config = _side_files(folder)
    if "diptych" in config:  # written by us, with its special tokens
        return Tokenizer.load(folder)
    if config.get("tokenizer_class") in ("SiglipTokenizer", "SiglipTokenizerFast"):
        return _siglip(folder, config)
    if not any((folder / name).is_file() for name in FILES):  # transformers would create an empty one
        raise DataError("it has no tokenizer", file=folder, expected=f"one of {', '.join(FILES)}")
    import transformers

    try:
        theirs: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"no tokenizer could be opened: {reason[:160]}", file=folder, expected="tokenizer.json, or the files of its kind"
        ) from error
    if (backend := getattr(theirs, "backend_tokenizer", None)) is None:
        raise DataError(
            f"{type(theirs).__name__} is not one of the library tokenizers",
            file=folder,
            expected="a folder with a tokenizer.json",
        )
    marks = {
        name: str(value) for name in ("bos_token", "cls_token", "eos_token", "sep_token") if (value := getattr(theirs, name))
    }
    if theirs.pad_token is None:
        raise ConfigError(f"{folder}: the tokenizer has no padding token (expected one in tokenizer_config.json, as pad_token)")
    ours = Tokenizer.from_json(backend.to_str(), str(folder), {**marks, "pad_token": theirs.pad_token})
    ours.pad_id, ours.clean, ours.side = int(theirs.pad_token_id), clean, theirs.padding_side
    _compare(folder, ours, theirs)
    return ours


def _compare(folder: Path, ours: Tokenizer, theirs: Any) -> None:
    if ours.clean != "none":
        return
    for text in PROBES:
        expected = theirs(text)["input_ids"]
        encoded = ours.encode([text], len(expected) + 8)
        ids = encoded.ids_BL[encoded.mask_BL].tolist()
        if ids != expected:
            raise ConfigError(
                f"{folder}: {type(theirs).__name__} reads {text!r} as {expected[:8]} and its tokenizer.json as {ids[:8]} "
                "(expected a tokenizer that puts the same marks around every text)"
            )


def _side_files(folder: Path) -> dict[str, Any]:
    import json

    config: dict[str, Any] = {}
    for name in reversed(SIDE_FILES):
        if (path := folder / name).is_file():
            try:
                config.update(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                raise DataError(f"not JSON: {error}", file=path, expected="the settings of a tokenizer") from error
    return config


def _siglip(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Load SigLIP's tokenizer, whose class in transformers needs another package.

    Texts are lowercased, punctuation is removed, and an end token is appended, which is also the padding token.
    """
    named = {name: config.get(name) or "</s>" for name in ("eos_token", "pad_token")}
    if (file := folder / "tokenizer.json").is_file():
        text = file.read_text(encoding="utf-8")
    elif (file := folder / "spiece.model").is_file():
        text = from_sentence_pieces(file).to_str()
    else:
        raise DataError("it has no tokenizer", file=folder, expected="tokenizer.json or spiece.model")
    ours = Tokenizer.from_json(text, str(file), named)
    pad = named["pad_token"]["content"] if isinstance(named["pad_token"], Mapping) else named["pad_token"]
    if (pad_id := ours.inner.token_to_id(pad)) is None:
        raise ConfigError(f"{folder}: tokenizer.json has no piece {pad!r} (expected the padding of tokenizer_config.json)")
    ours.pad_id, ours.clean = int(pad_id), "siglip"
    return ours


def check_fits(tokenizer: Tokenizer, text: Mapping[str, Any], source: str) -> None:
    """Refuse a tokenizer whose ids or end token do not fit a text tower; `text` are the tower's arguments."""
    vocabulary = (
        text.get("vocab_size") or (text.get("config") or {}).get("vocab_size") or (text.get("encoder") or {}).get("vocab_size")
    )
    if vocabulary is not None and tokenizer.vocab_size > vocabulary:
        raise ConfigError(
            f"{source}: the tokenizer has ids up to {tokenizer.vocab_size - 1} and the text tower {vocabulary} words "
            "(expected the tokenizer that the weights were trained with)"
        )
    if text.get("pooling") == "eot" and tokenizer.eot_id != text["eot_id"]:
        raise ConfigError(
            f"{source}: the text tower pools at id {text['eot_id']} and the tokenizer ends a text with id {tokenizer.eot_id} "
            "(expected the tokenizer that the weights were trained with)"
        )
