"""A trained FIBER that classifies statements about two pictures as true or false (NLVR2).  Letters: B N pairs, H W C of a map, L tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import Dialogue, ImagePart, PromptLike, TextPart, require_one_per_image
from diptych.data.media.decode import decode
from diptych.models.fiber.fiber_model import FiberModel
from diptych.models.io.inference import parts

TRUTHS = ("False", "True")
"""What the two logits mean, in their order."""


class FiberStatementClassifier(FiberModel):
    """`Generator` of "True" or "False", and `Ranker` of the two: a prompt has two pictures and a statement. Vectors are those that the run
    started from, since training here does not use them."""

    kind: ClassVar[str] = "fiber_statements"

    @one_or_many
    def generate(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """ "True" or "False" of each statement."""
        logit_N2 = self.judged(images, prompts, batch_size=batch_size)
        return [TRUTHS[index] for index in logit_N2.argmax(1).tolist()]

    @one_or_many
    def answer_nll(
        self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], candidates: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.float64]]:
        """The likelihood of "True" and of "False", each of one token. Raises ConfigError for another candidate."""
        for words in candidates:
            if wrong := [word for word in words if word not in TRUTHS]:
                raise ConfigError(f"'{self.name}' cannot answer {wrong[0]!r} (expected True or False)")
        nll_N2 = -self.judged(images, prompts).double().log_softmax(1)
        return [
            np.array([[float(nll_N2[row, TRUTHS.index(word)]), 1.0] for word in words]) for row, words in enumerate(candidates)
        ]

    def judged(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, batch_size: int = 16) -> Tensor:
        """Logits [N, 2] of false and true."""
        require_one_per_image("prompts", prompts, images)
        statements = [self._pair(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        batches = []
        for some in parts(statements, batch_size):
            with self._ready() as device:
                encoded = self.tokenizer.encode([text for _, text in some], self.text_length)
                self.truncated += encoded.truncated
                text_BL, mask_BL = (torch.from_numpy(rows).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
                begun = [
                    self.model.image_features(self.preprocess([decode(pair[side], exact=True) for pair, _ in some]).to(device))
                    for side in range(2)
                ]
                batches.append(self.model.judge(*begun, self.model.text_features(text_BL, mask_BL), mask_BL).float().cpu())
        return torch.cat(batches) if batches else torch.zeros(0, 2)

    def _pair(self, image: ImageSource | None, prompt: PromptLike) -> tuple[tuple[ImageSource, ImageSource], str]:
        pieces = () if isinstance(prompt, str | Dialogue) else tuple(prompt)
        shown = [part for part in pieces if isinstance(part, ImagePart) and (part.source is not None or not part.place)]
        pictures = [one for part in shown if (one := image if part.source is None else part.source) is not None]
        text = " ".join(part.text.strip() for part in pieces if isinstance(part, TextPart)).strip()
        if len(pictures) != 2 or len(pieces) != 2 + sum(isinstance(part, TextPart) for part in pieces) or not text:
            raise DataError(
                f"'{self.name}' got {len(pictures)} pictures",
                field="prompt",
                expected="two pictures and a statement about them",
            )
        return (pictures[0], pictures[1]), text
