"""Chest X-rays with reports: lesions of five kinds in six zones, a factor that no report mentions, boxes and masks.

`world:chests`. A report states what is there and in which zone, and of some pairs that they are not there. Spacing of the ribs and a device
are in the picture and the extras alone. Left and right are the patient's: a mirrored picture makes a report untrue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.masks import box_of, encode
from diptych.worlds.chests.drawing import PATHOLOGIES, ZONES, draw_chest, lesion_mask, placed, shape_of
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "chests"
PAIRS: tuple[tuple[str, str], ...] = tuple((pathology, zone) for pathology in PATHOLOGIES for zone in ZONES)
HELD_OUT: tuple[tuple[str, str], ...] = tuple(zip(PATHOLOGIES, ZONES, strict=False))
"""Pairs that training rows never have where `hold_out` is set; each pathology and all zones but the last lose one."""
OPENINGS = ("There is {}.", "{} is seen.", "Again noted is {}.", "{} is present.")
NEGATIONS = ("No {}.", "There is no {}.", "No evidence of {}.")
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class ChestFacts:
    """Contents of a picture before it is drawn: present and denied (pathology, zone), and the factors that no report mentions."""

    present: tuple[tuple[str, str], ...]
    denied: tuple[tuple[str, str], ...]
    wide_ribs: bool
    device: bool


@dataclass(frozen=True)
class ChestWorld:
    """The configuration.

    size      side in pixels
    most      lesions of a picture, 0 to `most`
    denied    pairs that a report says are absent
    hold_out  training rows have no pair of `HELD_OUT`; each row of the other splits has one or none, as it falls
    pictured  what the text of a picture is: "report", findings and impression, or the sentences of the "impression" alone
    """

    seed: int = 0
    size: int = 64
    most: int = 2
    denied: int = 2
    hold_out: bool = False
    pictured: Literal["report", "impression"] = "report"

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024 or not 1 <= self.most <= 6 or not 0 <= self.denied <= 20:
            raise ConfigError(
                f"size {self.size}, most {self.most}, denied {self.denied} (expected 32..1024 pixels, 1..6 lesions, 0..20 pairs)"
            )
        if self.pictured not in ("report", "impression"):
            raise ConfigError(f"pictured is {self.pictured!r} (expected report | impression)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        """Findings that a report states; pictures of one statement are no negatives of each other."""
        return impression(self.facts(split, index).present)

    def facts(self, split: str, index: int) -> ChestFacts:
        """Contents of the picture of a row, and what its report denies."""
        return self._facts(self._rng(split, index), split)

    def _facts(self, rng: np.random.Generator, split: str) -> ChestFacts:
        allowed = [pair for pair in PAIRS if not (self.hold_out and split == "train" and pair in HELD_OUT)]
        count = int(rng.integers(self.most + 1))
        present: list[tuple[str, str]] = []
        for number in rng.permutation(len(allowed)).tolist():
            if len(present) < count and allowed[number][1] not in {zone for _, zone in present}:
                present.append(allowed[number])
        absent = [pair for pair in PAIRS if pair not in present]
        denied = [absent[number] for number in rng.permutation(len(absent))[: self.denied].tolist()]
        wide_ribs, device = (bool(value) for value in rng.integers(0, 2, 2))
        return ChestFacts(tuple(sorted(present, key=PAIRS.index)), tuple(denied), wide_ribs, device)

    def sample(self, split: str, index: int) -> Sample:
        rng = self._rng(split, index)
        facts = self._facts(rng, split)
        findings = findings_section(facts, rng)
        shape = shape_of(rng, wide_ribs=facts.wide_ribs)
        lesions = tuple(placed(rng, shape, self.size, *pair) for pair in facts.present)
        pixels_HWC = draw_chest(rng, shape, lesions, self.size, device=facts.device)
        uid, closing = uid_of(NAME, self.seed, split, index), impression(facts.present)
        report = f"FINDINGS: {findings}\nIMPRESSION: {closing}" if self.pictured == "report" else closing
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            (Text(report, "en"),),
            regions=tuple(_region(lesion.pathology, lesion.zone, lesion_mask(lesion, self.size)) for lesion in lesions),
            group=closing,
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                "findings": list(dict.fromkeys(pathology for pathology, _ in facts.present)),
                "present": [phrase(*pair) for pair in facts.present],
                "denied": [phrase(*pair) for pair in facts.denied],
                "pairs": [[*pair, "present"] for pair in facts.present] + [[*pair, "absent"] for pair in facts.denied],
                "ribs": "wide" if facts.wide_ribs else "narrow",
                "device": facts.device,
                "patient": f"{split}-{index}",
            },
        )

    def _rng(self, split: str, index: int) -> np.random.Generator:
        return keyed_rng(NAME, self.seed, split, index)


def phrase(pathology: str, zone: str) -> str:
    """A finding in words.

    >>> phrase("nodule", "right upper zone")
    'nodule in the right upper zone'
    """
    return f"{pathology} in the {zone}"


def impression(present: Sequence[tuple[str, str]]) -> str:
    """The closing sentence of a report.

    >>> impression([("nodule", "right upper zone")]), impression([])
    ('Nodule in the right upper zone.', 'No acute finding.')
    """
    return " ".join(f"{phrase(*pair).capitalize()}." for pair in present) or "No acute finding."


def findings_section(facts: ChestFacts, rng: np.random.Generator) -> str:
    """Sentences about what is present and what is denied, in a random order and wording."""
    parts = []
    for pair in facts.present:
        sentence = OPENINGS[int(rng.integers(len(OPENINGS)))].format(phrase(*pair))
        parts.append(sentence[0].upper() + sentence[1:])
    parts += [NEGATIONS[int(rng.integers(len(NEGATIONS)))].format(phrase(*pair)) for pair in facts.denied]
    parts.append("The heart is normal in size.")
    return " ".join(parts[index] for index in rng.permutation(len(parts)))


def _region(pathology: str, zone: str, mask_HW: Any) -> Region:
    box = box_of(mask_HW)
    assert box is not None
    return Region(box, pathology, (zone,), mask=encode(mask_HW))


def chests(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    most: int = 2,
    denied: int = 2,
    hold_out: bool = False,
    pictured: Literal["report", "impression"] = "report",
) -> RenderedDataset:
    """The first `n` pictures of one split; see `ChestWorld`."""
    world = ChestWorld(seed, size, most, denied, hold_out, pictured)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
