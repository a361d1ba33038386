"""Cursors of a search: where its next page begins. A cursor holds the last hit, so that items that come or go meanwhile neither repeat
hits nor skip them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.index.exact import Hit
from diptych.serve.refusals import RequestError
from diptych.serve.schema import SearchRequest

SLACK = 64
"""Hits read beyond a page, for items that came in before its beginning since the last one."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last hit of a page, its rank from 1, and a hash of the search."""

    rank: int
    score: float
    uid: str
    search: str

    def text(self) -> str:
        """As a client gets it."""
        plain = json.dumps([self.rank, self.score, self.uid, self.search], separators=(",", ":"))
        return base64.urlsafe_b64encode(plain.encode()).decode()


def search_hash(request: SearchRequest) -> str:
    """Hash of everything in a search but its page."""
    plain = request.model_dump_json(exclude={"cursor", "k"})
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cursor_of(request: SearchRequest) -> Cursor | None:
    """The cursor of a request; None on its first page. Raises RequestError (422) for an invalid cursor and for that of another search."""
    if not request.cursor:
        return None
    try:
        rank, score, uid, search = json.loads(base64.urlsafe_b64decode(request.cursor.encode()))
        cursor = Cursor(int(rank), float(score), str(uid), str(search))
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise RequestError(422, "cursor is not from this service (expected `next` of the answer before)") from None
    if cursor.search != search_hash(request):
        raise RequestError(422, "cursor is that of another search (expected the same fields as before; only k may change)")
    return cursor


def page_of(hits: Sequence[Hit], cursor: Cursor | None, k: int) -> tuple[list[Hit], int]:
    """The k hits after a cursor, and the rank of the first of them from 0."""
    if cursor is None:
        return list(hits[:k]), 0
    start = next((rank for rank, hit in enumerate(hits, start=1) if hit.uid == cursor.uid and hit.score == cursor.score), None)
    if start is None:  # it left, or its score is one of a fusion, which changes with what is fused
        start = next((rank for rank, hit in enumerate(hits) if (-hit.score, hit.uid) > (-cursor.score, cursor.uid)), len(hits))
    return list(hits[start : start + k]), start
