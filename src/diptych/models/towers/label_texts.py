"""Convert label names to the input of a label encoder.

Letters: N labels, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.graphs.label_lists import NO_OBJECTS
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io import weights


class LabelTexts(Protocol):
    """Converter of names to the input of one kind of label encoder;
    `label_texts` restores it from `spec` and the output of `save`.
    """

    @property
    def spec(self) -> dict[str, Any]: ...

    def __call__(self, labels: Sequence[str]) -> tuple[Tensor, Tensor | None]: ...

    def save(self, folder: Path) -> None: ...


class TokenTexts:
    """Token ids [N, L] and their mask, padded to the longest label, for text towers."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    @property
    def spec(self) -> dict[str, Any]:
        return {"kind": "tokens", "length": self.length}

    def __call__(self, labels: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        encoded = self.tokenizer.encode(list(labels), self.length)
        longest = int(encoded.mask_BL.sum(1).max())
        return torch.from_numpy(encoded.ids_BL[:, :longest]), torch.from_numpy(encoded.mask_BL[:, :longest])

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)


class VectorTexts:
    """Vectors [N, D] of a frozen sentence encoder (`weights.text`)."""

    def __init__(self, encoder: weights.FrozenTextEncoder) -> None:
        self.encoder = encoder

    @property
    def spec(self) -> dict[str, Any]:
        return {"kind": "vectors", "encoder": self.encoder.spec}

    def __call__(self, labels: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return torch.from_numpy(self.encoder.encode_texts(list(labels))), None

    def save(self, folder: Path) -> None:
        """Write nothing: the encoder is part of a package."""


class IndexTexts:
    """Index of each name in a fixed list, [N, 1], for free vectors. The background is the last index."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.number = {name: row for row, name in enumerate((*self.names, NO_OBJECTS))}

    @property
    def spec(self) -> dict[str, Any]:
        return {"kind": "numbers", "names": list(self.names)}

    def __call__(self, labels: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        for label in labels:
            if label not in self.number:
                raise UnknownName("label", label, self.number, hint="a table of free vectors has no other names")
        return torch.tensor([[self.number[label]] for label in labels]), None

    def save(self, folder: Path) -> None:
        """Write nothing: the names are in config.json."""


def label_texts(spec: dict[str, Any], folder: Path) -> LabelTexts:
    """Return label texts from `spec` and the folder that `save` wrote. Raises ConfigError for an unknown kind."""
    kind = spec.get("kind")
    if kind == "tokens":
        return TokenTexts(Tokenizer.load(folder), spec["length"])
    if kind == "vectors":
        return VectorTexts(weights.text(**spec["encoder"]))
    if kind == "numbers":
        return IndexTexts(spec["names"])
    raise ConfigError(f"{folder}: unknown kind of label texts {kind!r} (expected tokens | vectors | numbers)")
