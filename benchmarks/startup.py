"""How long a user waits for `diptych --help` and `import diptych`; `import open_clip` and an empty Python stand beside for scale."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from diptych.core.environment import environment

RUNS = 7
WAYS = {
    "diptych --help": [sys.executable, "-m", "diptych.cli", "--help"],
    "diptych systems clip": [sys.executable, "-m", "diptych.cli", "systems", "clip"],
    "import diptych": [sys.executable, "-c", "import diptych"],
    "import open_clip": [sys.executable, "-c", "import open_clip"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


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
    out = Path(__file__).parent / "results" / "startup.json"
    result = {"name": "startup", "date": datetime.now(UTC).date().isoformat(), "environment": environment(), "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
