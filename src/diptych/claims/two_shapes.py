"""Rendered scenes of two coloured shapes, and the text that names both with their places: "a red moon at the top left and ..."."""

from __future__ import annotations

from dataclasses import replace

from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.worlds.rendered import Rendered
from diptych.worlds.scene_captions import place, with_article
from diptych.worlds.scene_layout import Thing
from diptych.worlds.scenes import Split, scenes

SIZE = 48
"""Pixels a side."""


def rendered(split: Split, count: int, seed: int) -> Rendered:
    """The first `count` scenes of a split, with their long captions."""
    return scenes(count, seed=seed, split=split, size=SIZE, max_objects=2, lengths=("dense",), paraphrases=0, negatives=False)


def named(sample: Sample) -> list[str]:
    """Each shape of a scene with its place."""
    things = (Thing(**thing) for thing in sample.extras["things"])
    return [f"{with_article(thing.noun)} {place(thing)}" for thing in things]


def both_named(split: Split, count: int, seed: int) -> Pool:
    """Scenes with one text, that names both shapes. Scenes of equal text are of one group."""
    world = rendered(split, count, seed)
    samples = []
    for row in range(len(world)):
        text = " and ".join(named(world[row]))
        samples.append(told(world[row], split, text, Text(text, "en")))
    return Pool.from_samples(samples, name=f"two_shapes/{split}")


def told(sample: Sample, split: str, group: str, *texts: Text) -> Sample:
    """The scene with these texts alone."""
    return replace(sample, texts=texts, regions=(), relations=(), group=group, extras={"split": split})
