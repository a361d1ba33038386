"""Commands in processes forked from one that has imported everything, so that a hundred of them start and are killed in a minute or two."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PARENT = """
import importlib, json, os, signal, sys, time, traceback
sys.path[:0] = [{root!r}]
import diptych.cli, diptych.api, diptych.train.fit, diptych.data.shards.build, diptych.index.kinds, diptych.claims.engine
import pyarrow.parquet, torch
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            handle = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        try:
            module, _, function = order["call"].partition(":")
            code = getattr(importlib.import_module(module), function)(*order["args"])
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))
    limit, killed = order["seconds"], False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - begun > limit:
            try:
                os.killpg(child, order["signal"])
            except ProcessLookupError:
                os.kill(child, order["signal"])
            done, status = os.waitpid(child, 0)
            killed = True
            break
        time.sleep(0.001)
    seconds = time.monotonic() - begun
    print(json.dumps({{"code": os.waitstatus_to_exitcode(status), "killed": killed, "seconds": seconds}}), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative: the signal that ended it), seconds, and what was printed."""

    code: int
    killed: bool
    seconds: float
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def check(self) -> Outcome:
        """An answer: 0, or one line on stderr; never a traceback, never a signal that nobody sent."""
        assert "Traceback" not in self.err, self.err
        assert self.killed or self.code >= 0, f"signal {-self.code}: {self.err}"
        if self.code == 1:
            assert len([line for line in self.err.splitlines() if line.startswith("error")]) == 1, self.err
        return self

    def good(self) -> Outcome:
        assert self.code == 0, (self.code, self.err, self.out)
        return self


class Commands:
    """`run` calls a function in a fork, by default the command line, and kills it after so many seconds."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def run(self, *args: Any, seconds: float = 300.0, call: str = "diptych.cli:main", signal: int = 9) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        files = {name: str(self._folder / name) for name in ("out", "err")}
        given: Sequence[Any] = [[str(word) for word in args]] if call == "diptych.cli:main" else list(args)
        order = {"call": call, "args": given, "seconds": seconds, "signal": signal, **files}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = (Path(path).read_text(errors="replace") for path in files.values())
        return Outcome(answer["code"], answer["killed"], answer["seconds"], out, re.sub(r"\x1b\[[0-9;]*m", "", err))


@contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-c", textwrap.dedent(PARENT.format(root=str(ROOT)))]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Commands(process, folder)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
