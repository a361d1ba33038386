"""Python programs in processes of their own, without paying for their imports: each is a fork of the server of `joined_processes`.

What a program imports is therefore no proof that it would have been imported: tests of imports start a Python of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import IO

from joined_processes import PRELOADED


class Program:
    """A process that runs what `python WORDS...` would run: `-m MODULE`, `-c CODE` or a file, and its arguments.

    `pid`, `returncode`, `stdout` and `stderr` are those of a `subprocess.Popen` with pipes of text. `session` makes it the leader of a
    process group of its own.
    """

    def __init__(
        self, *words: str, environment: dict[str, str] | None = None, folder: Path | None = None, session: bool = False
    ) -> None:
        multiprocessing.set_forkserver_preload(PRELOADED)
        context = multiprocessing.get_context("forkserver")
        self.stdout, out = _pipe()
        self.stderr, errors = _pipe()
        given = (words, dict(environment or os.environ), str(folder or Path.cwd()), session, out, errors)
        self._process = context.Process(target=_carry_out, args=given)
        self._process.start()
        out.close()
        errors.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("the program", timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it still prints to stdout and stderr, once it has ended."""
        texts = dict[str, str]()

        def read(name: str) -> None:
            texts[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=[name], daemon=True) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts["stdout"], texts["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(*words: str, environment: dict[str, str] | None = None, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The program's exit code and output, once it has ended."""
    program = Program(*words, environment=environment, folder=folder)
    out, errors = program.communicate()
    return subprocess.CompletedProcess(words, program.wait(), out, errors)


def _pipe() -> tuple[IO[str], Connection]:
    """The end that is read here, and the end that a process can be given."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        return os.fdopen(os.dup(reader.fileno()), encoding="utf-8"), writer


def _carry_out(
    words: Sequence[str], environment: dict[str, str], folder: str, session: bool, out: Connection, errors: Connection
) -> None:
    if session:
        os.setsid()
    for connection, number in ((out, 1), (errors, 2)):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    os.environ.clear()  # the server has that of its start
    os.environ.update(environment)
    tempfile.tempdir = None  # by the environment of now
    os.chdir(folder)
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.modules["__main__"] = ModuleType("__main__")
    match list(words):
        case ["-m", name, *arguments]:
            sys.argv = [name, *arguments]
            sys.path.insert(0, folder)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            sys.path.insert(0, folder)
            exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
        case [file, *arguments]:
            sys.argv = [file, *arguments]
            sys.path.insert(0, str(Path(file).parent))
            runpy.run_path(file, run_name="__main__")
