"""Computes from facts which systems work and what was shown, into src/diptych/core/systems.json and a paragraph of the README.

With --check it only says whether these are up to date. A system works when its entry point loads under its own slug, its command
answers, its docstring makes a page, a test recorded what its mechanism agrees with (tests/parity/SLUG.json), and the ledger holds a
verdict with controls on its main claim, whatever the verdict says; a protocol, which learns nothing, needs none. Whether the claim was
shown stands apart, and whether the code has changed since is asked by `make claims-check`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from diptych.claims import registry
from diptych.claims.ledger import learned
from diptych.claims.table import NOT_JUDGED, Row, processor_hours, rows
from diptych.cli import main as main_command
from diptych.cli.options import cached_help
from diptych.core import systems

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src/diptych/core/systems.json"
LEDGER = ROOT / "docs/claims"
PARITY = ROOT / "tests/parity"
COMMANDS = {"recipes": "train", "curate": "curate", "tasks": "eval", "pipelines": "run", "worlds": "data"}
README = ROOT / "README.md"
PAPERS = "paper's claim"
PROTOCOLS = ("tasks", "pipelines")
"""Rooms of systems that learn nothing: their evidence is that they agree with a published scorer, which is recorded as parity."""
BEGIN, END = "<!-- systems:begin -->\n", "<!-- systems:end -->"


def facts(system: systems.System, judged: list[Row]) -> dict[str, Any]:
    """`judged` are the rows of its claims, the main one first."""
    missing: list[str] = []
    entry = system.load() if system.built else None
    if entry is None:
        return {"missing": ["not built"]}
    if getattr(entry, "slug", "") != system.slug:
        missing.append("entry point under its slug")
    if len((entry.__doc__ or "").strip().splitlines()) < 3:
        missing.append("docs page")
    if not answers(system):
        missing.append("command")
    agreed = parity(system.slug)
    if not agreed:
        missing.append("recorded parity")
    if not judged:
        missing += [] if system.room in PROTOCOLS else ["claim"]
    elif judged[0].entry is None:
        missing.append("verdict")
    return {
        "missing": missing,
        "verdict": judged[0].counted if judged else NOT_JUDGED,
        "kind": judged[0].claim.kind if judged else "",
        "learned": bool(judged and judged[0].entry and any(learned(side.budget) for side in judged[0].entry.sides)),
        "verdicts": {row.claim.key: row.counted for row in judged if row.entry},
        "parity": agreed,
    }


def answers(system: systems.System) -> bool:
    """Whether the command that runs the system knows it: its help is printed."""
    words = [COMMANDS[system.room], system.slug, "--help"]
    silent = io.StringIO()
    fresh = mock.patch.object(cached_help, "print_help", lambda words, make: make())  # a page is not cached: no one asks twice
    try:
        with fresh, contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            return main_command(words) == 0
    except SystemExit as end:
        return end.code in (0, None)


def parity(slug: str) -> list[str]:
    """What the mechanism was found to agree with, in words; tests write it when they pass."""
    path = PARITY / f"{slug}.json"
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else []
    return [f"{check['what']}: {check['against']}, within {check['difference']:.1e}" for check in checks]


def paragraph(found: dict[str, dict[str, Any]], main: int, hours: float) -> str:
    """Count of the published systems that work, with what was shown of them, in the words of the README."""
    published = {system.slug: found[system.slug]["missing"] for system in systems.SYSTEMS}
    work = sum(not missing for missing in published.values())
    built = sum(bool(missing) and missing != ["not built"] for missing in published.values())
    shown = [
        f"`{system.slug}`"
        for system in systems.SYSTEMS
        if found[system.slug].get("verdict") == "shown" and found[system.slug]["kind"] == PAPERS
    ]
    more = f" and {built} more are built" if built else ""
    return (
        f"Of {len(published)} published systems on the list {work} work{more} (`diptych systems` lists them, "
        f"[claims](docs/claiming.md) says how they are judged). What its paper claims is shown of {len(shown)} ({', '.join(shown)}) after "
        f"Holm's correction over all {main} main claims; all verdicts together took {hours:.0f} processor hours.\n"
    )


def main() -> int:
    judged: dict[str, list[Row]] = {}
    every = rows(LEDGER, registry.every(), states=False)
    for row in every:
        judged.setdefault(row.claim.slug, []).append(row)
    found = {system.slug: facts(system, judged.get(system.slug, [])) for system in (*systems.SYSTEMS, *systems.BASELINES)}
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    wanted = {
        TARGET: json.dumps(found, indent=1) + "\n",
        README: before + BEGIN + paragraph(found, len(judged), processor_hours(every)) + END + rest.partition(END)[2],
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
