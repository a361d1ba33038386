"""Questions that mean nothing without an example, and a planted model that reads them from canvases.

"What about the square?" asks for its colour or for its side; which, only the solved example says. The model has no weights: it reads the
letters by their shapes and the squares by their pixels, follows the last example that it can read, tosses a coin where there is none, and
errs in every tenth answer. What it gets right is what the canvas carries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.prompt import PromptLike, TextPart, as_prompt
from diptych.core.randomness import keyed_rng
from diptych.data.canvas.compose import Lettering
from diptych.data.canvas.demonstrations import Demonstration
from diptych.data.canvas.reading import read_lines
from diptych.data.media.decode import Pixels, decode
from diptych.pipelines.i2l import CAPTION, How, InImageLearning

Example = Literal["right", "none", "wrong"]
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 220), "orange": (240, 150, 20)}
SIDES = ("left", "right")
QUESTION = "What about the square?"
ALPHABET = "".join(sorted(set("".join((QUESTION, "Answer: ", *COLOURS, *SIDES)))))
WIDTH, HEIGHT, SQUARE = 260, 60, 30
ERRS = 0.1
ASKED, SMOKE_ASKED = 200, 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A square by its colour and side."""

    colour: str
    side: str

    def picture(self) -> ArrayImage:
        pixels_HWC = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        left = 40 if self.side == "left" else WIDTH - 40 - SQUARE
        pixels_HWC[15 : 15 + SQUARE, left : left + SQUARE] = COLOURS[self.colour]
        return ArrayImage(pixels_HWC, f"{self.colour} {self.side}")

    def by(self, rule: str) -> str:
        return self.colour if rule == "colour" else self.side


@dataclass(eq=False)
class PlantedReader:
    """A `Generator` that reads canvases, as its module says. Captions that it writes name the colour alone."""

    seed: int
    name: str = "planted reader"
    asked: int = field(default=0, init=False)

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._said(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _said(self, image: ImageSource, prompt: PromptLike) -> str:
        words = "".join(part.text for part in as_prompt(prompt) if isinstance(part, TextPart))  # type: ignore[arg-type]
        if words.endswith(CAPTION):
            seen = squares(decode(image, exact=True))[-1]
            return f"a {seen.colour} square"
        self.asked += 1
        rng = keyed_rng("planted reader", self.seed, self.asked)
        if "Description:" in words:
            *_, said = re.findall(r"Description: a (\w+) square", words)
            return self._by_rule(rule_of(re.findall(r"Answer: (\w+)", words)), Seen(said, str(rng.choice(SIDES))), rng)
        canvas_HWC = decode(image, exact=True)
        area = (canvas_HWC.shape[1] / WIDTH) ** 2
        lines = [text for _, text in read_lines(canvas_HWC, Lettering(), alphabet=ALPHABET, area=area)]
        answers = [line.removeprefix("Answer: ") for line in lines if line.startswith("Answer: ")]
        return self._by_rule(rule_of(answers), squares(canvas_HWC)[-1], rng)

    def _by_rule(self, rule: str, seen: Seen, rng: Any) -> str:
        found = seen.by(rule or str(rng.choice(["colour", "side"])))
        if rng.random() >= ERRS:
            return found
        others = [one for one in (tuple(COLOURS) if found in COLOURS else SIDES) if one != found]
        return str(rng.choice(others))


def rule_of(answers: Sequence[str]) -> str:
    """What the last answer that can be read is about; "" for none."""
    known = [answer for answer in answers if answer in COLOURS or answer in SIDES]
    return "" if not known else "colour" if known[-1] in COLOURS else "side"


def squares(canvas_HWC: Pixels) -> list[Seen]:
    """The squares of a canvas from the top, by its coloured pixels."""
    wide_HWC = canvas_HWC.astype(int)
    coloured_HW = wide_HWC.max(axis=2) - wide_HWC.min(axis=2) > 80
    edges = np.flatnonzero(np.diff(np.concatenate([[0], coloured_HW.any(axis=1).astype(int), [0]])))
    found = []
    for top, bottom in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        inside_HW = coloured_HW[top:bottom]
        mean_C = wide_HWC[top:bottom][inside_HW].mean(axis=0)
        colour = min(COLOURS, key=lambda name: float(np.square(mean_C - COLOURS[name]).sum()))
        middle = float(np.nonzero(inside_HW)[1].mean()) / canvas_HWC.shape[1]
        found.append(Seen(colour, "left" if middle < 0.5 else "right"))
    return found


@dataclass(frozen=True)
class Canvassed:
    """Asks the planted reader through the pipeline.

    how      as `InImageLearning`
    example  beside the question: of its rule, none, or of the other rule
    area     of the canvas
    """

    how: How = "i2l"
    example: Example = "right"
    area: float = 1.0

    def __call__(self, cell: Cell) -> Scores:
        model = PlantedReader(cell.seed)
        pipeline = InImageLearning(model, how=self.how, area=self.area)
        right = []
        for number in range(SMOKE_ASKED if cell.smoke else ASKED):
            rng = keyed_rng("canvases", cell.seed, number)
            asked, shown = (Seen(str(rng.choice(list(COLOURS))), str(rng.choice(SIDES))) for _ in range(2))
            rule, other = rng.permutation(["colour", "side"]).tolist()
            answer = shown.by(rule if self.example == "right" else other)
            demo = Demonstration(shown.picture(), QUESTION, answer=answer, caption=f"a {shown.colour} square")
            reply = pipeline.answer(asked.picture(), QUESTION, [] if self.example == "none" else [demo])
            right.append(reply.text == asked.by(rule))
        return {"accuracy": float(np.mean(right))}
