"""Text backend of an OpenAI-compatible endpoint: vLLM, llama.cpp's server, Ollama, a paid service.

Requests go to ``{address}/completions`` or, with `chat`, to ``{address}/chat/completions``. Temporary faults are retried
(`models.endpoint.connection`);
a malformed answer is counted and not asked for again here. The key is read from ``$DIPTYCH_API_KEY``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from diptych.core.config import config_hash
from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError
from diptych.curate.writing.requests import PUBLISHED, Sampling, TextRequest
from diptych.models.endpoint.completion import completion_of
from diptych.models.endpoint.connection import ServerConnection

LETTERS_A_TOKEN = 4
"""Rule of thumb for English, where nobody can count."""


@dataclass(frozen=True)
class Endpoint:
    """address   base address including the version, "http://localhost:8000/v1"
    model     name of the model on the server
    chat      use the chat API instead of the completion API
    timeout   maximum number of seconds of an attempt without new bytes
    longest   maximum number of seconds of an attempt in total
    tries     number of attempts per request
    calls     number of parallel requests
    terms     terms of use of its texts
    """

    address: str
    model: str
    sampling: Sampling = PUBLISHED
    chat: bool = False
    timeout: float = 60.0
    longest: float = 600.0
    tries: int = 4
    calls: int = 8
    terms: str = ""

    at_once = 1
    kept = True

    def __post_init__(self) -> None:
        self._line()
        if not self.model:
            raise ConfigError(f"{self.address} does not name a model (expected {self.address}#MODEL)")
        if self.calls < 1:
            raise ConfigError(f"calls {self.calls} (expected 1 or more)")

    @property
    def name(self) -> str:
        return f"{self.address}#{self.model}"

    @cached_property
    def identity(self) -> str:
        return config_hash([self.address, self.model, self.chat, self.sampling])

    def tokens(self, text: str) -> int:
        """Estimated number of tokens: the server alone can count."""
        return -(-len(text) // LETTERS_A_TOKEN)

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
        return [self._ask_once(request) for request in requests]

    def _ask_once(self, request: TextRequest) -> Reply:
        text, fault = self._line().ask("/chat/completions" if self.chat else "/completions", self._body(request))
        if fault:
            return Reply("", fault=fault)
        reply = completion_of(text, chat=self.chat)
        return reply if reply.fault else replace(reply, text=self.sampling.cut(reply.text))

    def _line(self) -> ServerConnection:
        return ServerConnection(self.address, self.timeout, self.longest, self.tries)

    def _body(self, request: TextRequest) -> bytes:
        plain: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": request.seed % 2**31,
        }
        if self.sampling.stop:
            plain["stop"] = list(self.sampling.stop)
        plain |= {"messages": [{"role": "user", "content": request.prompt}]} if self.chat else {"prompt": request.prompt}
        return json.dumps(plain).encode()
