"""Configurations of mBLIP's training: languages of captions, low-rank adapters, and the stage of the projection alone."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.errors import ConfigError

REQUESTS = (
    "Caption the image in {language}.",
    "Short {language} image caption: ",
    "Image caption (in {language}): ",
    "Briefly describe the image in {language}.",
    "Write a short {language} image description.",
    "Summarize the image in {language}.",
)
"""As published (Geigle et al., 2023); the release has their translations beside them, which are not shipped here."""


@dataclass(frozen=True, slots=True)
class CaptionLanguages:
    """Languages of the captions, and how they are asked for.

    languages  tags of the languages that are drawn, of those that an image has; () takes all that it has
    weights    of these languages, published: their shares of mC4; () for equal ones
    requests   what asks for a caption in training, with the language's name: one for a sample, always the same, where the release takes
               them in turn; () for `request` alone
    request    what asks for a caption in use, as where the release is evaluated
    """

    languages: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    requests: tuple[str, ...] = REQUESTS
    request: str = "Caption in {language}:"

    def __post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.languages) or min(self.weights) <= 0):
            raise ConfigError(
                f"{len(self.weights)} weights for {len(self.languages)} languages (expected one above 0 for each, or none)"
            )


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Low-rank adapters of the language model.

    adapter_rank, adapter_alpha, adapter_dropout   rank, factor, dropout; rank 0 for none
    adapter_targets  patterns of the modules that get one; (): every linear map but the one that gives words
    """

    adapter_rank: int = 8
    adapter_alpha: float = 16.0
    adapter_dropout: float = 0.05
    adapter_targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlignmentRates:
    """The stage of the projection alone, and rates beside `lr`, which is that of the adapters.

    warm_share  share of the steps for the projection alone
    warm_lr     rate of that stage
    visual_lr   of Q-Former and projection in the second stage
    """

    warm_share: float = 0.1
    warm_lr: float = 5e-3
    visual_lr: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.warm_share < 1:
            raise ConfigError(f"warm_share is {self.warm_share} (expected 0 or more and below 1)")
