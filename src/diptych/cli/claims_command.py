"""``diptych claims list | run SLUG... | table``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.claims import engine, ledger, registry
from diptych.cli.output import finish, parse, say
from diptych.cli.subcommands import dispatch
from diptych.core.errors import ConfigError

LEDGER = Path("docs/claims/ledger.jsonl")
CELLS = Path("runs/claims")
FRESH_SEEDS = (101, 102, 103, 104, 105)
WIDTH = 24  # of a claim's name in a table


@dataclass(frozen=True)
class Run:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="a system (all its claims), or one claim: SLUG/NAME")]
    seeds: Annotated[str, arg(help="how many fresh seeds, or a list such as 201,202,203")] = "5"
    dry: Annotated[bool, arg(help="leave the ledger alone")] = False
    smoke: Annotated[bool, arg(help="both arms at their smallest; gives no verdict")] = False
    ledger: Annotated[Path, arg(help="the file that verdicts are added to")] = LEDGER
    cells: Annotated[Path, arg(help="where finished cells are kept")] = CELLS
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class Table:
    ledger: Annotated[Path, arg(help="the file of verdicts")] = LEDGER
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "list": (_list, "every claim in a sentence"),
        "run": (_run, "run what is missing, give the verdict, write the ledger"),
        "table": (_table, "the newest verdict of every claim"),
    }
    return dispatch("claims", subs, argv)


def _list(argv: Sequence[str]) -> int:
    args = parse(Table, argv, "claims list", "Every claim in a sentence.")
    claims = registry.every()
    rows = [{"claim": c.key, "sentence": c.sentence, "metric": c.metric, "budget": c.budget, "data": c.data} for c in claims]
    return finish({"claims": rows}, [f"{c.key:<{WIDTH}}{c.sentence}" for c in claims], args.json)


def _run(argv: Sequence[str]) -> int:
    args = parse(Run, argv, "claims run", "Method against baseline at equal budget, over seeds.")
    claims = [claim for name in args.slugs for claim in ([registry.find(name)] if "/" in name else registry.of(name))]
    lines: list[str] = []
    entries: list[dict[str, Any]] = []
    for claim in claims:
        if args.smoke:
            with tempfile.TemporaryDirectory() as folder:
                engine.smoke(claim, Path(folder))
            lines.append(f"{claim.key}: runs")
            continue
        entry = engine.run(claim, seeds(args.seeds), cells=args.cells, on_cell=_report)
        if not args.dry:
            ledger.append(args.ledger, entry)
        entries.append(asdict(entry))
        low, high = entry.interval
        difference = f"{entry.metric} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}], p = {entry.p:.3g}"
        lines.append(f"{claim.key}: {entry.verdict}; {difference}, {len(entry.seeds)} seeds, {entry.seconds / 60:.1f} minutes")
    return finish({"entries": entries}, lines, args.json)


def _report(arm: str, seed: int, finished: engine.Finished) -> None:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in finished.scores.items())
    say(f"  {arm} seed {seed}: {scores} ({finished.seconds:.0f} s)")


def seeds(text: str) -> tuple[int, ...]:
    """``5`` to the first five fresh seeds, ``201,202,203`` to these."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is {text!r} (expected a number such as 5, or a list such as 201,202,203)") from None
    return tuple(FRESH_SEEDS[0] + k for k in range(numbers[0])) if "," not in text else tuple(numbers)


def _table(argv: Sequence[str]) -> int:
    args = parse(Table, argv, "claims table", "The newest verdict of every claim.")
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for claim in registry.every():
        key, entry = claim.key, ledger.latest(args.ledger, claim.key)
        stale = entry is not None and entry.source_hash != claim.source_hash()
        rows.append({"claim": key, "entry": asdict(entry) if entry else None, "stale": stale})
        if entry is None:
            lines.append(f"{key:<{WIDTH}}not run")
        else:
            low, high = entry.interval
            words = f"{entry.verdict}{' (stale)' if stale else ''}"
            lines.append(
                f"{key:<{WIDTH}}{words:<20}{entry.metric} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}]  {entry.date} {entry.commit}"
            )
    return finish({"claims": rows}, lines or ["no claims"], args.json)
