"""Polite download of one image: opt-outs are honoured, private networks are refused.

Every address, also one that a redirect leads to, is looked up once, checked, and then connected to by its number, so that a name
cannot answer differently the second time. Only http and https; bounded in time, bytes and redirects.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

FORBIDDEN = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag by which a site says that its images are not for this."""
REDIRECTS = 5
PIECE = 65_536


class FetchError(Exception):
    """Failed download. `kind` is counted: "dns", "private", "opt-out", "http 404", "timeout", "size", "connection"."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


@dataclass(frozen=True)
class FetchPolicy:
    """timeout        seconds for a connection and for each wait; three times that for the whole
    max_bytes      of an answer
    agent          what we say who we are
    agent_token    our name in X-Robots-Tag, where a directive may be for some only
    forbidden      directives that are honoured
    allow_private  also ask addresses that are not public: for tests, and for a store in your own network
    """

    timeout: float = 10.0
    max_bytes: int = 50 * 2**20
    agent: str = "diptych/0.1 (image-text research)"
    agent_token: str = "diptych"
    forbidden: tuple[str, ...] = FORBIDDEN
    allow_private: bool = False


def fetch_image(url: str, policy: FetchPolicy) -> bytes:
    """The bytes at an address. Raises FetchError."""
    deadline = time.monotonic() + 3 * policy.timeout
    for _ in range(REDIRECTS + 1):
        answer = _ask(url, policy, deadline)
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise FetchError("redirects", f"more than {REDIRECTS} redirects")


def _ask(url: str, policy: FetchPolicy, deadline: float) -> bytes | str:
    """Content of a URL, or the address of a redirect."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FetchError("address", f"is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("address", f"has the scheme {parts.scheme!r} (expected http or https)")
    connection = _Connection(host, public_address(host, port, policy), port, policy, secure=parts.scheme == "https")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            "GET", path.encode("utf-8").decode("latin-1"), headers={"User-Agent": policy.agent, "Accept": "image/*,*/*"}
        )
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return str(urljoin(url, response.headers["Location"]))
        if response.status != 200:
            raise FetchError(f"http {response.status}", f"the server says {response.status} {response.reason}")
        if reason := opted_out(response.headers.get_all("X-Robots-Tag") or [], policy):
            raise FetchError("opt-out", f"X-Robots-Tag says {reason}")
        return _body(response, policy, deadline)
    except FetchError:
        raise
    except TimeoutError as error:
        raise FetchError("timeout", f"no answer within {policy.timeout:g} s") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise FetchError("connection", f"{type(error).__name__}: {error}".splitlines()[0]) from error
    finally:
        connection.close()


def _body(response: http.client.HTTPResponse, policy: FetchPolicy, deadline: float) -> bytes:
    declared = response.headers.get("Content-Length")
    if declared and declared.isdigit() and int(declared) > policy.max_bytes:
        raise FetchError("size", f"declares {int(declared):,} bytes (expected at most {policy.max_bytes:,})")
    pieces, size = [], 0
    while piece := response.read(PIECE):
        size += len(piece)
        pieces.append(piece)
        if size > policy.max_bytes:
            raise FetchError("size", f"sends more than {policy.max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise FetchError("timeout", f"not whole after {3 * policy.timeout:g} s ({size:,} bytes)")
    if declared and declared.isdigit() and size < int(declared):
        raise FetchError("connection", f"ends after {size:,} of {int(declared):,} bytes")
    return b"".join(pieces)


def public_address(host: str, port: int, policy: FetchPolicy) -> str:
    """The number to connect to. All numbers of a name must be public: one private one among them is a trap."""
    try:
        addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", f"{host} cannot be looked up: {error}") from error
    if not policy.allow_private:
        for number in addresses:
            address = ipaddress.ip_address(number.partition("%")[0])
            inner = getattr(address, "ipv4_mapped", None) or address
            if not inner.is_global or inner.is_multicast:
                raise FetchError("private", f"{host} is {number}, which is not public")
    return addresses[0]


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
    """Connection to an IP address that sends the host name: to the server, and for the check of its certificate."""

    def __init__(self, host: str, number: str, port: int, policy: FetchPolicy, *, secure: bool) -> None:
        super().__init__(host, port, timeout=policy.timeout)
        self._number, self._secure = number, secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self._number, self.port), self.timeout)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
