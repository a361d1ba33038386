"""Uids from paths: stable, without dots or slashes, never two alike."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_UNSAFE = re.compile(r"[.\\:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]")


def uid_of(name: str) -> str:
    """A name as a uid: slashes become ``_``, dots and what no file name may hold become ``-``.

    >>> uid_of("birds/IMG.0042 (1)")
    'birds_IMG-0042 (1)'
    """
    return _UNSAFE.sub("-", name.strip().strip("/").replace("/", "_")) or "-"


def uids_of(names: Sequence[str], row_names: Sequence[str]) -> list[str]:
    """A uid for each name. Where two would be alike (``a/b`` and ``a_b``), each gets eight hex digits of a hash of its place.

    `row_names` tell all rows apart (a path with its extension); equal ones are a fault of the caller's data and stay alike.
    """
    uids = [uid_of(name) for name in names]
    count = Counter(uids)
    return [
        f"{uid}-{hashlib.sha256(row_name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}" if count[uid] > 1 else uid
        for uid, row_name in zip(uids, row_names, strict=True)
    ]
