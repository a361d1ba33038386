"""Days that were written by a grammar, questions about when something was done, and a planted reader with a short attention.

A day is a row of activities, each of some captions two seconds apart, with idle looks between them. The reader has no weights: it finds the
question's words in the notes that it is given, but reads only so many words of them, and answers by a wide interval, as it is told to. What
it misses lies in what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.contracts import Unit
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike, as_dialogue
from diptych.core.randomness import keyed_rng
from diptych.pipelines._memory.caption_log import TimedCaption
from diptych.pipelines._memory.questions import MemoryQuestion
from diptych.pipelines.lifelong_memory import LifelongMemory, scores

VERBS = ("cuts", "washes", "opens", "lifts", "paints", "folds", "fills", "shakes", "weighs", "wraps")
THINGS = ("bread", "cup", "box", "shirt", "bottle", "chair", "letter", "plant", "bag", "lamp", "plate", "clock")
MANNERS = ("", "", "", "slowly", "again", "there")
IDLE, STEP, FPS = 0.12, 60, 30.0
"""Share of idle captions; frames between two captions; frames a second."""
DAYS, ACTIVITIES, SMOKE_ACTIVITIES = 3, 70, 6
ATTENTION = 900
"""Words of the notes that the reader reads."""
WIDE = 300
"""Frames that the reader adds before and after what it found."""


@dataclass(frozen=True, slots=True)
class Day:
    """A log of captions, and questions about activities that happened once, with their windows in seconds."""

    memory: tuple[TimedCaption, ...]
    questions: tuple[MemoryQuestion, ...]


def day(seed: int, number: int, activities: int) -> Day:
    """About eight captions an activity."""
    rng = keyed_rng("day log", seed, number)
    memory: list[TimedCaption] = []
    spans: dict[str, list[tuple[float, float]]] = {}
    for _ in range(activities):
        act = f"{rng.choice(VERBS)} the {rng.choice(THINGS)}"
        first = len(memory)
        for _ in range(int(rng.integers(4, 13))):
            manner = str(rng.choice(MANNERS))
            said = "C looks around" if rng.random() < IDLE else f"C {act} {manner}".strip()
            time = STEP * len(memory) + STEP // 2
            memory.append(TimedCaption(time, time, f"#C {said}"))
        spans.setdefault(act, []).append((first * STEP / FPS, len(memory) * STEP / FPS))
    once = [(act, windows[0]) for act, windows in spans.items() if len(windows) == 1]
    return Day(
        tuple(memory),
        tuple(MemoryQuestion(str(row), (), f"When did C {act}?", truth=span) for row, (act, span) in enumerate(once, 1)),
    )


class WordBag:
    """An `Embedder` of texts by the counts of their words."""

    name, fingerprint = "bag of words", "1"

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        words = [*VERBS, *THINGS, *(manner for manner in MANNERS if manner), "C", "the"]
        count_NV = np.array(
            [[text.split().count(word) for word in words] for text in (re.sub(r"\W", " ", t) for t in texts)], float
        )
        unit_NV: Unit = (count_NV / np.maximum(np.linalg.norm(count_NV, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return unit_NV

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        raise DataError("'bag of words' embeds no pictures", expected="texts")


class PlantedReader:
    """A `Generator` that finds words in notes, as its module says."""

    name, fingerprint = "planted reader", "1"

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._said(as_dialogue(prompt).turns[-1].text) for prompt in prompts]

    def _said(self, asked: str) -> str:
        if "Memory:" not in asked:
            return min(asked.split("\n"), key=len)  # captions to merge
        _, _, table, _, notes, _ = asked.split("\n\n###\n\n")
        rows = _attended(notes.split("\n")[1:])
        lines = ["query_index\tpredictions\texplanation\tconfidence"]
        for question, number in re.findall(r"(.+?) \t (\d+) \n", table.split("\n", 1)[1]):
            lines.append(f"{number}\t{self._window(question, rows)}")
        return "\n".join(lines)

    @staticmethod
    def _window(question: str, rows: Sequence[tuple[int, int, str]]) -> str:
        words = set(re.findall(r"\w+", question)) & {*VERBS, *THINGS}
        known = [len(words & set(text.split())) for *_, text in rows]
        if not known or max(known) < len(words):
            return "NA\tnot in the notes\t1"
        first = known.index(max(known))
        last = first
        while last + 1 < len(known) and known[last + 1] == known[first]:
            last += 1
        return f"[{rows[first][0] - WIDE}, {rows[last][1] + WIDE}]\tthe notes say so\t3"


def _attended(notes: Sequence[str]) -> list[tuple[int, int, str]]:
    """Start, end and text of the notes that are read."""
    found: list[tuple[int, int, str]] = []
    words = 0
    for line in notes:
        match = re.match(r"\s*\[?(-?\d+)(?:, (\d+)\])?\s+(.*)", line)
        words += len(line.split())
        if match is None or words > ATTENTION:
            break
        found.append((int(match[1]), int(match[2] or match[1]), match[3]))
    return found


@dataclass(frozen=True)
class Recalled:
    """Asks the planted reader through the pipeline.

    digest, refine  as `LifelongMemory`
    other_day       the notes are those of another day, with the questions of this one
    """

    digest: bool = True
    refine: bool = False
    other_day: bool = False

    def __call__(self, cell: Cell) -> Scores:
        reader: Any = PlantedReader()
        pipeline = LifelongMemory(reader, embedder=WordBag(), digest=self.digest, refine=self.refine)
        questions: list[MemoryQuestion] = []
        rows = []
        read = 0
        for number in range(1 if cell.smoke else DAYS):
            here = day(cell.seed, number, SMOKE_ACTIVITIES if cell.smoke else ACTIVITIES)
            memory = day(cell.seed, number + DAYS, len(here.memory) // 8).memory if self.other_day else here.memory
            questions += here.questions
            rows += [answer.to_json() for answer in pipeline.answers(here.questions, memory)]
            read += rows[-1]["digested"]
        return {**scores(questions, rows), "captions": float(read)}
