"""Sharing of an open index with other processes of the same user and machine, through a socket in its folder.

One process at a time may have the engine's files open. A service that does starts an `IndexServer`; other processes that open the index
get a `RemoteStore`, an engine like the others whose calls run in the service, between two of its own requests.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from diptych.core.errors import DiptychError, RunError
from diptych.index.engine.store import PAGE, EngineQuery, IndexItem, ItemFilter, ScoredItem, Store
from diptych.index.engine.wire import (
    ask_in,
    ask_out,
    choice_in,
    choice_out,
    item_in,
    item_out,
    receive,
    scored_in,
    scored_out,
    send,
)
from diptych.index.filters import Kind

T = TypeVar("T")
Inside = Callable[[Callable[[], Any]], Any]
"""Runs something where the index may be touched, and gives its result."""

SOCKET = ".door"
SECONDS = 600.0
"""For one answer: it waits after what the service does for its own clients."""


class IndexServer:
    """Server side: the process that has the index open. `close` it before the index.

    store    function that returns the engine, called for each request
    inside   see `Inside`
    changed  is called after a client has changed something
    compact  rewrites the index without what was deleted; returns the bytes saved
    """

    def __init__(
        self,
        folder: Path,
        store: Callable[[], Store],
        inside: Inside,
        changed: Callable[[], None],
        compact: Callable[[], int] = lambda: 0,
    ) -> None:
        self._socket_path, self._store, self._inside, self._changed = folder / SOCKET, store, inside, changed
        self._compact = compact
        self._socket_path.unlink(missing_ok=True)  # of a process that was killed: the engine's own lock says that we are alone
        self._line = socket.socket(socket.AF_UNIX)
        os.fchmod(self._line.fileno(), 0o600)
        with _short(folder) as short:
            self._line.bind(f"{short}/{SOCKET}")
        self._socket_path.chmod(0o600)
        self._line.listen()
        threading.Thread(target=self._serve, name="diptych-door", daemon=True).start()

    def close(self) -> None:
        self._socket_path.unlink(missing_ok=True)
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._line.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._one, args=(visitor,), name="diptych-visitor", daemon=True).start()

    def _one(self, line: socket.socket) -> None:
        with line, suppress(OSError, RunError, ValueError, RecursionError):
            while (question := receive(line)) is not None:
                for answer in self._answers(question):
                    send(line, answer)

    def _answers(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Replies to a request: one, or several for a scroll; an error is one as well."""
        try:
            if question.get("do") == "scroll":
                yield from self._scroll(question)
            else:
                yield {"result": self._inside(lambda: self._do(question))}
        except DiptychError as error:
            yield {"error": str(error)}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            yield {"error": f"the index was asked in a way that this version does not know ({type(error).__name__})"}

    def _do(self, question: dict[str, Any]) -> Any:
        store = self._store()
        match question["do"]:
            case "count":
                return store.count()
            case "bytes":
                return store.bytes()
            case "upsert":
                return store.upsert([item_in(one) for one in question["items"]])
            case "delete":
                return store.delete(choice_in(question["choice"]))
            case "declare":
                return store.declare(question["column"], question["kind"])
            case "query":
                scored = store.query(ask_in(question["ask"]), choice_in(question["choice"]), vectors=question["vectors"])
                return [scored_out(one) for one in scored]
            case "compact":
                return self._compact()
            case "changed":
                return self._changed()
            case "settle":
                store.settle()
                return self._changed()
        raise KeyError(question["do"])

    def _scroll(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        choice = None if question["choice"] is None else choice_in(question["choice"])
        items = self._store().scroll(choice, vectors=question["vectors"], uid_only=question["uid_only"])
        while page := self._inside(lambda: [item_out(one) for one in islice(items, PAGE)]):
            yield {"items": page}
        yield {"items": []}


class RemoteStore:
    """Client side, made by `connect_remote`."""

    def __init__(self, folder: Path, line: socket.socket) -> None:
        self._folder, self._socket = folder, line

    def count(self) -> int:
        return int(self._ask("count"))

    def bytes(self) -> int:
        return int(self._ask("bytes"))

    def upsert(self, items: Sequence[IndexItem]) -> None:
        self._ask("upsert", items=[item_out(one) for one in items])

    def delete(self, choice: ItemFilter) -> None:
        self._ask("delete", choice=choice_out(choice))
        self._ask("changed")

    def compact(self) -> int:
        """Let the process that has the index open rewrite it; returns the bytes saved."""
        return int(self._ask("compact"))

    def declare(self, column: str, kind: Kind) -> None:
        self._ask("declare", column=column, kind=kind)

    def query(self, ask: EngineQuery, choice: ItemFilter, *, vectors: Sequence[str] = ()) -> list[ScoredItem]:
        rows = self._ask("query", ask=ask_out(ask), choice=choice_out(choice), vectors=list(vectors))
        return [scored_in(one) for one in rows]

    def scroll(
        self, choice: ItemFilter | None = None, *, vectors: Sequence[str] = (), uid_only: bool = False
    ) -> Iterator[IndexItem]:
        choice_fields = None if choice is None else choice_out(choice)
        with remote_connection(self._folder) as line:  # of its own: other questions may be asked between two pages
            self._send(line, {"do": "scroll", "choice": choice_fields, "vectors": list(vectors), "uid_only": uid_only})
            while page := self._answer(line)["items"]:
                yield from map(item_in, page)

    def settle(self) -> None:
        self._ask("settle")

    def close(self) -> None:
        self._socket.close()

    def _ask(self, do: str, **fields: Any) -> Any:
        self._send(self._socket, {"do": do, **fields})
        return self._answer(self._socket)["result"]

    def _send(self, line: socket.socket, question: dict[str, Any]) -> None:
        try:
            send(line, question)
        except OSError as error:
            raise self._is_gone(error) from error

    def _answer(self, line: socket.socket) -> dict[str, Any]:
        try:
            answer = receive(line)
        except OSError as error:
            raise self._is_gone(error) from error
        if answer is None:
            raise self._is_gone()
        if "error" in answer:
            raise RunError(answer["error"])
        return answer

    def _is_gone(self, error: OSError | None = None) -> RunError:
        why = "does not answer" if isinstance(error, TimeoutError) else "has ended"
        return RunError(f"the process that had {self._folder} open {why}: what it had confirmed is kept; ask again")


def connect_remote(folder: Path) -> RemoteStore | None:
    """Client of an index that another process has open; None if that process serves no clients."""
    line = _connect(folder)
    return None if line is None else RemoteStore(folder, line)


@contextmanager
def remote_connection(folder: Path) -> Iterator[socket.socket]:
    """Connection to the process that has the index open; RunError when it has ended."""
    line = _connect(folder)
    if line is None:
        raise RunError(f"the process that had {folder} open has ended: try again")
    with line:
        yield line


def _connect(folder: Path) -> socket.socket | None:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(SECONDS)
    try:
        with _short(folder) as short:
            line.connect(f"{short}/{SOCKET}")
    except OSError:
        line.close()
        return None
    return line


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Short path of a folder: the address of such a socket has 108 bytes at most."""
    if not Path("/proc/self/fd").is_dir():
        yield str(folder)
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
