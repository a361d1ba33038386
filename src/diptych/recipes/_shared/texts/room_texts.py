"""Descriptions of a room as token rows, with the proposals that they and their phrases mean.

Letters: S sentences, P phrases of a sentence, L tokens, M proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Draw
from diptych.data.points.room_language import RoomDescription, room_descriptions
from diptych.data.text.tokenize import Tokenizer

PHRASES = 3
"""Phrases of a sentence, at most."""


@dataclass(frozen=True, slots=True)
class RoomTexts:
    """id_SL, mask_SL  words of sentences; a sentence that is not there is all padding
    target_SM   weight of each proposal as the answer, 0 where it does not lie on what is meant
    meant_SM    bool: proposals that lie on what a sentence means
    named_S     class of what it means, -100 for none or several
    phrase_SPL, phrase_SPM  bool: tokens of a phrase, and proposals that it names
    caption_ML  a sentence about each proposal, -1 behind its end and where there is none
    """

    id_SL: npt.NDArray[np.int64]
    mask_SL: npt.NDArray[np.bool_]
    target_SM: npt.NDArray[np.float32]
    meant_SM: npt.NDArray[np.bool_]
    named_S: npt.NDArray[np.int64]
    phrase_SPL: npt.NDArray[np.bool_]
    phrase_SPM: npt.NDArray[np.bool_]
    caption_ML: npt.NDArray[np.int64]

    @classmethod
    def fields(cls) -> tuple[Field[Any], ...]:
        """The arrays, in order."""
        return fields(cls)


def described_words(draw: Draw, words: Tokenizer, length: int, *, sentences: int, most: int) -> RoomTexts:
    """Sentences of one room that a step reads, drawn without replacement; fewer are padded.

    The draw's media hold "ids", the id of the thing that each proposal lies on (-1: none), "soft", weights of proposals by the id of
    things, and "labels", numbers of classes by id.
    """
    described = room_descriptions(draw.sample)
    chosen = [described[int(k)] for k in draw.rng.permutation(len(described))[:sentences]]
    encoded = words.encode([one.text for one in chosen] + [""] * (sentences - len(chosen)), length)
    mask_SL = encoded.mask_BL.copy()
    mask_SL[len(chosen) :] = False
    id_M = np.full(most, -1, np.int64)
    id_M[: len(draw.media["ids"])] = draw.media["ids"]
    target_SM, meant_SM = np.zeros((sentences, most), np.float32), np.zeros((sentences, most), bool)
    named_S = np.full(sentences, -100, np.int64)
    phrase_SPL, phrase_SPM = np.zeros((sentences, PHRASES, length), bool), np.zeros((sentences, PHRASES, most), bool)
    for row, one in enumerate(chosen):
        meant_SM[row] = np.isin(id_M, one.object_ids)
        for thing in one.object_ids:
            weight_M = draw.media["soft"].get(thing, np.zeros(0))
            target_SM[row, : len(weight_M)] += weight_M
        if len(one.object_ids) == 1:
            named_S[row] = draw.media["labels"].get(one.object_ids[0], -100)
        for number, (start, end, ids) in enumerate(one.spans[:PHRASES]):
            phrase_SPL[row, number] = tokens_of(words, one.text, start, end, length)
            phrase_SPM[row, number] = np.isin(id_M, ids) & phrase_SPL[row, number].any()
    caption_ML = captions_of(described, id_M, words, length, draw.rng)
    return RoomTexts(encoded.ids_BL, mask_SL, target_SM, meant_SM, named_S, phrase_SPL, phrase_SPM, caption_ML)


def tokens_of(words: Tokenizer, text: str, start: int, end: int, length: int) -> npt.NDArray[np.bool_]:
    """bool [length]: tokens that overlap a half-open span of characters."""
    inside_L = np.zeros(length, bool)
    offsets = words.inner.encode(text, add_special_tokens=False).offsets
    for number, (first, last) in enumerate(offsets, start=len(words.prefix)):
        if number < length - len(words.suffix) and first < end and last > start:
            inside_L[number] = True
    return inside_L


def captions_of(
    described: Sequence[RoomDescription], id_M: npt.NDArray[np.int64], words: Tokenizer, length: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """int64 [M, length]: one of the sentences that mean the thing of each proposal alone; -1 where there is none."""
    caption_ML = np.full((len(id_M), length), -1, np.int64)
    for row, thing in enumerate(id_M.tolist()):
        own = [one.text for one in described if one.object_ids == (thing,)]
        if own:
            encoded = words.encode([own[int(rng.integers(len(own)))]], length)
            caption_ML[row] = np.where(encoded.mask_BL[0], encoded.ids_BL[0], -1)
    return caption_ML
