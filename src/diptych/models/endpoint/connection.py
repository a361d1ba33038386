"""Connection to an OpenAI-compatible server: one request is sent until it is answered, refused, or has failed often and long
enough.

What a server does wrong is expected: it takes too long, asks to wait (429 with or without Retry-After), fails (5xx), or breaks
off in the middle. These pass, and are tried again with pauses that double. A refusal (another 4xx) does not pass, and is not.

A key is read from the environment, is sent to this address alone, and is written nowhere: where a server repeats it, it is
struck out.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from diptych.core.errors import ConfigError

KEY = "DIPTYCH_API_KEY"
LONGEST_PAUSE = 60.0
"""Seconds between two tries at most, whatever Retry-After says."""
LARGEST = 4 * 2**20
"""Bytes of an answer that are read."""
PASSING = (408, 425, 429)
"""Statuses below 500 after which the next try may be answered."""


class _DeadlineExceeded(TimeoutError):
    """A try took longer than `longest` although bytes kept coming."""


class ConnectionClosed(Exception):
    """The caller closed the connection."""


@dataclass(frozen=True)
class ServerConnection:
    """address   up to and with the version, "http://localhost:8000/v1"
    timeout   seconds that one try may wait for the next bytes
    longest   seconds that one try may take in all, however steadily bytes come
    tries     of one request, at least
    patience  seconds after the first failure of a request for which it is tried again, however many tries that takes
    key       the variable of the environment that holds the key
    """

    address: str
    timeout: float = 60.0
    longest: float = 600.0
    tries: int = 4
    patience: float = 0.0
    key: str = KEY
    closed: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the endpoint's address is {self.address!r} (expected http://HOST:PORT/v1#MODEL)")
        if parts.username or parts.password:
            raise ConfigError(f"the endpoint's address holds a password (expected it in the variable {self.key})")
        if self.tries < 1 or not (self.timeout > 0 and self.longest > 0 and self.patience >= 0):
            raise ConfigError(
                f"tries {self.tries}, timeout {self.timeout}, longest {self.longest}, patience {self.patience} "
                "(expected 1 or more, above 0, above 0, 0 or more)"
            )

    def ask(self, path: str, body: bytes) -> tuple[str, str]:
        """Body of the server's response with status 200, and ""; or "" and the fault.

        Raises ConnectionClosed if the connection is closed in between.
        """
        pause, fault, attempt, began = 0.5, "", 0, 0.0
        while attempt < self.tries or time.monotonic() - began < self.patience:
            if attempt:
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            attempt += 1
            began = began or time.monotonic()
            try:
                status, retry_after, text = self._post(path, body)
            except TimeoutError as error:
                fault = (
                    f"timeout: {error}" if isinstance(error, _DeadlineExceeded) else f"timeout: nothing within {self.timeout:g} s"
                )
                continue
            except (OSError, http.client.HTTPException) as error:
                fault = f"unreachable: {error or type(error).__name__}"
                continue
            if status == 200:
                return text, ""
            fault = f"refused: HTTP {status} {text[:200].strip()!r}"
            if status not in PASSING and status < 500:
                return "", fault  # wrong key, model or request: the next try would fail as well
            if retry_after:
                pause = min(retry_after, LONGEST_PAUSE)
        return "", fault

    def _rest(self, seconds: float) -> None:
        if self.closed.wait(seconds):
            raise ConnectionClosed

    def _post(self, path: str, body: bytes) -> tuple[int, float, str]:
        """Status, seconds of Retry-After (0: none), and response body."""
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "User-Agent": "diptych"}
        key = os.environ.get(self.key, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        line = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        late = threading.Event()
        try:
            line.connect()
            clock = threading.Timer(self.longest, _shut_down, (line.sock, late))
            clock.daemon = True
            clock.start()
            try:
                line.request("POST", parts.path.rstrip("/") + path, body, headers)
                answer = line.getresponse()
                data = answer.read(LARGEST + 1)
            finally:
                clock.cancel()
                if late.is_set():
                    raise _DeadlineExceeded(f"not at its end after {self.longest:g} s")
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and len(data) < min(int(length), LARGEST):
                raise http.client.IncompleteRead(data, int(length) - len(data))
            text = data.decode("utf-8", "replace")
            return answer.status, _seconds(answer.headers.get("Retry-After", "")), text.replace(key, "***") if key else text
        finally:
            line.close()


def _shut_down(line: socket.socket, late: threading.Event) -> None:
    """Shuts a socket down, so that a pending read ends at once: a timeout per read does not stop a server that drips."""
    late.set()
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _seconds(value: str) -> float:
    """Of Retry-After; a date, or nonsense, counts as none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        return 0.0
