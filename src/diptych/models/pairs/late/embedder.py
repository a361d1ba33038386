"""Inference with a late-interaction dual encoder, compared token by token; saved as one folder.

Letters: B batch, N images, K texts, C channel, H W, P patches, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.models.io.device import batched
from diptych.models.io.folder import fingerprint
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.late.encoder import content_mask, encode_patches, encode_words, mean_vector
from diptych.models.pairs.late.scores import late_scores

R = TypeVar("R")


class LateEmbedder(PairEmbedder):
    """Embeds patches and words (FILIP, 2111.07783), and scores pairs by late interaction.

    `embed_images` and `embed_texts` return the mean of the tokens,
    which is suitable for a shortlist but is not the trained score. Tasks call `score_pairs`,
    and an index of kind "late" compares tokens.

    marks  True if the start and end tokens of a text are compared, as in training
    """

    kind: ClassVar[str] = "late_encoder"

    def __init__(self, *args: Any, marks: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.marks = marks

    @cached_property
    def fingerprint(self) -> str:
        settings = {
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "kind": self.kind,
            "marks": self.marks,
        }
        return fingerprint(self.model, settings)

    def settings(self) -> dict[str, Any]:
        return {"marks": self.marks}

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"marks": bool(config["marks"])}

    @one_or_many
    def embed_patches(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> list[Unit]:
        """Return patch vectors [P, D] per image, row by row of its grid."""
        return [row_PD for rows in self._patches(images, batch_size, _real_rows) for row_PD in rows]

    @one_or_many
    def embed_words(self, texts: Sequence[str], *, batch_size: int = 256) -> list[Unit]:
        """Return word vectors [L, D] per text. Raises DataError for a text without a token."""
        return [row_LD for rows in self._words(texts, batch_size, _real_rows) for row_LD in rows]

    @one_or_many
    def embed_in_context(self, texts: Sequence[str]) -> list[list[tuple[str, Unit]]]:
        """Return the words of each text with their token vectors [T, D] in context; start and end tokens belong to no word."""
        answers = []
        blocks = self._words(texts, 256, lambda token_BLD, _: token_BLD.float().cpu().numpy())
        rows = (row_LD for block in blocks for row_LD in block)
        for text, row_LD in zip(texts, rows, strict=True):
            answers.append([(word, row_LD[positions]) for word, positions in self.tokenizer.word_places(text, self.text_length)])
        return answers

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return self._rows(self._patches(images, batch_size, mean_vector))

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return self._rows(self._words(texts, batch_size, mean_vector))

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"], batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Return scores [N, K]; the patches of all images are kept in memory.

        For image queries, the mean over patches of the best cosine with a word of the text; for text queries,
        the mean over words of the best cosine with a patch.
        """
        if not len(images) or not len(texts):
            return np.zeros((len(images), len(texts)), np.float32)
        batches = self._patches(images, batch_size, lambda *tokens: tokens)
        patch_NPD, patch_mask_NP = (torch.cat([tokens[part] for tokens in batches]) for part in (0, 1))

        def score(word_KLD: Tensor, word_mask_KL: Tensor) -> npt.NDArray[np.float32]:
            by_image_NK, by_text_NK = late_scores(patch_NPD, word_KLD, patch_mask_NP, word_mask_KL)
            return (by_image_NK if query == "image" else by_text_NK).float().cpu().numpy()

        return np.concatenate(self._words(texts, batch_size, score), 1)

    def _patches(self, images: Sequence[ImageSource], batch_size: int, work: Callable[[Tensor, Tensor], R]) -> list[R]:
        """Apply `work` to the patches of batches and their masks, with smaller batches if memory runs out."""
        with self._ready() as device:

            def one(part: Sequence[ImageSource]) -> R:
                image_BCHW = self.preprocess([decode(image, exact=True) for image in part]).to(device)
                return work(*encode_patches(self.model, image_BCHW))

            return batched(images, batch_size, device, one)

    def _words(self, texts: Sequence[str], batch_size: int, work: Callable[[Tensor, Tensor], R]) -> list[R]:
        """Apply `work` to the words of texts in batches."""
        with self._ready() as device:

            def one(part: Sequence[str]) -> R:
                encoded = self.tokenizer.encode(list(part), self.text_length)
                text_BL, mask_BL = self._fitted(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
                word_mask_BL = compared_words(mask_BL, self.tokenizer, part, marks=self.marks)
                result = work(encode_words(self.model, text_BL.to(device), mask_BL.to(device)), word_mask_BL.to(device))
                self.truncated += encoded.truncated  # once, also if a part is halved
                return result

            return batched(texts, batch_size, device, one)


def compared_words(mask_BL: Tensor, tokenizer: Any, names: Sequence[str], *, marks: bool) -> Tensor:
    """Return the mask of compared tokens. `names` are for error messages: a text with only start and end tokens is refused."""
    word_mask_BL = content_mask(mask_BL, prefix=len(tokenizer.prefix), suffix=len(tokenizer.suffix))
    empty = torch.where(~word_mask_BL.any(1))[0]
    if len(empty):
        raise DataError(
            f"the text of {names[int(empty[0])]!r} has no token", field="texts", expected="one word or more in every text"
        )
    return mask_BL if marks else word_mask_BL


def _real_rows(token_BTD: Tensor, mask_BT: Tensor) -> list[Unit]:
    """Return the tokens of each item without padding."""
    return [row_TD[real_T] for row_TD, real_T in zip(token_BTD.float().cpu().numpy(), mask_BT.cpu().numpy(), strict=True)]
