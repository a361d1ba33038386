"""Computes from facts which systems work, into src/diptych/core/systems.json and a paragraph of the README.

With --check it only says whether these are up to date. A system works when its entry point loads under its own slug, a test
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
README = ROOT / "README.md"
BEGIN, END = "<!-- systems:begin -->\n", "<!-- systems:end -->"


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


def paragraph(found: dict[str, dict[str, Any]]) -> str:
    """How many of the published systems are there, in the words of the README."""
    published = {system.slug: found[system.slug]["missing"] for system in systems.SYSTEMS}
    work = [f"`{slug}`" for slug, missing in published.items() if not missing]
    built = [f"`{slug}`" for slug, missing in published.items() if missing and missing != ["not built"]]
    baselines = ", ".join(f"`{system.slug}`" for system in systems.BASELINES)
    lines = [f"Of {len(published)} published systems on the list, {len(work)} work"]
    if work:
        lines[0] += f" ({', '.join(work)})"
    if built:
        lines.append(f"and {len(built)} are built without a fresh verdict in the ledger ({', '.join(built)})")
    return ", ".join(lines) + f", beside the baselines {baselines}; the others are planned and answer so.\n"


def main() -> int:
    found = {system.slug: facts(system) for system in (*systems.SYSTEMS, *systems.BASELINES)}
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    wanted = {
        TARGET: json.dumps(found, indent=1) + "\n",
        README: before + BEGIN + paragraph(found) + END + rest.partition(END)[2],
    }
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in old:
            print(f"{path.relative_to(ROOT)} is out of date: run `make systems`")
        return 1 if old else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf-8")
    print(f"{sum(not f['missing'] for f in found.values())} of {len(found)} rows work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
