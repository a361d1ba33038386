"""Sizes of a Q-Former (BLIP-2, 2301.12597), and the configuration of one that is trained, as `instructblip` and `mblip` have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class QFormerSize:
    """Sizes of a Q-Former that stays as it is.

    former_width, former_layers, former_heads, former_mlp   of the Q-Former; published: BERT-base
    """

    former_width: int = 768
    former_layers: int = 12
    former_heads: int = 12
    former_mlp: int = 3072

    def settings(self) -> dict[str, Any]:
        """Arguments of `Blip2QFormerConfig` and `InstructBlipQFormerConfig` of transformers."""
        return {
            "hidden_size": self.former_width,
            "num_hidden_layers": self.former_layers,
            "num_attention_heads": self.former_heads,
            "intermediate_size": self.former_mlp,
        }


@dataclass(frozen=True, slots=True)
class QFormerConfig(QFormerSize):
    """Sizes of a Q-Former that learns, its dropout and its start.

    former_width, former_layers, former_heads, former_mlp, former_dropout   of the Q-Former; published: BERT-base
    former_every    queries look at the image in every so many-th layer, from the first on; published: in every second
    former_init     standard deviation of fresh weights; published: 0.02, at a width of 768
    """

    former_dropout: float = 0.1
    former_every: int = 2
    former_init: float = 0.02

    def __post_init__(self) -> None:
        if self.former_every < 1:
            raise ConfigError(f"former_every is {self.former_every} (expected 1 or more)")
        if self.former_init <= 0:
            raise ConfigError(f"former_init is {self.former_init} (expected above 0)")

    def settings(self) -> dict[str, Any]:
        """Arguments of `Blip2QFormerConfig` and `InstructBlipQFormerConfig` of transformers."""
        return {
            **QFormerSize.settings(self),
            "hidden_dropout_prob": self.former_dropout,
            "attention_probs_dropout_prob": self.former_dropout,
            "cross_attention_frequency": self.former_every,
            "initializer_range": self.former_init,
        }


TINY_QFORMER = QFormerConfig(
    former_width=64, former_layers=2, former_heads=4, former_mlp=128, former_dropout=0.0, former_every=1, former_init=0.07
)
"""Two layers, for two cores."""
