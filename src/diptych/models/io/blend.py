"""Means of models' weights: of two (WiSE-FT; Wortsman et al., 2021, 2109.01903), between a published model and its tuned one, or of several
that were tuned from one start (model soups; Wortsman et al., 2022, 2203.05482)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.pairs.embedder import PairEmbedder


def blended(first: PairEmbedder, second: PairEmbedder, share: float) -> PairEmbedder:
    """(1 - share) of the first model's tensors and `share` of the second's, the temperature in log space and running statistics too.

    Integer tensors are the second's. Everything beside the weights is the second's. Raises ConfigError for models of other architecture,
    tokenizer or preprocessing, whose mean has no meaning.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share} (expected between 0, the first model, and 1, the second)")
    _refuse_unlike(first, second)
    made = copy.copy(second)
    made.model = copy.deepcopy(second.model)
    start: dict[str, Tensor] = first.model.state_dict()
    with torch.no_grad():
        for name, tensor in made.model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.lerp(start[name].to(tensor), tensor, share))
    vars(made).pop("fingerprint", None)  # it was that of the second
    made.name = f"{share:g} of {second.name}, {1 - share:g} of {first.name}"
    return made


def averaged(models: Sequence[PairEmbedder]) -> PairEmbedder:
    """Uniform mean of several models' tensors, the temperature in log space and running statistics too.

    Integer tensors and everything beside the weights are the first model's. Raises ConfigError for none, or models of other architecture,
    tokenizer or preprocessing.
    """
    if not models:
        raise ConfigError("there is no model to average (expected one or more)")
    first = models[0]
    made = copy.copy(first)
    made.model = copy.deepcopy(first.model)
    states: list[dict[str, Tensor]] = []
    for other in models:
        _refuse_unlike(first, other)
        states.append(other.model.state_dict())
    with torch.no_grad():
        for name, tensor in made.model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([state[name].to(tensor.device, torch.float64) for state in states]).mean(0))
    vars(made).pop("fingerprint", None)  # it was that of the first
    made.name = first.name if len(models) == 1 else f"mean of {', '.join(model.name for model in models)}"
    return made


def _refuse_unlike(first: PairEmbedder, second: PairEmbedder) -> None:
    mine, other = first.model.state_dict(), second.model.state_dict()
    if strange := sorted(mine.keys() ^ other.keys()):
        side = first.name if strange[0] in mine else second.name
        raise ConfigError(f"the models cannot be blended: only '{side}' has a tensor '{strange[0]}' (expected one architecture)")
    for name, tensor in mine.items():
        if tensor.shape != other[name].shape:
            sizes = f"'{name}' is {list(tensor.shape)} in '{first.name}' and {list(other[name].shape)} in '{second.name}'"
            raise ConfigError(f"the models cannot be blended: {sizes}")
    if first.tokenizer.to_json() != second.tokenizer.to_json():
        raise ConfigError(
            "the models cannot be blended: they have different tokenizers, so that their word vectors mean other words"
        )
    # A run that started from a folder of transformers may round an odd margin otherwise: one pixel, and no other picture.
    if replace(first.preprocess, rounding=second.preprocess.rounding) != second.preprocess:
        raise ConfigError("the models cannot be blended: they see pictures in different sizes or colours (preprocessing)")
