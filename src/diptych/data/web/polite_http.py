"""Polite download of one image: opt-outs are honoured, private networks are refused, and no server can exceed the time limit of a link.

Every address, also one that a redirect leads to, is looked up once, checked, and then connected to by its number, so that a name
cannot answer differently the second time. Only http and https; bounded in time, bytes and redirects.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

FORBIDDEN = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag by which a site says that its images are not for this."""
REDIRECTS = 5
SENT_AS_IT_IS = "%/:=&?~#+!$,;'@()*[]|"
"""Characters of a path that are not percent-encoded, beside letters and digits; "%" because most addresses are encoded already."""
PIECE = 65_536
LOOKUPS = 64
"""Names that are looked up at once; a resolver cannot be interrupted, so that a slow one keeps its thread."""


class FetchError(Exception):
    """Failed download.

    kind  is counted: "dns", "private", "robots", "opt-out", "tdm", "http 404", "asked to wait", "timeout", "size", "connection"
    wait  seconds after which the server wants to be asked again; None if it said nothing
    """

    def __init__(self, kind: str, reason: str, wait: float | None = None) -> None:
        self.kind, self.wait = kind, wait
        super().__init__(reason)


@dataclass(frozen=True)
class FetchPolicy:
    """timeout        seconds for a link as a whole: look-up, connection, every redirect, the last byte
    max_bytes      of an answer
    agent          what we say who we are
    agent_token    our name in robots.txt and X-Robots-Tag, where a rule may be for some only
    forbidden      directives of X-Robots-Tag that are honoured
    robots         addresses that robots.txt of their site disallows are not asked (RFC 9309)
    tdm            reservations of text and data mining are honoured (W3C TDMRep: tdmrep.json, the header tdm-reservation)
    per_host       requests to one host at once, those to which redirects lead among them
    pause          seconds between two requests to one host; a longer Crawl-delay of its robots.txt is kept
    longest_wait   seconds that links of a host wait where it answers 429 or says Retry-After, and the longest Crawl-delay that is kept;
                   beyond, they fail without being asked
    allow_private  also ask addresses that are not public: for tests, and for a store in your own network
    """

    timeout: float = 10.0
    max_bytes: int = 50 * 2**20
    agent: str = "diptych/0.1 (image-text research)"
    agent_token: str = "diptych"
    forbidden: tuple[str, ...] = FORBIDDEN
    robots: bool = True
    tdm: bool = True
    per_host: int = 4
    pause: float = 0.0
    longest_wait: float = 60.0
    allow_private: bool = False


def fetch_image(url: str, policy: FetchPolicy) -> bytes:
    """The bytes at an address. Raises FetchError."""
    return fetch(url, policy, accept="image/*,*/*")[0]


def fetch(url: str, policy: FetchPolicy, *, accept: str = "*/*", most: int = 0) -> tuple[bytes, str]:
    """The bytes at an address, after redirects, within `timeout` seconds; and the address that they came from. Raises FetchError.

    most  bytes of which the first are enough: a longer answer is cut there; 0 refuses what is longer than the policy allows
    """
    deadline = time.monotonic() + policy.timeout
    for _ in range(REDIRECTS + 1):
        answer = ask(url, policy, deadline, accept, most)
        if isinstance(answer, bytes):
            return answer, url
        url = answer
    raise FetchError("redirects", f"more than {REDIRECTS} redirects")


def ask(url: str, policy: FetchPolicy, deadline: float, accept: str = "*/*", most: int = 0) -> bytes | str:
    """Content of an address, or the address to which it redirects, by one request that ends at `deadline` (monotonic seconds).

    Raises FetchError.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FetchError("address", f"is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("address", f"has the scheme {parts.scheme!r} (expected http or https)")
    connection = _Connection(host, public_address(host, port, policy), port, deadline, secure=parts.scheme == "https")
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=SENT_AS_IT_IS)
    try:
        connection.request("GET", path, headers={"User-Agent": policy.agent, "Accept": accept})
        response = connection.getresponse()
        headers = response.headers
        if response.status in (301, 302, 303, 307, 308) and headers.get("Location"):
            return _redirect(url, headers["Location"])
        if response.status != 200:
            reason = f"the server says {response.status} {response.reason}"
            raise FetchError(f"http {response.status}", reason, retry_after(headers.get("Retry-After")))
        if reason := opted_out(headers.get_all("X-Robots-Tag") or [], policy):
            raise FetchError("opt-out", f"X-Robots-Tag says {reason}")
        if policy.tdm and (headers.get("tdm-reservation") or "").strip() == "1":
            raise FetchError("tdm", "the header tdm-reservation is 1")
        return _body(response, policy, most)
    except FetchError:
        raise
    except TimeoutError as error:
        raise FetchError("timeout", f"not whole within {policy.timeout:g} s") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise FetchError("connection", (f"{type(error).__name__}: {error}".splitlines() or [""])[0]) from error
    finally:
        connection.end()


def _redirect(url: str, location: str) -> str:
    try:
        return str(urljoin(url, location.encode("latin-1").decode("utf-8", "replace")))
    except ValueError as error:
        raise FetchError("address", f"redirects to what is not an address: {error}") from error


def _body(response: http.client.HTTPResponse, policy: FetchPolicy, most: int) -> bytes:
    declared = response.headers.get("Content-Length")
    length = int(declared) if declared and declared.isascii() and declared.isdigit() and len(declared) < 19 else None
    if not most and length is not None and length > policy.max_bytes:
        raise FetchError("size", f"declares {length:,} bytes (expected at most {policy.max_bytes:,})")
    pieces, size = [], 0
    while piece := response.read(PIECE):
        size += len(piece)
        pieces.append(piece)
        if most and size >= most:
            return b"".join(pieces)[:most]
        if size > policy.max_bytes:
            raise FetchError("size", f"sends more than {policy.max_bytes:,} bytes")
    if length is not None and size < length:
        raise FetchError("connection", f"ends after {size:,} of {length:,} bytes")
    return b"".join(pieces)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds them or a date; None without one, or where it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())


def public_address(host: str, port: int, policy: FetchPolicy) -> str:
    """The number to connect to. All numbers of a name must be public: one private one among them is a trap."""
    try:
        looked_up = _resolver().submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in looked_up.result(policy.timeout)]
    except TimeoutError as error:
        raise FetchError("dns", f"{host} was not looked up within {policy.timeout:g} s") from error
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", f"{host} cannot be looked up: {error}") from error
    if not policy.allow_private:
        for number in addresses:
            address = ipaddress.ip_address(number.partition("%")[0])
            inner = getattr(address, "ipv4_mapped", None) or address
            if not inner.is_global or inner.is_multicast:
                raise FetchError("private", f"{host} is {number}, which is not public")
    return addresses[0]


@cache
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOOKUPS, thread_name_prefix="look-up")


def opted_out(tags: list[str], policy: FetchPolicy) -> str:
    """The first directive that forbids, "" when none does. "bot: noai" is for the agent of that name alone."""
    for tag in tags:
        agent = ""
        for part in tag.lower().split(","):
            head, colon, tail = part.strip().partition(":")
            if colon and head not in ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"):
                agent, part = head.strip(), tail
            if agent in ("", policy.agent_token.lower()) and part.strip() in policy.forbidden:
                return part.strip()
    return ""


class _Connection(http.client.HTTPConnection):
    """Connection to an IP address that sends the host name: to the server, and for the check of its certificate. Whatever it
    waits for ends at the deadline."""

    def __init__(self, host: str, number: str, port: int, deadline: float, *, secure: bool) -> None:
        super().__init__(host, port)
        self._number, self._secure, self._deadline = number, secure, deadline
        self._plain: socket.socket | None = None

    def connect(self) -> None:
        self._plain = socket.create_connection((self._number, self.port), remaining(self._deadline))
        if self._secure:
            self._plain.settimeout(remaining(self._deadline))  # of the handshake as a whole
            self._plain = ssl.create_default_context().wrap_socket(self._plain, server_hostname=self.host)
        self.sock: Any = _DeadlineSocket(self._plain, self._deadline)

    def end(self) -> None:
        """Close the connection and the answer that is read from it."""
        self.close()
        if self._plain is not None:
            self._plain.close()


class _DeadlineSocket:
    """The part of a socket that `http.client` uses; each wait has only the time that is left."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain, self._deadline = plain, deadline

    def sendall(self, data: bytes) -> None:
        self._plain.settimeout(remaining(self._deadline))
        self._plain.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_DeadlineReader(self._plain, self._deadline))

    def close(self) -> None:
        """Nothing: `http.client` closes its socket before the answer is read, and `_Connection.end` closes both."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain, self._deadline = plain, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._plain.settimeout(remaining(self._deadline))
        return self._plain.recv_into(buffer)


def remaining(deadline: float) -> float:
    """Seconds until a deadline. Raises TimeoutError after it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
