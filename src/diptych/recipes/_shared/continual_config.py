"""Configurations of continual pre-training (CTP): tasks, buffer, momentum model, weights of the losses, and hidden words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.models.layers.feature_queue import Start


@dataclass(frozen=True, slots=True)
class TaskSplit:
    """Tasks of a stream, by a metadata column.

    column         metadata columns that may tell tasks apart; the first that every sample has is taken
    order          its values in the order of the tasks; empty takes all, sorted
    at_most        so many tasks, neighbouring values sharing one; 0 gives each value its own
    """

    column: tuple[str, ...] = ("task", "industry_name")
    order: tuple[str, ...] = ()
    at_most: int = 0


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """Samples of earlier tasks that are trained on again.

    buffer         how many (10,000 in the released CTP_ER); 0 keeps no data
    buffer_seed    another one, another reservoir
    replays        "shared": a run has the steps that it has without a buffer; "added": its epochs are longer by the samples that are
                   replayed, and the prepared `epochs` say by how much. Steps that are given stay
    """

    buffer: int = 0
    buffer_seed: int = 0
    replays: Literal["shared", "added"] = "shared"

    def __post_init__(self) -> None:
        if self.buffer < 0:
            raise ConfigError(f"buffer is {self.buffer} (expected 0 or more samples)")
        if self.replays not in ("shared", "added"):
            raise ConfigError(f"replays is {self.replays!r} (expected shared | added)")


@dataclass(frozen=True, slots=True)
class CompatibleMomentum:
    """Momentum model, and the keys that features are contrasted with.

    momentum       of the momentum model in the first task
    compatible     later: shares of the momentum model itself, of the trained model and of the reference
    queue          keys of either modality that are remembered; 0 contrasts with the batch alone
    queue_start    "random" unit vectors (released), or "empty"
    keys           "gathered" from all processes, or each process's "own"
    """

    momentum: float = 0.995
    compatible: tuple[float, float, float] = (0.9, 0.05, 0.05)
    queue: int = 1024
    queue_start: Start = "random"
    keys: Literal["gathered", "own"] = "gathered"

    def __post_init__(self) -> None:
        if abs(sum(self.compatible) - 1) > 1e-6 or min(self.compatible) < 0:
            raise ConfigError(f"compatible is {self.compatible} (expected three shares with the sum 1)")


@dataclass(frozen=True, slots=True)
class ContinualWeights:
    """Weights of the four terms beside the contrast; with all at 0 and `fusion_layers` 0 this is plain fine-tuning."""

    weight_momentum: float = 1.0
    weight_topology: float = 1.0
    weight_words: float = 1.0
    weight_distilled: float = 1.0


@dataclass(frozen=True, slots=True)
class FusedWordsConfig:
    """Hidden words, and the blocks over words and image that guess them.

    fusion_layers  blocks over words and image; 0 leaves the guessing out
    fusion_heads   their attention heads
    class_token    those blocks read the class token, too, as released
    masked         share of words that are hidden
    masking        "each" word by its own chance, the mark at the end among them, as released; or exactly the "share" of each text's words.
                   With a vocabulary that has [MASK] that token stands for them, else a learned vector
    """

    fusion_layers: int = 6
    fusion_heads: int = 12
    class_token: bool = True
    masked: float = 0.15
    masking: Literal["each", "share"] = "each"

    def __post_init__(self) -> None:
        if self.masking not in ("each", "share"):
            raise ConfigError(f"masking is {self.masking!r} (expected each | share)")
