"""Scenes of coloured shapes, or of cut-out pictures, with a complete graph of what is in them and how it is related.

A few things to know. The truth is computed from the masks, never detected. A scene is a pure function of (seed, split, index), so
train, val, test and unseen never share one. `group` is the statement that every caption of the scene makes: equal captions,
equal group. With `hold_out`, the named combinations occur in the split "unseen" only.

>>> data = scenes(4, seed=0)
>>> data[0].image.pixels_HWC.shape
(64, 64, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.read import read
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of
from diptych.worlds.scenes.captions import LENGTHS, captions, negatives
from diptych.worlds.scenes.cutouts import Cutout, emoji_cutouts, pool_cutouts
from diptych.worlds.scenes.depths import depth_item
from diptych.worlds.scenes.layout import COLOURS, SHAPES, LayoutRules, Scene, layout
from diptych.worlds.scenes.rendering import render
from diptych.worlds.scenes.truth import truth

NAME = "scenes"
Split = Literal["train", "val", "test", "unseen"]


@dataclass(frozen=True)
class SceneWorld:
    """The configuration of a scenes world. `size` changes the resolution, not the layout."""

    seed: int = 0
    size: int = 64
    look: Literal["flat", "cutouts"] = "flat"
    min_objects: int = 2
    max_objects: int = 4
    hold_out: tuple[str, ...] = ()
    lengths: tuple[str, ...] = LENGTHS
    paraphrases: int = 1
    negatives: bool = True
    cutouts: tuple[Cutout, ...] = field(default=(), repr=False)
    depth: bool = False

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"size is {self.size} (expected 32..1024 pixels)")
        if not 2 <= self.min_objects <= self.max_objects <= 6:
            raise ConfigError(f"objects are {self.min_objects}..{self.max_objects} (expected 2 <= min <= max <= 6)")
        if self.look not in ("flat", "cutouts"):
            raise UnknownName("look", self.look, ("flat", "cutouts"))
        for length in self.lengths:
            if length not in LENGTHS:
                raise UnknownName("caption length", length, LENGTHS)
        if not self.lengths:
            raise ConfigError("lengths is empty (expected at least one of " + ", ".join(LENGTHS) + ")")
        nouns = self.nouns
        for noun in self.hold_out:
            if noun not in nouns:
                raise UnknownName("combination", noun, nouns)
        if len(self.hold_out) > len(nouns) // 2:
            raise ConfigError(f"hold_out names {len(self.hold_out)} of {len(nouns)} combinations (expected at most half)")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return tuple(cutout.label for cutout in self.cutouts) if self.look == "cutouts" else ()

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """Nouns that can be held out: every colour with every shape, or every cut-out."""
        return self.labels or tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

    @property
    def identity(self) -> Any:
        plain = to_plain(replace(self, cutouts=())) | {"cutouts": [(cutout.label, cutout.digest) for cutout in self.cutouts]}
        return plain if self.depth else {name: value for name, value in plain.items() if name != "depth"}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test", "unseen") if self.hold_out else ("train", "val", "test")

    def scene(self, split: str, index: int) -> Scene:
        return layout(SceneRandom.of_scene(NAME, self.seed, split, index), self._rules(split))

    def _rules(self, split: str) -> LayoutRules:
        unseen = split == "unseen"
        return LayoutRules(
            self.min_objects,
            self.max_objects,
            avoid=() if unseen else self.hold_out,
            require=self.hold_out if unseen else (),
            labels=self.labels,
        )

    def group(self, split: str, index: int) -> str:
        return self.scene(split, index).group

    def sample(self, split: str, index: int) -> Sample:
        """Render one scene. `extras`: split, label (noun of the subject), things, counts by label, negatives, look."""
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        scene = layout(dice, self._rules(split))
        drawing = render(scene, self.size, [cutout.pixels_HWC for cutout in self.cutouts])
        facts = truth(scene, drawing)
        texts = captions(scene, facts, dice, self.lengths, self.paraphrases)
        extras: dict[str, Any] = {
            "split": split,
            "look": self.look,
            "label": scene.things[0].noun,
            "predicate": scene.predicate,
            "things": [asdict(thing) for thing in scene.things],
            "counts": _counts(scene),
        }
        if self.negatives:
            wrong = negatives(scene, facts, dice)
            texts += [Text(negative.false, "en", "negative") for negative in wrong]
            extras["negatives"] = [asdict(negative) for negative in wrong]
        licences = sorted({self.cutouts[t.picture].licence for t in scene.things if t.picture >= 0})
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(
            uid=uid,
            image=ArrayImage(drawing.pixels_HWC, uid),
            texts=tuple(texts),
            regions=facts.regions,
            relations=facts.relations,
            group=scene.group,
            licence=", ".join(licences) if licences else "CC0-1.0",
            source="world:scenes",
            extras=extras,
            media={"depth": depth_item(scene, drawing, f"{uid}-depth")} if self.depth else {},
        )


def _counts(scene: Scene) -> dict[str, int]:
    counts: dict[str, int] = {}
    for thing in scene.things:
        counts[thing.label] = counts.get(thing.label, 0) + 1
    return counts


def scenes(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    look: Literal["flat", "cutouts"] = "flat",
    min_objects: int = 2,
    max_objects: int = 4,
    hold_out: Sequence[str] = (),
    lengths: Sequence[str] = LENGTHS,
    paraphrases: int = 1,
    negatives: bool = True,
    cutouts: Sequence[Cutout] | str = (),
    depth: bool = False,
) -> RenderedDataset:
    """The first `n` scenes of one split.

    size         pixels per side
    look         "flat": drawn shapes; "cutouts": pictures with an alpha channel, by default the packaged emoji
    hold_out     nouns ("red circle", or labels of cut-outs) that occur in split "unseen" only, there in every scene's statement
    lengths      which captions, in this order: short, tags, long, dense (origin "caption", tags "tags")
    paraphrases  how many other wordings of the short caption follow (origin "rewrite")
    negatives    add wrong captions (origin "negative"), typed in extras["negatives"]: kind, true, false
    cutouts      what to paste: cut-outs, or a data set to take them from (a folder such as the fetched stamps)
    depth        add a depth map (media["depth"], uint8, larger is nearer)
    """
    if isinstance(cutouts, str):
        cutouts = pool_cutouts(read(cutouts)) if cutouts else ()
    if look == "cutouts" and not cutouts:
        cutouts = emoji_cutouts()
    world = SceneWorld(
        seed, size, look, min_objects, max_objects, tuple(hold_out), tuple(lengths), paraphrases, negatives, tuple(cutouts), depth
    )
    return RenderedDataset(NAME, world, rows_of(world, split, n))
