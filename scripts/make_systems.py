"""Computes from facts which systems work, into src/diptych/core/systems.json.

With --check it only says whether that file is up to date. A system works when its entry point loads under its own slug, a test
file of its own exists, its docstring makes a page, and the ledger holds a verdict over at least three seeds that is not stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from diptych.claims import ledger, registry
from diptych.claims.verdict import MINIMUM_SEEDS
from diptych.core import systems

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src/diptych/core/systems.json"
LEDGER = ROOT / "docs/claims/ledger.jsonl"


def facts(system: systems.System) -> dict[str, Any]:
    missing: list[str] = []
    entry = system.load() if system.built else None
    if entry is None:
        return {"missing": ["not built"]}
    if getattr(entry, "slug", "") != system.slug:
        missing.append("entry point under its slug")
    if len((entry.__doc__ or "").strip().splitlines()) < 3:
        missing.append("docs page")
    if not list((ROOT / "tests").rglob(f"test_{system.slug}.py")):
        missing.append("tests of its own")
    line = ledger.latest(LEDGER, system.slug)
    if system.slug not in registry.slugs():
        missing.append("claim")
    elif line is None or len(line.seeds) < MINIMUM_SEEDS:
        missing.append("verdict in the ledger")
    elif line.source_hash != registry.find(system.slug).source_hash():
        missing.append("fresh verdict (the one in the ledger is stale)")
    return {"missing": missing, "verdict": line.verdict if line else None}


def main() -> int:
    found = {system.slug: facts(system) for system in (*systems.SYSTEMS, *systems.BASELINES)}
    text = json.dumps(found, indent=1) + "\n"
    if "--check" in sys.argv:
        same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text
        print("up to date" if same else f"{TARGET.relative_to(ROOT)} is out of date: run `make systems`")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"{sum(not f['missing'] for f in found.values())} of {len(found)} rows work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
