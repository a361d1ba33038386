"""Help that takes seconds to make is kept: the options of a recipe or a task are known once its module, and torch, are imported.

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
    """What is printed, for the terminal or file that stdout is."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def print_help(words: Sequence[str], make: Callable[[], int]) -> int:
    """Print the help that these words ask for, from before or made now, and return the exit code. Help that failed is not kept."""
    terminal = sys.stdout.isatty()
    asked = [list(words), shutil.get_terminal_size().columns, terminal, sys.version, os.environ.get("NO_COLOR", "")]
    path = cache_folder() / "help" / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]}.json"
    kept = _read_kept(path)
    if kept is not None:
        sys.stdout.write(kept)
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
    found = {}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        with suppress(OSError):  # what is frozen into the interpreter has a name and no file
            if name:
                facts = os.stat(name)
                found[str(name)] = [facts.st_mtime_ns, facts.st_size]
    return found


def _read_kept(path: Path) -> str | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name, (time, size) in kept["files"].items():
            facts = os.stat(name)
            if (facts.st_mtime_ns, facts.st_size) != (time, size):
                return None
        return str(kept["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, of another form, or a file has gone
        return None
