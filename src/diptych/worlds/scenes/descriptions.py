"""Scenes with careless short captions, as the web has them, and for some of them a clean description. `world:descriptions`.

>>> [text.origin for text in descriptions(4, seed=0, detailed=1)[0].texts]
['alt', 'synthetic']
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "descriptions"
REQUEST = "describe the picture ."
DROPPED = 0.15
"""Share of the words that a careless caption lacks."""


@dataclass(frozen=True)
class DescribedWorld(SceneWorld):
    """A scenes world with flat looks.

    noise     share of the short captions of the training split that say a run of three words twice; all of them lack words. 0 leaves
              them as they are
    detailed  how many rows of the training split carry a description, a text of origin "synthetic"; all rows of the other splits do
    """

    noise: float = 0.3
    detailed: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise <= 1 or self.detailed < 0:
            raise ConfigError(f"noise is {self.noise}, detailed {self.detailed} (expected 0 to 1, and 0 or more)")

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        short, described = (text.string for text in made.texts[:2])
        if split == "train" and self.noise:
            short = careless(short, keyed_rng(NAME, self.seed, split, index), repeats=self.noise)
        texts, extras = [Text(short, "en", "alt")], dict(made.extras)
        if split != "train" or index < self.detailed:
            texts.append(Text(described, "en", "synthetic"))
            extras[FIELD] = [{"question": REQUEST, "answer": described, "kind": "description"}]
        uid = uid_of(NAME, self.seed, split, index)
        return replace(made, uid=uid, texts=tuple(texts), extras=extras, source=f"world:{NAME}")


def careless(caption: str, rng: np.random.Generator, *, repeats: float) -> str:
    """The caption without some of its words, three at least left, and for a share `repeats` with a run of three words repeated."""
    words = caption.split()
    kept = [word for word, dropped in zip(words, rng.random(len(words)) < DROPPED, strict=True) if not dropped]
    kept = kept if len(kept) >= 3 else words
    if len(kept) >= 3 and rng.random() < repeats:
        start = int(rng.integers(len(kept) - 2))
        kept = [*kept[: start + 3], *kept[start : start + 3], *kept[start + 3 :]]
    return " ".join(kept)


def descriptions(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    max_objects: int = 2,
    noise: float = 0.3,
    detailed: int = 200,
) -> RenderedDataset:
    """The first `n` scenes of one split, of two things (up to `max_objects`): a short caption that lacks words or says some twice (a share
    `noise`), and for the first `detailed` a description of whole sentences."""
    world = DescribedWorld(
        seed=seed,
        size=size,
        max_objects=max_objects,
        lengths=("short", "long"),
        paraphrases=0,
        negatives=False,
        noise=noise,
        detailed=detailed,
    )
    return RenderedDataset(NAME, world, rows_of(world, split, n))
