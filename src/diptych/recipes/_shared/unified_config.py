"""Configurations of UniPT's parts: pseudo texts, hidden words, guessed patches, fine-tuning, and prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from diptych.core.errors import ConfigError
from diptych.models.people.patch_regressor import Places
from diptych.objectives.pairs.ranking import Cells
from diptych.recipes._shared.texts.pseudo_texts import Texts


@dataclass(frozen=True, slots=True)
class PseudoTextConfig:
    """Sentences that a step reads.

    texts      "pseudo" sentences of the column `pseudo_attributes`, the "captions" of the data, or "auto": the first where a row has them
    templates, exchanged  of the sentences, as in the curation step `pseudo_texts`
    """

    texts: Texts = "auto"
    templates: int = 456
    exchanged: float = 0.5

    def __post_init__(self) -> None:
        if self.texts not in get_args(Texts):
            raise ConfigError(f"texts {self.texts!r} (expected {' | '.join(get_args(Texts))})")


@dataclass(frozen=True, slots=True)
class HiddenWordConfig:
    """Words that are hidden and guessed from the text alone, in pre-training.

    weight_words    of the term (beta); 0 leaves it out
    share_words     share of the words that are hidden, whole words at a time
    padding_counts  the share is of the whole row and padding is drawn with it, as the released collator has it
    words_std       deviation of the word guesser's weights at the start, whose biases are then 0; 0: as PyTorch makes them
    """

    weight_words: float = 1.0
    share_words: float = 0.15
    padding_counts: bool = True
    words_std: float = 0.02


@dataclass(frozen=True, slots=True)
class GuessedPatchConfig:
    """Features of a frozen model that a decoder guesses of hidden and visible patches, in pre-training.

    weight_patches  of the term, in sum of hidden and visible ones; 0 leaves it out
    hidden_patches  the share of patches that the image tower does not see
    teacher         address of a model whose image tower is a vision transformer with patches of our size; "" trains a small one on the
                    rows of the run, for `small_steps`, and keeps it
    teacher_sees    "theirs": pixels as the frozen model is used to them; "ours": as the image tower gets them, as released
    small_steps     of the small teacher, where it is one
    regressor_layers, regressor_heads, regressor_eps, places  of the decoder
    targets         a patch guesses its "own" features, or, as "released", those of the patch before it, and the first the class token's
    """

    weight_patches: float = 1.0
    hidden_patches: float = 0.5
    teacher: str = ""
    teacher_sees: Literal["theirs", "ours"] = "ours"
    small_steps: int = 300
    regressor_layers: int = 8
    regressor_heads: int = 16
    regressor_eps: float = 1e-6
    targets: Literal["own", "released"] = "own"
    places: Places = "rows"

    def __post_init__(self) -> None:
        if self.targets not in ("own", "released"):
            raise ConfigError(f"targets {self.targets!r} (expected own | released)")


@dataclass(frozen=True, slots=True)
class PersonRankingConfig:
    """Terms of fine-tuning: a classifier of persons that both sides share, and a ranking by semi-hard negatives.

    weight_persons, weight_ranking  of the terms
    margin    of the ranking
    mined     "sum" adds up over pairs, as released, or the "mean"
    ranked    "released" charges a text by another pair than the one that was mined (`objectives/pairs/ranking.py`), "paper" by that one
    """

    weight_persons: float = 1.0
    weight_ranking: float = 1.0
    margin: float = 0.2
    mined: Literal["mean", "sum"] = "sum"
    ranked: Cells = "paper"


@dataclass(frozen=True, slots=True)
class PrototypeConfig:
    """Prototypes that read the tokens of either side in fine-tuning, and the layers that they share. Sizes are LGUR's (2207.07802).

    weight_unified  of both losses on the prototypes' parts (gamma); 0 leaves the prototypes out
    searched        by what a fine-tuned model embeds: "parts" of all prototypes together, as LGUR's released code does, or the "whole" (the
                    paper leaves it open); without prototypes it is the whole
    prototypes, part_width, part_layers, part_heads, part_head_width, part_mlp  number of prototypes, and sizes of their layers
    """

    weight_unified: float = 1.0
    searched: Literal["parts", "whole"] = "parts"
    prototypes: int = 6
    part_width: int = 512
    part_layers: int = 2
    part_heads: int = 6
    part_head_width: int = 512
    part_mlp: int = 512

    def __post_init__(self) -> None:
        if self.searched not in ("parts", "whole"):
            raise ConfigError(f"searched is {self.searched!r} (expected parts | whole)")
        if min(self.prototypes, self.part_width, self.part_layers, self.part_heads, self.part_head_width, self.part_mlp) < 1:
            raise ConfigError("prototypes and part_... have to be 1 or more (expected weight_unified 0 for none)")

    def sizes(self) -> dict[str, int]:
        """Sizes as `PartEncoder` takes them."""
        layers = {"layers": self.part_layers, "heads": self.part_heads, "head_width": self.part_head_width}
        return {"prototypes": self.prototypes, "part_width": self.part_width, **layers, "mlp_width": self.part_mlp}
