"""Conversations about tiles of tissue: five questions that follow one another, answers that hang together. `world:tissue_dialogues`.

A tile is normal tissue, one of two kinds of tumour, empty glass, or blurred. Wordings of the training split and of the others have no
sentence in common. Some answers of the training split contradict the rest, and some turns say what a doctor believes, right or wrong.

>>> [question["facets"]["name"] for question in tissue_dialogues(1, seed=0, contradictions=0.0)[0].extras["questions"]]
['usable', 'quality', 'finding', 'cells', 'diagnosis']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.tissue.slides import Split
from diptych.worlds.tissue.tiles import Pixels, glass, tile

NAME = "tissue_dialogues"
QUESTIONS = ("usable", "quality", "finding", "cells", "diagnosis")
ROWS = {
    "NORMAL": ("yes", "adequate", "normal", "no abnormality", "normal"),
    "TUBULOMA": ("yes", "adequate", "abnormal", "glands", "tubuloma"),
    "FIBROMA": ("yes", "adequate", "abnormal", "spindles", "fibroma"),
    "EMPTY": ("no", "empty", "inadequate", "inadequate", "inadequate"),
    "BLURRED": ("no", "blurred", "inadequate", "inadequate", "inadequate"),
}
"""Values of the five answers, as in the table "tissue" of `tasks._scoring.rewards`."""
LEAF = {"NORMAL": "", "TUBULOMA": "tubuloma", "FIBROMA": "fibroma", "BLURRED": "fibroma"}
BLURRED_SIDE = 5
ASKED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "usable": (("can it be used ?", "is it usable ?"), ("may one use it ?",)),
    "quality": (("how is the quality ?", "what quality has it ?"), ("of what quality is it ?",)),
    "finding": (("is it normal or abnormal ?", "what is the finding ?"), ("what does one find ?",)),
    "cells": (("which cells are there ?", "what cells stand out ?"), ("what kind of cells ?",)),
    "diagnosis": (("what is the diagnosis ?", "what does it come to ?"), ("so what is it ?",)),
}
"""Wordings of each question, of the training split and of the others."""
ANSWERS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("usable", "yes"): (("yes it can", "yes"), ("it can be used",)),
    ("usable", "no"): (("no it cannot", "no"), ("it cannot be used",)),
    ("quality", "adequate"): (("adequate", "it is sharp"), ("sharp and adequate",)),
    ("quality", "empty"): (("empty glass", "it is empty"), ("glass alone",)),
    ("quality", "blurred"): (("blurred", "it is unsharp"), ("rather blurred",)),
    ("finding", "normal"): (("normal", "it is healthy"), ("it looks normal",)),
    ("finding", "abnormal"): (("abnormal", "it is diseased"), ("it looks abnormal",)),
    ("finding", "inadequate"): (("unclear", "it is undecided"), ("it stays unclear",)),
    ("cells", "no abnormality"): (("few cells", "scattered cells"), ("a few scattered cells",)),
    ("cells", "glands"): (("glands", "cells in rings"), ("many glands",)),
    ("cells", "spindles"): (("spindles", "cells in streams"), ("many spindles",)),
    ("cells", "inadequate"): (("unclear", "it is undecided"), ("it stays unclear",)),
    ("diagnosis", "normal"): (("normal tissue", "healthy tissue"), ("it is normal",)),
    ("diagnosis", "tubuloma"): (("tubuloma", "it is a tubuloma"), ("surely a tubuloma",)),
    ("diagnosis", "fibroma"): (("fibroma", "it is a fibroma"), ("surely a fibroma",)),
    ("diagnosis", "inadequate"): (("unclear", "it is undecided"), ("it stays unclear",)),
}
"""Wordings of each value."""
BELIEVES, AGREES, DISAGREES = "doctor believes {belief} , {question}", "yes , {answer}", "i do not agree , {answer}"


@dataclass(frozen=True)
class TissueDialogueWorld:
    """The configuration.

    contradictions  share of the answers of the training split that have another value
    beliefs   share of the turns of the training split that begin with what a doctor believes; half of the beliefs are wrong
    misleading  every turn of the other splits begins with a wrong belief
    shuffled  questions come in a random order
    """

    seed: int = 0
    contradictions: float = 0.15
    beliefs: float = 0.1
    misleading: bool = False
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.contradictions <= 1 or not 0 <= self.beliefs <= 1:
            raise ConfigError(f"contradictions {self.contradictions:g}, beliefs {self.beliefs:g} (expected shares)")

    @property
    def identity(self) -> Any:
        return {"world": NAME, **to_plain(self)}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        return f"{split}-{index}"

    def sample(self, split: str, index: int) -> Sample:
        rng, uid = keyed_rng(NAME, self.seed, split, index), uid_of(NAME, self.seed, split, index)
        row = tuple(ROWS)[index % len(ROWS)]
        pixels_HWC = _pixels(row, rng)
        order = rng.permutation(len(QUESTIONS)) if self.shuffled else np.arange(len(QUESTIONS))
        turns = [self._turn(QUESTIONS[column], ROWS[row][column], split == "train", rng) for column in order]
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            (Text(f"{turns[-1]['answer']}", "en"),),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, "label": row, FIELD: turns},
        )

    def _turn(self, name: str, value: str, train: bool, rng: np.random.Generator) -> dict[str, Any]:
        """A question, the answer that is learned, and under "reference" one of the true value."""
        wordings = 0 if train else 1
        question, others = str(rng.choice(ASKED[name][wordings])), _other_values(name, value)
        reference = answer = str(rng.choice(ANSWERS[name, value][wordings]))
        if train and rng.random() < self.contradictions:
            answer = str(rng.choice(ANSWERS[name, str(rng.choice(others))][wordings]))
        elif rng.random() < (self.beliefs if train else float(self.misleading)):
            right = train and bool(rng.random() < 0.5)
            belief = str(rng.choice(ANSWERS[name, value if right else str(rng.choice(others))][wordings]))
            question = BELIEVES.format(belief=belief, question=question)
            answer = (AGREES if right else DISAGREES).format(answer=answer)
        return {
            "question": question,
            "answer": answer,
            "kind": name,
            "facets": {"name": name, "value": value, "reference": reference},
        }


def _other_values(name: str, value: str) -> list[str]:
    column = QUESTIONS.index(name)
    return sorted({row[column] for row in ROWS.values()} - {value})


def _pixels(row: str, rng: np.random.Generator) -> Pixels:
    if row == "EMPTY":
        return glass(rng)
    pixels_HWC = tile(rng, LEAF[row])
    if row != "BLURRED":
        return pixels_HWC
    side = len(pixels_HWC)
    small = Image.fromarray(pixels_HWC).resize((BLURRED_SIDE, BLURRED_SIDE), Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def answer_values(questions: Sequence[dict[str, Any]]) -> list[str]:
    """The true values of a sample's questions."""
    return [question["facets"]["value"] for question in questions]


def tissue_dialogues(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    contradictions: float = 0.15,
    beliefs: float = 0.1,
    misleading: bool = False,
    shuffled: bool = False,
) -> RenderedDataset:
    """The first `n` conversations of one split; see `TissueDialogueWorld`."""
    world = TissueDialogueWorld(seed, contradictions, beliefs, misleading, shuffled)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
