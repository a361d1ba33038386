"""Shared by recipes that instruct a language model about a picture: rows of picture, request and answer, cut to maximum lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diptych.core.contracts import Draws
from diptych.data.text.prompts.layout import Piece, TextPiece, TokenPiece
from diptych.data.text.prompts.template import Template
from diptych.data.text.question_answering.questions import Question
from diptych.models.bridges.language_model import LanguageVocabulary
from diptych.recipes._shared.language.bridges import BridgeBatch, BridgeRecipe

WHOLE = "instruction"
"""The `kind` of a question that says itself how it is to be answered, and is asked as it stands."""


@dataclass(frozen=True, kw_only=True)
class InstructionRecipe(BridgeRecipe):
    """Rows of a picture, a request and its answer. Lengths are of training; what is asked in use is read whole.

    prompt_length   tokens of a request at most, marks among them; 0: all
    prompt_keeps    of a longer one the "first" or the "last" tokens stay
    answer_length   tokens of an answer at most; 0: all. An encoder-decoder's answer ends in its end mark however long it was
    answer_end      of a decoder's answer: the end mark counts among its tokens, and a long answer lacks it ("counted", LAVIS), or stands
                    behind in any case ("added", mBLIP). A start mark counts too, where the tokenizer puts one; the row leaves it out
    asks            what a question stands in, "{question}" where it goes and "{language}" where the language of its answer does; one is
                    drawn. (): the question itself, as in any case where its kind is "instruction"
    asks_back       what asks for a question by its "{answer}"; (): nothing does
    """

    prompt_length: int = 0
    prompt_keeps: Literal["first", "last"] = "last"
    answer_length: int = 0
    answer_end: Literal["counted", "added"] = "counted"
    asks: tuple[str, ...] = ()
    asks_back: tuple[str, ...] = ()

    def request_and_answer(
        self, question: Question, rng: np.random.Generator, *, back: bool = False, language: str = ""
    ) -> tuple[str, str]:
        """A request and its answer: the question in one of the wordings, or what asks for it (`back`). `language` by its name."""
        wordings = self.asks_back if back else self.asks
        if not wordings or question.kind == WHOLE:
            return question.text, question.answer
        wording = wordings[int(rng.integers(len(wordings)))].replace("{language}", language)
        if back:
            return wording.replace("{answer}", question.answer), question.text
        return wording.replace("{question}", question.text), question.answer

    def instruction_batch(self, draws: Draws, requests: Sequence[tuple[str, str]], slots: Sequence[int]) -> BridgeBatch:
        """The batch of these requests and answers; `slots`, the places of each row's pictures."""
        words, template, cut = self.words(), Template(self.template), 0
        rows: list[list[Piece]] = []
        for (prompt, answer), picture_slots in zip(requests, slots, strict=True):
            row = [self._shortened(piece, words) for piece in template.pieces(picture_slots, prompt)]
            ids = words.pieces(self.space + answer)
            answer_ids = self._answer(ids, words)
            cut += self.answer_length > 0 and answer_ids[: len(ids)] != (*ids,)
            rows.append([*row, TokenPiece(answer_ids, answer=True)])
        made = self.laid(draws, rows)
        return replace(made, truncated=made.truncated + cut)

    def _shortened(self, piece: Piece, words: LanguageVocabulary) -> Piece:
        if not self.prompt_length or not isinstance(piece, TextPiece):
            return piece
        room = self.prompt_length - len(words.start_ids) - len(words.close_ids)
        ids = words.pieces(piece.text)
        return TokenPiece(tuple(ids[:room] if self.prompt_keeps == "first" else ids[max(0, len(ids) - room) :]))

    def _answer(self, ids: Sequence[int], words: LanguageVocabulary) -> tuple[int, ...]:
        whole, most = (*ids, words.end_id), self.answer_length
        if not most:
            return whole
        if words.close_ids:
            return (*ids[: most - 1], words.end_id)
        if self.answer_end == "added":
            return (*ids[: most - len(words.start_ids)], words.end_id)
        return whole[: most - len(words.start_ids)]
