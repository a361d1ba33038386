"""Where the host waits for the device in a training step: docs/measured/device_waits.json and the table of docs/gpus.md.

python scripts/device_waits.py            steps of every recipe on the pretended CUDA device (minutes; needs g++)
python scripts/device_waits.py SLUG...    of these alone; the others stay as they are
python scripts/device_waits.py --page     the table again from what is stored
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORED, PAGE = ROOT / "docs/measured/device_waits.json", ROOT / "docs/gpus.md"
BEGIN, END = "<!-- device waits:begin -->\n", "<!-- device waits:end -->"


def measured(slugs: list[str]) -> dict[str, dict[str, float]]:
    """Waits of a step after the first of each recipe, in float32: "FILE FUNCTION: WHAT" -> how many."""
    script = ROOT / "tests/helpers/pretended_steps.py"
    done = subprocess.run([sys.executable, script, *slugs], capture_output=True, text=True, check=False)
    waits: dict[str, dict[str, float]] = {}
    for line in done.stdout.splitlines():
        row: dict[str, Any] = json.loads(line)
        if "error" in row:
            raise SystemExit(f"{row['slug']}: {row['error']}")
        waits[row["slug"]] = {name: round(count, 2) for name, (count, _) in row["waits"].items()}
    return waits


def table(waits: dict[str, dict[str, float]]) -> str:
    """Recipes without a wait, then the others by how many there are, with the files."""
    free = [slug for slug, found in sorted(waits.items()) if not found]
    lines = [
        f"No wait in a step of {', '.join(f'`{slug}`' for slug in free)}.",
        "",
        "| recipe | waits a step | where |",
        "|---|---|---|",
    ]
    for slug, found in sorted(waits.items(), key=lambda entry: (sum(entry[1].values()), entry[0])):
        files: dict[str, float] = defaultdict(float)
        for name, count in found.items():
            files[name.partition(" ")[0]] += count
        where = ", ".join(f"`{file}` {count:.3g}" for file, count in sorted(files.items(), key=lambda entry: -entry[1])[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        if found:
            lines.append(f"| `{slug}` | {sum(found.values()):.3g} | {where}{more} |")
    return "\n".join(lines) + "\n"


def page(waits: dict[str, dict[str, float]]) -> str:
    """The page with the table of these waits."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + table(waits) + END + rest.partition(END)[2]


def main(words: list[str]) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {"waits": {}}
    if "--page" not in words:
        from diptych.core.registry import RECIPES

        found = measured(words or sorted(RECIPES))
        kept = {slug: waits for slug, waits in stored["waits"].items() if words and slug in RECIPES}
        stored = {"command": "python scripts/device_waits.py", "waits": dict(sorted({**kept, **found}.items()))}
        STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(stored["waits"]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
