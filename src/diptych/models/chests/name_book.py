"""Vectors of names and explanations by a frozen text encoder, used as initial queries of an image.  Letters: N texts, E width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.core.registry import TEXT_WEIGHTS
from diptych.models.io import weights
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.towers.name_vectors import RANDOM, name_vectors
from diptych.models.towers.packaged.hf_text import TransformersText

EXPECTED = "hf:FOLDER or hf-bare:FOLDER of a BERT, minilm-l6, or random:64"


def book_vectors(texts: Sequence[str], source: str, *, length: int = 128) -> Tensor:
    """Return vectors float32 [N, E] of texts. Raises ConfigError for an unknown source. Sources:

    hf:FOLDER   the state of [CLS] in the last layer of a transformers folder, not normalised
    hf-bare:FOLDER  the same for texts without the final [SEP], as in MeDSLIP's tokenizer
    minilm-l6   or another packaged sentence encoder: unit-norm vectors
    random:E    the mean of one random vector per word: without meaning, but names may share words
    """
    kind, _, rest = source.partition(":")
    if kind in ("hf", "hf-bare") and rest:
        folder = Path(rest).expanduser()
        tower = TransformersText.from_folder(folder, pooling="cls", length=length).eval()
        words = from_transformers(folder)
        words.bare = kind == "hf-bare"
        encoded = words.encode(list(texts), length)
        with torch.inference_mode():
            vector_NE: Tensor = tower(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)).pooled_BD
        return vector_NE.clone()
    if kind == RANDOM and rest.isdigit() and int(rest):
        return name_vectors([text.lower().rstrip(". ") for text in texts], RANDOM, rule="mean", width=int(rest))
    if source in TEXT_WEIGHTS:
        return torch.from_numpy(np.array(weights.text(source, length=length).encode_texts(list(texts)), np.float32))
    raise ConfigError(f"book_encoder is {source!r} (expected {EXPECTED})")


def read_book(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read findings with their explanations, and places, from a JSON file. Raises DataError for an invalid format."""
    values = read_object(path)
    findings, sites = values.get("findings"), values.get("places")
    if not isinstance(findings, dict) or not isinstance(sites, list) or len(findings) < 2 or len(sites) < 2:
        raise DataError(
            "contains no book", file=path, expected='{"findings": {"nodule": "a round ..."}, "places": ["left lung", ...]}'
        )
    return {str(name): str(text) for name, text in findings.items()}, tuple(map(str, sites))
