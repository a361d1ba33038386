"""Requests to text backends, sampling options, and the backend interface.

A request says the same thing twice: as a prompt, for whatever reads prompts, and as a caption with details, for whatever rewrites by
rules. Its seed is a number of its own, so that an answer depends on the request and never on what else is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TextRequest:
    """key      name of the request in messages: uid, style and number
    prompt   prompt for a language model
    caption  text that rules start from
    details  phrases that the text must contain, for rules
    style    style of the rules
    seed     63-bit seed of all randomness
    """

    key: str
    prompt: str
    caption: str = ""
    details: tuple[str, ...] = ()
    style: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """temperature  sampling temperature; 0 is greedy decoding
    top_p        nucleus sampling: smallest set of tokens with at least this probability
    max_tokens   maximum number of generated tokens
    stop         strings at the first of which the text ends
    """

    temperature: float = 0.9
    top_p: float = 0.95
    max_tokens: int = 77
    stop: tuple[str, ...] = ("\n",)

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ConfigError(
                f"temperature {self.temperature}, top_p {self.top_p}, max_tokens {self.max_tokens} "
                "(expected 0 or more, above 0 and at most 1, 1 or more)"
            )

    def cut(self, text: str) -> str:
        """Text before the first stop.

        >>> Sampling(stop=("=>",)).cut("a dog => a cat")
        'a dog '
        """
        return text[: min((position for stop in self.stop if (position := text.find(stop)) >= 0), default=len(text))]


PUBLISHED = Sampling()
"""As LaCLIP samples from LLaMA-7B."""


class TextBackend(Protocol):
    """Text backend: one answer per request, in order; equal requests get equal answers as far as the backend can guarantee it."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def terms(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    @property
    def calls(self) -> int: ...

    @property
    def kept(self) -> bool: ...

    def tokens(self, text: str) -> int:
        """Number of tokens of a text; an estimate where the backend cannot tell."""

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]: ...


def prompt_hash(identity: str, request: TextRequest) -> str:
    """Cache key of an answer, 32 hex digits: equal only if backend, prompt, rules and seed are equal."""
    parts = [identity, request.prompt, request.caption, list(request.details), request.style, request.seed]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:32]
