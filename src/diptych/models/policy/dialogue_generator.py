"""Multi-turn answers of a bridge to questions about an image, each given its own earlier answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch

from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.text.prompts.layout import ImageSlots, Piece, TextPiece
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.io.folder import read_config
from diptych.models.io.inference import evaluating, parts
from diptych.models.policy.dialogue_policy import sample_dialogues


@runtime_checkable
class DialogueResponder(Protocol):
    """Answers the questions of each conversation one after another, each given the model's own earlier answers."""

    def converse(
        self, images: Sequence[ImageSource], asked: Sequence[Sequence[str]], *, max_tokens: int = 64
    ) -> list[list[str]]: ...


def question_pieces(template: str, later: str, asked: Sequence[str], slots: int) -> list[list[Piece]]:
    """Return the pieces that precede each answer of a conversation, with the image before the first.

    template  of the first turn, with {image} and {prompt}; later: of the other turns
    """
    before, _, behind = template.partition("{image}")
    first: list[Piece] = [*([TextPiece(before)] if before else []), ImageSlots(slots)]
    turns = [(later if number else behind).replace("{prompt}", text) for number, text in enumerate(asked)]
    return [[*(first if not number else []), TextPiece(text)] for number, text in enumerate(turns)]


class DialogueGenerator(BridgeGenerator):
    """`BridgeGenerator` that also supports conversations. later: template of the turns after the first"""

    kind: ClassVar[str] = "dialogue_bridge"
    later: str = " {prompt}"

    @classmethod
    def of(cls, made: BridgeGenerator, later: str) -> Self:
        """Return the same model with a template for later turns."""
        conversing = cls(made.bridge, made.preprocess, made.vocabulary, made.template, made.name, connector=made.connector_spec)
        vars(conversing).update({name: value for name, value in vars(made).items() if name != "fingerprint"})
        conversing.later = later
        return conversing

    @torch.no_grad()
    def converse(
        self, images: Sequence[ImageSource], asked: Sequence[Sequence[str]], *, max_tokens: int = 64, batch_size: int = 32
    ) -> list[list[str]]:
        """Return greedy answers to the questions of each conversation.

        All conversations of a batch have the same number of questions, so they are grouped by length.
        """
        answers: dict[int, list[str]] = {}
        device = next(self.bridge.parameters()).device
        for length in sorted({len(questions) for questions in asked}):
            rows = [row for row, questions in enumerate(asked) if len(questions) == length]
            for some in parts(rows, batch_size):
                image_BCHW = self.preprocess([decode(images[row], exact=True) for row in some]).to(device)
                with evaluating(self.bridge):
                    slots = self.bridge.picture(image_BCHW[:1]).shape[1]
                    pieces = [question_pieces(self.template.text, self.later, asked[row], slots) for row in some]
                    made = sample_dialogues(
                        self.bridge,
                        image_BCHW,
                        pieces,
                        self.vocabulary,
                        lambda logit_BV: logit_BV.argmax(-1),
                        max_tokens=max_tokens,
                    )
                texts = [[self._answer(text) for text in one] for one in made.texts(self.vocabulary)]
                answers.update(zip(some, texts, strict=True))
        return [answers[row] for row in range(len(asked))]

    @property
    def _settings(self) -> dict[str, Any]:
        return {**super()._settings, "later": self.later}

    def save(self, folder: Path) -> None:
        self.card = {**self.card, "later": self.later}
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        made = super().load(folder)
        made.later = str(read_config(folder, cls.kind)["card"]["later"])
        return made
