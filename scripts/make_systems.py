"""Computes from facts which systems work, into src/diptych/core/systems.json.

With --check it only says whether that file is up to date. A system works when its entry point loads under its own slug, a test
file of its own exists, its docstring makes a page, and the ledger holds a
verdict on each of its claims, over at least three seeds and not stale.
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
    claims = registry.of(system.slug) if system.slug in registry.slugs() else ()
    lines = {claim.key: ledger.latest(LEDGER, claim.key) for claim in claims}
    if not claims:
        missing.append("claim")
    for claim in claims:
        line = lines[claim.key]
        if line is None or len(line.seeds) < MINIMUM_SEEDS:
            missing.append(f"verdict in the ledger on {claim.key}")
        elif line.source_hash != claim.source_hash():
            missing.append(f"fresh verdict on {claim.key} (the one in the ledger is stale)")
    return {"missing": missing, "verdicts": {key: line.verdict for key, line in lines.items() if line}}


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
