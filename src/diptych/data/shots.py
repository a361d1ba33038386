"""Few-shot subsets: a few labelled images of each class, drawn once and saved, so that every method learns from the same ones.

A file of shots is JSON: how many per class, which draw, the label's column, uids of training and validation by class. The draw depends on
(number of the draw, class, uids of the class) alone: not on the order of rows, not on other classes, not on another data set that was
drawn before. Fewer shots of one draw are the first of more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.data.labels import label_of

MOST_VALIDATION = 4


@dataclass(frozen=True, slots=True)
class Shots:
    """Few-shot split: the training and validation uids of each class.

    shots   images per class; draw  which of the draws, from 1
    train   class -> uids, at most `shots`; val  class -> other uids, at most min(shots, 4)
    short   classes that have fewer images than shots, with how many there are: all of them are taken, none twice
    """

    shots: int
    draw: int
    label: str
    fingerprint: str
    train: Mapping[str, tuple[str, ...]]
    val: Mapping[str, tuple[str, ...]]

    @property
    def short(self) -> dict[str, int]:
        return {name: len(uids) for name, uids in self.train.items() if len(uids) < self.shots}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train)

    def uids(self, classes: Sequence[str] = ()) -> tuple[str, ...]:
        """Training uids by class; of these classes alone where they are named."""
        return tuple(uid for name in classes or self.train for uid in self.train[name])

    def save(self, path: Path) -> None:
        write_json(path, {"format": 1, **asdict(self), "short": self.short})

    @classmethod
    def load(cls, path: Path) -> Shots:
        """Load a file of `save`. Raises DataError that names the fault."""
        try:
            plain = read_object(Path(path))
            sides = {side: {str(name): tuple(map(str, uids)) for name, uids in plain[side].items()} for side in ("train", "val")}
            return cls(int(plain["shots"]), int(plain["draw"]), str(plain["label"]), str(plain["fingerprint"]), **sides)
        except FileNotFoundError:
            raise DataError("there is no such file", file=path, expected="a file of shots") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"is not a file of shots: {error!r}", file=path, expected="JSON with shots, draw, label, train, val"
            ) from error


def by_class(data: Dataset, label: str, language: str = "en") -> dict[str, list[str]]:
    """Uids by class, both sorted."""
    uids_by_class: dict[str, list[str]] = defaultdict(list)
    for row in range(len(data)):
        sample = data[row]
        uids_by_class[label_of(sample, label, language)].append(sample.uid)
    return {name: sorted(uids_by_class[name]) for name in sorted(uids_by_class)}


def draw_shots(
    data: Dataset, shots: int, draw: int, *, label: str = "label", language: str = "en", allow_short: bool = True
) -> Shots:
    """Draw `shots` images of each class, and others for validation.

    allow_short  a class with fewer images gives all it has; False refuses it
    """
    if shots < 1 or draw < 1:
        raise ConfigError(f"shots is {shots} and draw {draw} (expected 1 or more)")
    train, val = {}, {}
    for name, uids in by_class(data, label, language).items():
        if len(uids) < shots and not allow_short:
            raise DataError(
                f"class {name!r} has {len(uids)} images", file=data.name, field=label, expected=f"{shots}, one for each shot"
            )
        order = [uids[number] for number in keyed_rng("shots", draw, name).permutation(len(uids))]
        train[name] = tuple(order[:shots])
        val[name] = tuple(order[shots : shots + min(shots, MOST_VALIDATION)])
    if len(train) < 2:
        raise DataError(f"'{data.name}' has {len(train)} class", field=label, expected="two classes or more")
    return Shots(shots, draw, label, data.fingerprint, train, val)


def base_and_new(classes: Sequence[str], order: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base-to-new split of classes: the first half, rounded up, is trained on ("base"), the rest is "new" (CoCoOp, 2203.05557).

    order  the classes by their numbers, as the release sorts them; it may name others, too. Empty: by their names

    >>> base_and_new(["c", "a", "b"]), base_and_new(["c", "a", "b"], order=["b", "c", "a"])
    ((('a', 'b'), ('c',)), (('b', 'c'), ('a',)))
    """
    position_of = {name: number for number, name in enumerate(order)}
    if lost := next((name for name in classes if order and name not in position_of), None):
        raise ConfigError(f"class_order lacks {lost!r} (expected all {len(classes)} classes in the order of their numbers)")
    ordered = sorted(classes, key=lambda name: (position_of.get(name, 0), name))
    half = math.ceil(len(ordered) / 2)
    return tuple(ordered[:half]), tuple(ordered[half:])


def harmonic_mean(base: float, new: float) -> float:
    """Harmonic mean 2 b n / (b + n); 0 where both are 0.

    >>> round(harmonic_mean(82.7, 63.2), 2)
    71.65
    """
    return 2 * base * new / (base + new) if base + new > 0 else 0.0
