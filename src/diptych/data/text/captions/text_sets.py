"""Several texts per image: long captions cut into sentences, some of them drawn, all of them in one batch.

Letters: B batch, C channel, H W pixels, K texts per image, L text tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Text
from diptych.data.columns import read_table
from diptych.data.load.batch import TensorBatch, group_ids, view_with_texts
from diptych.data.media.transforms import Preprocess
from diptych.data.text.captions.sentences import sentences
from diptych.data.text.captions.sides import Sides
from diptych.data.text.tokenize import Tokenizer

CAPTIONS = "synthetic_caption"
"""Table and column of captions that a curation step made."""
AROUND = re.compile(r"^\W+|\W+$")
STOPS = re.compile(r"\n|</s>|[.]")
Cut = Literal["sentences", "stops"]


@dataclass(frozen=True)
class TextSetBatch(TensorBatch):
    """Images with K texts each; row i, column k is text k of image i.

    text_mask_BKL  True on tokens, the start and end marks included, False on padding
    text_id_BK     int64; equal numbers in a row: the same text was drawn twice, since the image has fewer than K
    group_B        int64; equal numbers: same concept, so neither is the other's negative
    truncated      how many of the texts were longer than L and were cut
    """

    image_BCHW: Rows[Tensor]
    text_BKL: Rows[Tensor]
    text_mask_BKL: Rows[Tensor]
    text_id_BK: Rows[Tensor]
    group_B: Rows[Tensor]
    truncated: int = 0


def text_set_batch(
    draws: Draws,
    *,
    count: int,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    text_length: int,
    merged: int = 1,
    keep_first: bool = False,
    crop_scale: tuple[float, float] = (0.9, 1.0),
    flip: bool = False,
    sides: Sides = "keep",
    language: str = "en",
    cut: Cut = "sentences",
) -> TextSetBatch:
    """`count` sub-captions and a random square crop of every draw.

    The draw's own generator decides: first its texts, then crop, then flip, so that with one text that is one sentence the batch
    is that of `pair_batch`. `keep_first` puts the sample's first text, whole, before the drawn ones: K is then count + 1. `cut`: see
    `texts_of_draw`.
    """
    texts: list[str] = []
    ids, images = [], []
    for draw in draws:
        own, numbers = texts_of_draw(draw, count, merged=merged, keep_first=keep_first, language=language, cut=cut)
        shown_HWC, shown_texts = view_with_texts(draw, own, preprocess.size, crop_scale, flip, sides)
        texts += shown_texts
        ids.append(numbers)
        images.append(shown_HWC)
    encoded = tokenizer.encode(texts, text_length)
    shape = (len(draws), count + keep_first, text_length)
    return TextSetBatch(
        image_BCHW=preprocess(images),
        text_BKL=torch.from_numpy(encoded.ids_BL).reshape(shape),
        text_mask_BKL=torch.from_numpy(encoded.mask_BL).reshape(shape),
        text_id_BK=torch.tensor(ids, dtype=torch.int64),
        group_B=group_ids(draws),
        truncated=encoded.truncated,
    )


def texts_of_draw(
    draw: Draw, count: int, *, merged: int = 1, keep_first: bool = False, language: str = "en", cut: Cut = "sentences"
) -> tuple[list[str], list[int]]:
    """The texts that this draw trains on and a number for each; equal numbers are equal texts.

    cut  "sentences" draws among the different sentences of all texts, each once before one comes again; "stops" as DreamLIP's released
         code, among what lies between full stops, line breaks and </s>, equal ones by themselves, with repetition if there are fewer
         than `count`, and with `keep_first` not of the first text
    """
    positives = draw.sample.positives(language)
    if not positives:
        kind = f"text in language '{language}'" if language else "text"
        raise DataError(f"sample '{draw.sample.uid}' has no {kind}", field="texts", expected="at least one")
    first = [first_text(positives)] if keep_first else []
    if cut == "stops":
        begin = next((position for position, text in enumerate(positives) if first and text.string == first[0]), -1)
        others = [text for position, text in enumerate(positives) if position != begin]
        rest = split_at_stops(others, merged) or split_at_stops(positives, merged) or [text.string for text in positives]
        often = len(rest) < count
        chosen = first + [
            rest[position]
            for position in (
                [int(draw.rng.integers(len(rest))) for _ in range(count)] if often else sample_indices(draw.rng, len(rest), count)
            )
        ]
    else:
        pool = sub_captions(positives, merged) or [text.string for text in positives]
        rest = [text for text in pool if not first or text_key(text) != text_key(first[0])] or pool
        chosen = first + [rest[position] for position in sample_indices(draw.rng, len(rest), count)]
    numbers: dict[str, int] = {}
    return chosen, [numbers.setdefault(text_key(text), len(numbers)) for text in chosen]


@lru_cache(maxsize=4)
def caption_table(folder: str) -> dict[str, str]:
    """Captions by uid that a curation step left in its folder: `diptych curate template_captions DATA FOLDER`."""
    table = read_table(Path(folder), CAPTIONS).table
    return dict(zip(table["uid"].to_pylist(), table[CAPTIONS].to_pylist(), strict=True))


def sub_captions(texts: Iterable[Text], merged: int = 1) -> list[str]:
    """Every different sentence of the texts, in order; `merged` joins this many consecutive ones of a text, the last may be fewer.

    Sentences that differ only in case or in the punctuation around them are one.

    >>> sub_captions([Text("a red bus"), Text("A red bus. It stands near a tree. It is new.")], merged=2)
    ['a red bus', 'A red bus. It stands near a tree.', 'It is new.']
    """
    if merged < 1:
        raise ConfigError(f"merged is {merged} (expected 1 sentence or more a sub-caption)")
    caption_by_key: dict[str, str] = {}
    for text in texts:
        parts = sentences(text.string)
        for start in range(0, len(parts), merged):
            joined = " ".join(parts[start : start + merged])
            caption_by_key.setdefault(text_key(joined), joined)
    return list(caption_by_key.values())


def split_at_stops(texts: Iterable[Text], merged: int = 1) -> list[str]:
    """Parts between full stops, line breaks and </s>, in order, repeats included; `merged` joins as many neighbours, once for each
    start that has enough of them.

    >>> split_at_stops([Text("a red bus"), Text("It is 2.5 m high. New.")], merged=2)
    ['a red bus. It is 2', 'It is 2. 5 m high', '5 m high. New']
    """
    parts = [piece.strip() for text in texts for piece in STOPS.split(text.string) if piece.strip()]
    return [". ".join(parts[at : at + merged]) for at in range(len(parts) - merged + 1)]


def first_text(texts: Sequence[Text]) -> str:
    """The text that came with the image: the first of origin "alt", else the first."""
    return next((text.string for text in texts if text.origin == "alt"), texts[0].string)


def text_key(text: str) -> str:
    """Normalised key of a text: equal for texts that differ only in case or in the punctuation around them."""
    return AROUND.sub("", text).casefold() or text


def sample_indices(rng: np.random.Generator, available: int, count: int) -> list[int]:
    """`count` of the numbers below `available`, in random order: all different when there are as many, else each once and then
    again. Every number is as likely as any other, the last one included.

    >>> sorted(sample_indices(np.random.default_rng(0), 3, 3))
    [0, 1, 2]
    """
    numbers = list(range(available))
    chosen = []
    for step in range(min(count, available)):
        other = step + int(rng.integers(available - step))
        numbers[step], numbers[other] = numbers[other], numbers[step]
        chosen.append(numbers[step])
    return chosen + [int(rng.integers(available)) for _ in range(count - len(chosen))]
