"""Rules of sites on their files: robots.txt (RFC 9309) and reservations of text and data mining (W3C TDMRep), requested once per site."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from diptych.core.errors import MissingExtra
from diptych.data.web.polite_http import FetchError, FetchPolicy, fetch

LONGEST = 512_000
"""Bytes of a file of rules that are read."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """Rules of one site: a parsed robots.txt or None, (kind, reason) by which nothing may be asked, and (pattern, reserved) of
    tdmrep.json."""

    robots: Any = None
    closed: tuple[str, str] | None = None
    reservations: tuple[tuple[str, bool], ...] = ()


class SiteRules:
    """Rules of every site that links lead to, kept in this process. Safe to use from several threads."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._rules: dict[str, _Rules] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        if policy.robots:
            _protego()  # missing before the first request, not after

    def check(self, url: str) -> None:
        """Raises FetchError of the kind "robots" or "tdm" for an address that its site does not allow; "timeout" or "connection" where
        robots.txt could not be reached."""
        rules, path = self._of(url), _path(url)
        if rules.closed is not None:
            raise FetchError(*rules.closed)
        if rules.robots is not None and not rules.robots.can_fetch(url, self._policy.agent_token):
            raise FetchError("robots", "robots.txt disallows it")
        if any(reserved for pattern, reserved in rules.reservations if _matches(pattern, path)):
            raise FetchError("tdm", "tdmrep.json reserves text and data mining")

    def crawl_delay(self, url: str) -> float:
        """Seconds that robots.txt of the site wants between two requests; 0 without such a rule."""
        robots = self._of(url).robots
        return float(robots.crawl_delay(self._policy.agent_token) or 0.0) if robots is not None else 0.0

    def _of(self, url: str) -> _Rules:
        try:
            parts = urlsplit(url)
            site = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        except ValueError:
            return _Rules()  # refused as no address when it is asked
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return _Rules()
        with self._lock:
            lock = self._locks.setdefault(site, threading.Lock())
        with lock:
            if site not in self._rules:
                self._rules[site] = self._read(site)
            return self._rules[site]

    def _read(self, site: str) -> _Rules:
        robots: Any = None
        closed: tuple[str, str] | None = None
        plain = FetchPolicy(**{**vars(self._policy), "forbidden": (), "tdm": False})
        if self._policy.robots:
            try:
                text = fetch(f"{site}/robots.txt", plain, accept="text/plain,*/*", most=LONGEST)[0]
                robots = _protego().parse(text.decode("utf-8", "replace"))
            except FetchError as error:
                # No such file, or endless redirects: everything is allowed. A name that is not there says so at the image itself.
                if error.kind.startswith("http 5") or error.kind in ("http 429", "timeout", "connection"):
                    kind = "robots" if error.kind.startswith("http") else error.kind
                    closed = kind, f"robots.txt cannot be read: {error}"
        reservations: tuple[tuple[str, bool], ...] = ()
        if self._policy.tdm and not closed:
            with suppress(FetchError):  # no such file, or none that can be read: nothing is reserved by it
                reservations = _reservations(fetch(f"{site}/.well-known/tdmrep.json", plain, most=LONGEST)[0])
        return _Rules(robots, closed, reservations)


def _protego() -> Any:
    try:
        from protego import Protego
    except ImportError:
        raise MissingExtra("protego", "curate", needed_for="reading robots.txt (or --no-robots)") from None
    return Protego


def _reservations(data: bytes) -> tuple[tuple[str, bool], ...]:
    """(pattern of paths, reserved) of a tdmrep.json; what cannot be read reserves nothing."""
    try:
        plain = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return ()
    rows = plain if isinstance(plain, list) else []
    return tuple(
        (row["location"], row.get("tdm-reservation") in (1, "1"))
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("location"), str)
    )


def _matches(pattern: str, path: str) -> bool:
    """True if a path begins with a pattern, in which * stands for any characters and $ for the end."""
    words = "".join(".*" if one == "*" else re.escape(one) for one in re.split(r"(\*)", pattern.removesuffix("$")) if one)
    return re.match(words + ("$" if pattern.endswith("$") else ""), path) is not None


def _path(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "/"
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
