"""Prompts and answers of a language model as rows of ids, with positions for image tokens.

A row is pieces in order: words, places that the tokens of a picture take, and the answer that the model is to write. What
implementations get wrong, and what holds here:

- The start mark comes once: before everything else, also before a picture, or where a vocabulary says so after a picture that stands
  first, as BLIP-2's kind has it. Pieces in between have no special tokens of their own.
- An encoder-decoder's tokenizer puts an end mark after what the encoder reads, too.
- The loss counts the tokens of an answer and the end mark after it, nothing else. Padding is known by place and never by its id, which
  in many vocabularies is the end mark's: a model that is never asked for the end mark never learns to stop.
- Rows are padded on the right to train and on the left to write, and the mask says where.

Letters: B batch, L positions of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch

Side = Literal["right", "left"]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of text. answer  target of the model, followed by the end mark where `ends`"""

    text: str
    answer: bool = False
    ends: bool = True


@dataclass(frozen=True, slots=True)
class ImageSlots:
    """As many places as a picture has tokens."""

    count: int


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """A piece given by token ids: chosen ones, or a truncated text. `answer` as of `TextPiece`, without an end mark.

    picture  they stand for a picture, so that a start mark goes where it goes beside one
    """

    ids: tuple[int, ...]
    answer: bool = False
    picture: bool = False


Piece = TextPiece | ImageSlots | TokenPiece


class PromptTokenizer(Protocol):
    """Special tokens and tokenizer of a language model.

    start_ids  before every row, as the model's own tokenizer puts them; often none
    start_behind  they follow a picture that a row begins with
    close_ids  after what precedes an answer, for encoder-decoders; else none
    end_id     after an answer
    pad_id     fills rows up
    """

    @property
    def start_ids(self) -> Sequence[int]: ...
    @property
    def start_behind(self) -> bool: ...
    @property
    def close_ids(self) -> Sequence[int]: ...
    @property
    def end_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    def pieces(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""
        ...


AnswerPlaces = tuple[Tensor, Tensor, Tensor]


def answer_places(answer_BL: Tensor) -> AnswerPlaces:
    """column_C, columns before one that holds an answer; row_A and place_A, the row of each token and its number among those columns."""
    before_BL = answer_BL[:, 1:]
    column_C = before_BL.any(0).nonzero()[:, 0]
    row_A, place_A = before_BL[:, column_C].nonzero(as_tuple=True)
    return column_C, row_A, place_A


@dataclass(frozen=True)
class Layout(TensorBatch):
    """Rows for a language model.

    id_BL      int64; `pad_id` on padding and on the places of pictures
    slot_BL    True where a token of a picture stands
    mask_BL    True where anything stands
    answer_BL  True on what the loss counts
    truncated  how many answers were longer than the row and were cut
    places     where answers are written (`answer_places`), found while the rows are on the host; None: they have to be searched for
    split      the same of words with padding and of pictures, counted over all rows (`with_split`); None if nobody asked
    """

    id_BL: Rows[Tensor]
    slot_BL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    answer_BL: Rows[Tensor]
    truncated: int = 0
    places: AnswerPlaces | None = None
    split: tuple[Tensor, Tensor] | None = None

    def rows(self, start: int, stop: int) -> Self:
        whole = start == 0 and stop >= len(self)
        return self if whole else replace(super().rows(start, stop), places=None, split=None)

    def with_split(self) -> Self:
        """With places of words and pictures, for a model that takes them through layers of their own. To be called on the host."""
        slot_N = self.slot_BL.flatten()
        return replace(self, split=((~slot_N).nonzero()[:, 0], slot_N.nonzero()[:, 0]))

    def positions(self) -> Tensor:
        """The number of each place among those that count, from 0; 0 on padding to the left of them. [B, L]"""
        return (self.mask_BL.long().cumsum(1) - 1).clamp_min(0)


def lay_out(
    rows: Sequence[Iterable[Piece]],
    vocabulary: PromptTokenizer,
    *,
    length: int = 0,
    side: Side = "right",
    names: Sequence[str] = (),
) -> Layout:
    """Rows of ids, as wide as the longest.

    length  places of a row at most; an answer that is longer is cut, the end mark with it; 0 for no limit
    side    where padding goes: "right" to train, "left" to write
    names   what to call a row in an error, its uid for example

    Raises DataError if what precedes an answer does not fit: a prompt is never cut in silence.
    """
    if length < 0:
        raise ConfigError(f"length is {length} (expected 0 for no limit, or a number of tokens)")
    laid = [_row(list(row), vocabulary, length, names[number] if names else f"row {number}") for number, row in enumerate(rows)]
    width = max((len(ids) for ids, *_ in laid), default=0)
    shape = (len(laid), width)
    id_BL = torch.full(shape, vocabulary.pad_id, dtype=torch.int64)
    slot_BL, mask_BL, answer_BL = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    for number, (ids, slots, answers, _) in enumerate(laid):
        columns = slice(len(ids)) if side == "right" else slice(width - len(ids), None)
        id_BL[number, columns] = torch.tensor(ids, dtype=torch.int64)
        slot_BL[number, columns] = torch.tensor(slots, dtype=torch.bool)
        answer_BL[number, columns] = torch.tensor(answers, dtype=torch.bool)
        mask_BL[number, columns] = True
    return Layout(id_BL, slot_BL, mask_BL, answer_BL, sum(cut for *_, cut in laid), answer_places(answer_BL))


def _row(
    pieces: Sequence[Piece], vocabulary: PromptTokenizer, length: int, name: str
) -> tuple[list[int], list[bool], list[bool], bool]:
    ids, slots, answers = list[int](), list[bool](), list[bool]()
    fixed = 0  # places up to the end of the last piece that is no answer
    for piece in _marked(pieces, vocabulary):
        if isinstance(piece, ImageSlots):
            piece_ids, is_slot, is_answer = [vocabulary.pad_id] * piece.count, True, False
        elif isinstance(piece, TokenPiece):
            piece_ids, is_slot, is_answer = list(piece.ids), False, piece.answer
        else:
            piece_ids = vocabulary.pieces(piece.text)
            piece_ids = [*piece_ids, vocabulary.end_id] if piece.answer and piece.ends else piece_ids
            is_slot, is_answer = False, piece.answer
        ids += piece_ids
        slots += [is_slot] * len(piece_ids)
        answers += [is_answer] * len(piece_ids)
        fixed = fixed if is_answer else len(ids)
    if answers[:1] == [True]:
        raise DataError(f"{name}: nothing comes before the answer", expected="a start mark, a picture or a prompt")
    if length and fixed + any(answers) > length:
        raise DataError(
            f"{name}: the prompt takes {fixed} of {length} tokens, image tokens included",
            expected="a shorter prompt, or a larger limit",
        )
    cut = bool(length) and len(ids) > length
    return (ids[:length], slots[:length], answers[:length], True) if cut else (ids, slots, answers, False)


def _marked(pieces: Sequence[Piece], vocabulary: PromptTokenizer) -> list[Piece]:
    """The row with its start marks, and the closing marks after its prompt."""
    row = list(pieces)
    prompt_end = max(
        (position + 1 for position, piece in enumerate(row) if isinstance(piece, ImageSlots) or not piece.answer), default=0
    )
    if vocabulary.close_ids:
        row.insert(prompt_end, TokenPiece(tuple(vocabulary.close_ids)))
    if vocabulary.start_ids:
        behind = (
            vocabulary.start_behind
            and row
            and (isinstance(row[0], ImageSlots) or (isinstance(row[0], TokenPiece) and row[0].picture))
        )
        row.insert(1 if behind else 0, TokenPiece(tuple(vocabulary.start_ids)))
    return row
