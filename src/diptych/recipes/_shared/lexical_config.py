"""Configurations of LexLIP's two phases: hidden words behind the bottleneck, and the momentum model with its queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.models.layers.sparse_queue import Start


@dataclass(frozen=True, slots=True)
class BottleneckConfig:
    """Words that are hidden in the first phase, and the decoder that guesses them.

    weight_words   of the three terms of hidden words
    hidden_own     share of tokens that are hidden from the text encoder; hidden_other from the decoder
    whole_words    hidden words are hidden with all their pieces
    padding_counts  shares are of the padded row, and padding is drawn like words and then not asked for (released); or of the text
    decoder_layers, decoder_heads, decoder_dropout   of the decoder
    """

    weight_words: float = 1.0
    hidden_own: float = 0.3
    hidden_other: float = 0.5
    whole_words: bool = True
    padding_counts: bool = False
    decoder_layers: int = 2
    decoder_heads: int = 12
    decoder_dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class MomentumConfig:
    """The momentum model of the second phase, and what it remembers.

    momentum_steps  above 0, `epochs` counts passes of the first phase, and the second has so many steps
    momentum_batch  of the second phase; 0 takes batch_size
    momentum       of the momentum model
    momentum_start  it begins as the "model" that the first phase left, or "fresh" (released: as the weights from which that phase began)
    momentum_dropout  it has dropout in training (released)
    momentum_behind  it follows the weights that a step began with (released, at the price of a further copy), and not those that it left
    queue          items of either modality that are remembered
    queue_start    "empty", or "random" unit vectors (released)
    """

    momentum_steps: int = 0
    momentum_batch: int = 0
    momentum: float = 0.99
    momentum_start: Literal["model", "fresh"] = "model"
    momentum_dropout: bool = False
    momentum_behind: bool = False
    queue: int = 11_520
    queue_start: Start = "empty"

    def __post_init__(self) -> None:
        if self.momentum_start not in ("model", "fresh"):
            raise ConfigError(f"momentum_start is {self.momentum_start!r} (expected model | fresh)")
