"""Startup time of `diptych --help` and `import diptych`, with `import open_clip` and an empty Python for comparison."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from machine_results import Figure, Peer, keep

RUNS = 7
WAYS = {
    "diptych --help": [sys.executable, "-m", "diptych.cli", "--help"],
    "diptych systems clip": [sys.executable, "-m", "diptych.cli", "systems", "clip"],
    "import diptych": [sys.executable, "-c", "import diptych"],
    "import open_clip": [sys.executable, "-c", "import open_clip"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    peer = Peer("import open_clip", next(row["seconds"] for row in rows if row["way"] == "import open_clip"))
    return [Figure(row["way"], "s", row["seconds"], (peer,)) for row in rows if "diptych" in row["way"]]


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(RUNS):  # in turn, so that a busy moment touches all
        for name, command in WAYS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    rows = [{"way": name, "seconds": statistics.median(times)} for name, times in seconds.items()]
    for row in rows:
        print(f"{row['way']:<24}{row['seconds']:.3f} s")
    keep("startup", {"rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
