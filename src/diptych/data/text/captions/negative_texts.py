"""Pairs with wrong texts for each image, and with further right ones, in one batch.

Letters: B batch, K negatives an image, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch
from diptych.data.text.tokenize import Tokenizer

Writer = Callable[[Draw, str], Sequence[str]]
"""Texts made for a draw from the text that it shows; all randomness from the draw."""


@dataclass(frozen=True, kw_only=True)
class NegativeBatch(PairBatch):
    """Pairs, up to K wrong texts of each image, and one further right text where the recipe reads such.

    there_BK            bool: which negatives there are. The tokens of the others are padding, and no text tower reads them
    positive_BL         another text of the same image, or the image's text again if it has no other; None if none is read
    wrong, alike        how many negatives were made, and how many more were left out because they equal a right text of the sample,
                        in letters or, cut to L tokens, for the model
    """

    negative_BKL: Rows[Tensor]
    negative_mask_BKL: Rows[Tensor]
    there_BK: Rows[Tensor]
    positive_BL: Rows[Tensor] | None = None
    positive_mask_BL: Rows[Tensor] | None = None
    wrong: int = 0
    alike: int = 0


def negative_batch(
    pairs: PairBatch,
    draws: Draws,
    *,
    negatives: Writer,
    count: int,
    tokenizer: Tokenizer,
    positives: Writer | None = None,
) -> NegativeBatch:
    """`pairs` were made of the same draws: texts and views are drawn first, so that they are those of a recipe without negatives."""
    assert pairs.strings is not None
    texts, length = pairs.strings, pairs.text_BL.shape[1]
    written = [_wrong(draw, text, negatives, count) for draw, text in zip(draws, texts, strict=True)]
    flat = [text for made, _ in written for text in [*made, *[""] * (count - len(made))]]
    shape = (len(texts), count, length)
    encoded = tokenizer.encode(flat, length)
    negative_BKL = torch.from_numpy(encoded.ids_BL).reshape(shape)
    there_BK = torch.tensor([[column < len(made) for column in range(count)] for made, _ in written], dtype=torch.bool).reshape(
        shape[:2]
    )
    cut_BK = there_BK & (negative_BKL == pairs.text_BL[:, None]).all(-1)
    others: dict[str, Any] = {}
    if positives is not None:
        right = [next(iter(positives(draw, text)), text) for draw, text in zip(draws, texts, strict=True)]
        again = tokenizer.encode(right, length)
        others = {"positive_BL": torch.from_numpy(again.ids_BL), "positive_mask_BL": torch.from_numpy(again.mask_BL)}
    return NegativeBatch(
        **{field.name: getattr(pairs, field.name) for field in fields(PairBatch)},
        **others,
        negative_BKL=negative_BKL,
        negative_mask_BKL=torch.from_numpy(encoded.mask_BL).reshape(shape),
        there_BK=there_BK & ~cut_BK,
        wrong=int((there_BK & ~cut_BK).sum()),
        alike=sum(alike for _, alike in written) + int(cut_BK.sum()),
    )


def _wrong(draw: Draw, text: str, negatives: Writer, count: int) -> tuple[list[str], int]:
    """Up to `count` different texts that equal no right text of the sample, and how many that did were left out."""
    right = {_key(text), *(_key(other.string) for other in draw.sample.positives())}
    made = list(dict.fromkeys(negatives(draw, text)))
    wrong = [new for new in made if _key(new) not in right]
    return wrong[:count], len(made) - len(wrong)


def _key(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .")


def sample_texts(rng: np.random.Generator, texts: Sequence[str], count: int) -> list[str]:
    """Up to `count` different ones of the texts, at random."""
    return [texts[position] for position in rng.permutation(len(texts))[:count].tolist()]
