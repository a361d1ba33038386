"""Any OpenAI-compatible endpoint: vLLM, llama.cpp's server, Ollama, a service that is paid for.

Asks ``{address}/completions`` or, with `chat`, ``{address}/chat/completions``. What a server does wrong is expected: it takes too long,
asks to wait (429 with or without Retry-After), fails (5xx), breaks off in the middle, or answers with something else than was agreed.
The first four are tried again, with pauses that double; the last is a malformed answer, counted and not asked for again here.

The key is read from ``$DIPTYCH_API_KEY``, is sent to this address alone, and is written nowhere.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from diptych.core.config import config_hash
from diptych.core.errors import ConfigError
from diptych.curate.writing.requests import PUBLISHED, Answer, Request, Sampling

KEY = "DIPTYCH_API_KEY"
LONGEST_PAUSE = 60.0
"""Seconds between two tries at most, whatever Retry-After says."""
LARGEST = 4 * 2**20
"""Bytes of an answer that are read."""
LETTERS_A_TOKEN = 4
"""Rule of thumb for English, where nobody can count."""


class _TooLong(TimeoutError):
    """Bytes came in time, but too many times."""


@dataclass(frozen=True)
class Endpoint:
    """address   up to and with the version, "http://localhost:8000/v1"
    model     as the server calls it
    chat      messages and not a bare prompt
    timeout   seconds that one try may wait for the next bytes
    longest   seconds that one try may take in all, however steadily bytes come
    tries     of one request
    calls     requests in the air
    terms     under which its texts may be used
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
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the endpoint's address is {self.address!r} (expected http://HOST:PORT/v1#MODEL)")
        if not self.model:
            raise ConfigError(f"{self.address} does not say which model (expected {self.address}#MODEL)")
        if self.tries < 1 or min(self.timeout, self.longest) <= 0 or self.calls < 1:
            raise ConfigError(
                f"tries {self.tries}, timeout {self.timeout}, longest {self.longest}, calls {self.calls} "
                "(expected 1 or more, above 0, above 0, 1 or more)"
            )

    @property
    def name(self) -> str:
        return f"{self.address}#{self.model}"

    @cached_property
    def identity(self) -> str:
        return config_hash([self.address, self.model, self.chat, self.sampling])

    def tokens(self, text: str) -> int:
        """An estimate: the server alone can count."""
        return -(-len(text) // LETTERS_A_TOKEN)

    def write(self, requests: Sequence[Request]) -> list[Answer]:
        return [self._asked(request) for request in requests]

    def _asked(self, request: Request) -> Answer:
        body = self._body(request)
        pause, fault = 0.5, ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                status, retry_after, text = self._post(body)
            except TimeoutError as error:
                fault = f"timeout: {error}" if isinstance(error, _TooLong) else f"timeout: nothing within {self.timeout:g} s"
                continue
            except (OSError, http.client.HTTPException) as error:
                fault = f"unreachable: {error or type(error).__name__}"
                continue
            if status == 200:
                return self._read(text)
            fault = f"refused: HTTP {status} {text[:200].strip()!r}"
            if status != 429 and status < 500:
                return Answer("", fault=fault)  # wrong key, model or request: the next try would fail as well
            if retry_after:
                pause = min(retry_after, LONGEST_PAUSE)
        return Answer("", fault=fault)

    def _body(self, request: Request) -> bytes:
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

    def _post(self, body: bytes) -> tuple[int, float, str]:
        """Status, seconds of Retry-After (0: none), and what the server said."""
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "User-Agent": "diptych"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        path = parts.path.rstrip("/") + ("/chat/completions" if self.chat else "/completions")
        line = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        late = threading.Event()
        try:
            line.connect()
            clock = threading.Timer(self.longest, _hang_up, (line.sock, late))
            clock.daemon = True
            clock.start()
            try:
                line.request("POST", path, body, headers)
                answer = line.getresponse()
                data = answer.read(LARGEST + 1)
            finally:
                clock.cancel()
                if late.is_set():
                    raise _TooLong(f"not at its end after {self.longest:g} s")
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and len(data) < min(int(length), LARGEST):
                raise http.client.IncompleteRead(data, int(length) - len(data))
            return answer.status, _seconds(answer.headers.get("Retry-After", "")), data.decode("utf-8", "replace")
        finally:
            line.close()

    def _read(self, text: str) -> Answer:
        """The first choice's text. Anything that is not what was agreed is a fault."""
        if len(text) > LARGEST:
            return Answer("", fault=f"malformed: more than {LARGEST:,} bytes")
        try:
            plain = json.loads(text)
            choice = plain["choices"][0]
            written = choice["message"]["content"] if self.chat else choice["text"]
            usage = plain.get("usage") or {}
            read, said = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return Answer("", fault=f"malformed: no choice with a text in {text[:120]!r}")
        if not isinstance(written, str):
            return Answer("", fault=f"malformed: the text is {type(written).__name__}")
        return Answer(self.sampling.cut(written), read, said)


def _hang_up(line: socket.socket, late: threading.Event) -> None:
    """Whoever waits for bytes of this line gets an end or an error at once: a time limit of each wait does not end a server that drips."""
    late.set()
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _seconds(value: str) -> float:
    """Of Retry-After; a date, or nonsense, counts as none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        return 0.0
