"""Cache of answers on disk by request hash: a request that was answered once is never sent again, even after a kill.

One SQLite file in the cache folder, safe against a kill at any moment and against several processes. Deleting it costs time and
money.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from diptych.core.contracts import Reply
from diptych.core.disk.cache import cache_folder
from diptych.core.errors import RunError

FILE = "answers.sqlite"
WAIT_SECONDS = 60.0
"""For another process that is writing."""
LOOKED_UP = 500
"""Hashes a query."""


class AnswerCache:
    """A mapping of prompt hash to answer and prompt. May be used from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` None keeps them in the cache folder (``$DIPTYCH_CACHE``)."""
        self.path = path or cache_folder() / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, timeout=WAIT_SECONDS, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute(
                "create table if not exists answers (hash text primary key, model text, prompt text, text text, "
                "prompt_tokens integer, written_tokens integer)"
            )
            self._db.commit()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.path} cannot be used as an answer cache ({error}): delete it, or set DIPTYCH_CACHE") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __len__(self) -> int:
        with self._lock, closing(self._db.execute("select count(*) from answers")) as cursor:
            return int(cursor.fetchone()[0])

    def of(self, hashes: Sequence[str]) -> dict[str, Reply]:
        """Those that are there."""
        replies: dict[str, Reply] = {}
        with self._lock:
            for start in range(0, len(hashes), LOOKED_UP):
                some = hashes[start : start + LOOKED_UP]
                marks = ",".join("?" * len(some))
                query = f"select hash, text, prompt_tokens, written_tokens from answers where hash in ({marks})"
                replies |= {row[0]: Reply(row[1], row[2], row[3]) for row in self._db.execute(query, some)}
        return replies

    def keep(self, model: str, answers: Mapping[str, Reply], prompts: Iterable[str]) -> None:
        """Keeps what has no fault, in one step."""
        rows = [
            (key, model, prompt, answer.text, answer.prompt_tokens, answer.written_tokens)
            for (key, answer), prompt in zip(answers.items(), prompts, strict=True)
            if not answer.fault
        ]
        with self._lock, self._db:
            self._db.executemany("insert or replace into answers values (?, ?, ?, ?, ?, ?)", rows)

    def forget(self, hashes: Sequence[str]) -> None:
        """Drops what was kept only for the time of a run."""
        with self._lock, self._db:
            self._db.executemany("delete from answers where hash = ?", [(key,) for key in hashes])

    def prompt(self, key: str) -> str | None:
        """Prompt of a request hash."""
        with self._lock, closing(self._db.execute("select prompt from answers where hash = ?", [key])) as cursor:
            row = cursor.fetchone()
        return None if row is None else str(row[0])
