"""Manipulation trials as SGL's authors publish them (Xu et al., 2022): folders TASK/LEVEL/NUMBER with `natural_language.txt`,
`pddl_goal_state.txt`, `rgb_image.png` and `transformations.json`, in which the things are listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.planning.goals import FIELD, LABELS

FORMAT = "sgl"
SENTENCE, GOAL, PICTURE, THINGS = "natural_language.txt", "pddl_goal_state.txt", "rgb_image.png", "transformations.json"
LARGEST = 2**26
NAMES = {
    "breadsliced": "bread",
    "butterknife": "knife",
    "dishsponge": "sponge",
    "papertowel": "tissue",
    "peppershaker": "pepper",
    "saltshaker": "salt",
    "sinkbasin": "sink",
    "soapbottle": "soap",
    "winebottle": "wine",
}
"""The simulator's names of things to those of the goals."""


def holds(path: Path) -> bool:
    """True for a folder of trials, or of tasks."""
    return path.is_dir() and any(next(path.glob("/".join([*["*"] * depth, GOAL])), None) is not None for depth in (1, 2, 3))


def read_trials(path: Path, *, name: str = "") -> Pool:
    """The trials of a folder, a sample each; `extras` hold goal, labels, task and level. Raises DataError that names the file."""
    samples = list(_trials(path))
    if not samples:
        raise DataError("contains no trial", file=path, expected=f"folders with {SENTENCE} and {GOAL}")
    pool = Pool.from_samples(samples, name=name or path.stem)
    pool.notes.append(f"read as {FORMAT}: {len(pool):,} trials")
    return pool


def _trials(path: Path) -> Iterator[Sample]:
    for goal_file in sorted(path.rglob(GOAL)):
        folder = goal_file.parent
        names = _text(goal_file).split()
        if len(names) != 3:
            raise DataError(f"is {' '.join(names)[:60]!r}", file=goal_file, expected="predicate, subject and object")
        predicate, subject, other = (name.lower() for name in names)
        parts = folder.relative_to(path).parts
        level = parts[-2] if len(parts) > 1 else ""
        task = parts[-3] if len(parts) > 2 else ""
        picture = folder / PICTURE
        yield Sample(
            "-".join(parts) or folder.name,
            FileImage(picture) if picture.is_file() else None,
            (Text(_text(folder / SENTENCE).strip(), "en"),),
            source=FORMAT,
            extras={
                FIELD: {"predicate": predicate, "subject": subject, "object": other},
                LABELS: _labels(folder / THINGS),
                "task": task,
                "level": level,
            },
        )


def _labels(file: Path) -> list[str]:
    """Names of the things, each once; a sink comes with its faucet. Empty where no list is there."""
    if not file.is_file():
        return []
    try:
        things = json.loads(_text(file))["objects"]
        names = [str(thing["type"]).lower() for thing in things]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "is not a list of things", file=file, field="objects", expected='{"objects": [{"type": "Egg"}]}'
        ) from error
    return list(dict.fromkeys(NAMES.get(name, name) for name in names))


def _text(file: Path) -> str:
    try:
        return read_file(file, most=LARGEST).decode("utf-8")
    except OSError as error:
        raise DataError(f"{error.strerror or error}", file=file, expected="a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not valid UTF-8 at byte {error.start}", file=file, expected="a text file") from error
