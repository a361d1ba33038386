"""Streaming from `generate` of transformers: text pieces, early stop, start of the answer, and forced tokens to score another answer.

What implementations get wrong: a token may be part of a letter, and a later token may change what precedes it (a space before a full
stop), so a piece is given away only when no later token can take it back; and white space is given away with the word after it, so that
the pieces together are the stripped text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from diptych.core.contracts import GenerationOutput

BROKEN = "\ufffd"
"""What a decoder gives for a letter of which a token is still to come."""


class _StopGeneration(Exception):
    """Stops `generate` early, because the consumer closed the stream."""


class TextPieceStreamer:
    """A streamer of transformers (`put`, `end`) for one row.

    decode   all tokens so far to text, without special tokens, stripped
    ends     tokens that end an answer
    on_text  is called with each piece; False ends generation
    changes  whether a later token may change the last word, as where the tokenizer cleans up spaces
    sign     words that `decode` ends a text before: a beginning of them at the end is not given away before it is known to be none
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        ends: Collection[int],
        on_text: Callable[[str], bool],
        *,
        changes: bool = False,
        sign: str = "",
    ) -> None:
        self._decode, self._ends, self._on_text, self._changes, self._sign = decode, frozenset(ends), on_text, changes, sign
        self._ids: list[int] = []
        self._given = ""
        self._begun = False

    def put(self, value: Tensor) -> None:
        """Adds a token per call; the first call passes the prompt, or the decoder's start token, and is skipped."""
        if not self._begun:
            self._begun = True
            return
        self._ids += value.reshape(-1).tolist()
        if not self._give(self._settled(self._decode(self._ids))):
            raise _StopGeneration

    def end(self) -> None:
        self._give(self._decode(self._ids))

    def write(self, generate: Callable[..., Any], *, read: int, **options: Any) -> GenerationOutput:
        """Call `generate` with this streamer; `read` is how many tokens the request has."""
        with suppress(_StopGeneration):
            generate(streamer=self, **options)
        ended = bool(self._ids) and self._ids[-1] in self._ends
        return GenerationOutput(self._given, read, len(self._ids), ended)

    def _settled(self, text: str) -> str:
        text = text.rstrip(BROKEN)
        if self._changes:
            text = text[: max(text.rfind(" "), 0)]
        begun = next((size for size in range(len(self._sign) - 1, 0, -1) if text.endswith(self._sign[:size])), 0)
        return text[: len(text) - begun].rstrip()

    def _give(self, text: str) -> bool:
        """Hand over what is new."""
        new = text[len(self._given) :] if text.startswith(self._given) else ""
        self._given += new
        return self._on_text(new) if new else True


class PromptLengthRecorder:
    """A stopping criterion that never stops: it records the number of tokens before the first new one, which models count
    differently."""

    def __init__(self) -> None:
        self.length = 0
        self._seen = False

    def __call__(self, id_BT: Tensor, scores: Any, **options: Any) -> Tensor:
        if not self._seen:
            self._seen, self.length = True, id_BT.shape[1] - 1
        return torch.zeros(len(id_BT), dtype=torch.bool, device=id_BT.device)


class ForcedTokens:
    """A logits processor that allows only the next token of `target` at each step."""

    def __init__(self, target: Sequence[int]) -> None:
        self._left = iter(target)

    def __call__(self, id_BT: Tensor, score_BV: Tensor) -> Tensor:
        chosen_BV = torch.full_like(score_BV, -torch.inf)
        chosen_BV[:, next(self._left)] = 0.0
        return chosen_BV


@contextmanager
def sampling_options(temperature: float, top_p: float, seed: int) -> Iterator[dict[str, Any]]:
    """The options of `generate` for one way of choosing tokens; what is drawn inside depends on the seed and on nothing before."""
    if temperature <= 0:
        yield {"do_sample": False, "num_beams": 1}
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_p": top_p, "top_k": 0}
