"""Cache of slow help texts: the options of a recipe or a task need its module, and torch, to be imported.

What was printed lies in the cache folder beside the time and size of every file that was imported for it. While those are the same, so is
the help.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from diptych.core.disk.cache import cache_folder


class _Page(io.StringIO):
    """Buffer for printed help that answers `isatty` as stdout does."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def print_help(words: Sequence[str], make: Callable[[], int]) -> int:
    """Print the help for these words, cached or new, and return the exit code. Help that failed is not cached."""
    terminal = sys.stdout.isatty()
    key = [list(words), shutil.get_terminal_size().columns, terminal, sys.version, os.environ.get("NO_COLOR", "")]
    path = cache_folder() / "help" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
    cached = _read_cached(path)
    if cached is not None:
        sys.stdout.write(cached)
        return 0
    page, code = _Page(terminal), 0
    with redirect_stdout(page):
        try:
            code = make()
        except SystemExit as end:  # tyro ends the process after its help
            code = int(end.code or 0)
    sys.stdout.write(page.getvalue())
    if not code:
        with suppress(OSError):  # a folder that cannot be written to costs the time again
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, {"files": _files(), "text": page.getvalue()})
    return code


def _write(path: Path, kept: dict[str, Any]) -> None:
    from diptych.core.disk.files import write_atomic

    write_atomic(path, json.dumps(kept))


def _files() -> dict[str, list[int]]:
    """Time and size of the file of every module that is imported now."""
    files = {}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        with suppress(OSError):  # what is frozen into the interpreter has a name and no file
            if name:
                facts = os.stat(name)
                files[str(name)] = [facts.st_mtime_ns, facts.st_size]
    return files


def _read_cached(path: Path) -> str | None:
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
        for name, (time, size) in cached["files"].items():
            facts = os.stat(name)
            if (facts.st_mtime_ns, facts.st_size) != (time, size):
                return None
        return str(cached["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, of another form, or a file has gone
        return None
