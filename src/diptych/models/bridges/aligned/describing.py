"""A bridge that describes an image before it answers a question about it, with the description in the prompt (STIC, 2405.19716)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.data.text.prompts.comprehension_prompts import DESCRIBE_FIRST, with_description
from diptych.models.bridges.writer import Asked, BridgeGenerator
from diptych.models.io.folder import read_config
from diptych.models.io.inference import parts


class DescribingGenerator(BridgeGenerator):
    """A `BridgeGenerator` that reads each question about an image after its own description of it: two passes, also where candidates
    are ranked and answers are streamed. Requests without an image and the request for a description stay as they are.

    describes     prompt for the description; "" answers directly
    description_tokens  maximum length of a description; decoding is greedy
    """

    kind: ClassVar[str] = "describing_bridge"
    describes: str = DESCRIBE_FIRST
    description_tokens: int = 1024

    def _asked(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike]) -> list[Asked]:
        requests = super()._asked(images, prompts)
        behind = [row for row, (shown, words) in enumerate(requests) if shown and words not in ("", self.describes, self.request)]
        if not self.describes or not behind:
            return requests
        descriptions = self._describe([(requests[row][0], self.describes) for row in behind])
        for row, description in zip(behind, descriptions, strict=True):
            shown, words = requests[row]
            requests[row] = shown, with_description(words, description)
        return requests

    @torch.no_grad()
    def _describe(self, requests: Sequence[Asked], batch_size: int = 32) -> list[str]:
        texts: list[str] = []
        for rows in parts(requests, batch_size):
            embed_BLD, layout = self._read(rows, self.description_tokens)
            texts += self.bridge.language.write(
                embed_BLD, layout, self.vocabulary, max_tokens=self.description_tokens, ends=self._ends
            )
        return [self._answer(text) for text in texts]

    @property
    def _settings(self) -> dict[str, Any]:
        return {**super()._settings, "describes": self.describes, "description_tokens": self.description_tokens}

    def save(self, folder: Path) -> None:
        self.card = {**self.card, "describes": self.describes, "description_tokens": self.description_tokens}
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        made = super().load(folder)
        card = read_config(folder, cls.kind)["card"]
        made.describes, made.description_tokens = str(card["describes"]), int(card["description_tokens"])
        return made
