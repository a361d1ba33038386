"""Dialogues as token rows: questions are read, answers and the end mark after each are learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from diptych.data.text.prompts.layout import TokenPiece
from diptych.data.text.tokenize import Tokenizer

VICUNA_CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: {image}\n{prompt} ASSISTANT:"
)
"""First turn of a chat of Vicuna 1.1 about an image, as LLaVA 1.5 is trained with."""
MISTRAL_CHAT = "[INST] {image}\n{prompt} [/INST]"
"""A question about an image to Mistral-7B-Instruct, as LLaVA 1.6 is asked."""
CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"
CHATML_CHAT = (
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{image}\n{prompt}<|im_end|><|im_start|>assistant\n"
)
"""A question about an image in ChatML, as LLaVA 1.6 of 34B is asked (`chatml_direct`)."""


def dialogue_tokens(
    tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], *, space: str = " ", end: str = ""
) -> list[TokenPiece]:
    """Pieces of a dialogue, answers as targets.

    turns  what precedes each answer, role marks included, and the answer
    end    what ends an answer in place of the end mark
    space  between the two, learned with the answer: a vocabulary writes it into the answer's first token, or as one of its own

    The whole text is encoded at once, end marks spelled in it, as LLaVA's released code does (`preprocess_v1`): a vocabulary may write
    what follows a mark otherwise than what begins a text. A vocabulary in which spelled marks are plain text is encoded turn by turn.
    """
    sign = end or str(tokenizer.inner.id_to_token(tokenizer.eot_id))
    whole = not tokenizer.literal
    tokens: list[tuple[int, bool]] = []
    for group in [turns] if whole else [[turn] for turn in turns]:
        text, spans = "", list[tuple[int, int]]()
        for before, answer in group:
            text += before
            written = space + (answer + sign if whole or end else answer)
            spans.append((len(text), len(text) + len(written)))
            text += written
        encoding = tokenizer.inner.encode(text, add_special_tokens=False)
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            tokens.append((token_id, any(start < last and stop > first for first, last in spans)))
        if not whole and not end:
            tokens.append((tokenizer.eot_id, True))
    return [
        TokenPiece(tuple(token_id for token_id, _ in run), answer=answered) for answered, run in groupby(tokens, lambda t: t[1])
    ]


def cut_pieces(pieces: Sequence[TokenPiece], room: int) -> tuple[list[TokenPiece], bool]:
    """The first `room` tokens, and whether there were more. A question that lost its answer is left out."""
    kept, count = list[TokenPiece](), 0
    for piece in pieces:
        ids = piece.ids[: max(0, room - count)]
        count += len(piece.ids)
        if ids:
            kept.append(TokenPiece(ids, answer=piece.answer))
    while len(kept) > 1 and not kept[-1].answer and count > room:
        kept.pop()
    return kept, count > room
