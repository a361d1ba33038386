"""``diptych claims list | cost SLUG... | run SLUG... | judge [SLUG...] | check [SLUG...] | table``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, parse
from diptych.cli.options.subcommands import dispatch

LEDGER = Path("docs/claims")
CELLS = Path("runs/claims")


@dataclass(frozen=True)
class ClaimsRunArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="SLUG", help="a system (all its claims), its main claim alone: SLUG/, or a further one: SLUG/NAME"),
    ]
    seeds: Annotated[str, arg(help="others than the claim's own, such as 201,202,203, or how many; writes no verdict")] = ""
    dry: Annotated[bool, arg(help="write no verdict; the run is logged all the same")] = False
    dirty: Annotated[bool, arg(help="run on changed sources too; writes no verdict")] = False
    smoke: Annotated[bool, arg(help="arms and controls at their smallest; gives no verdict")] = False
    ledger: Annotated[Path, arg(help="the folder of verdicts, a file a system, and of the log")] = LEDGER
    cells: Annotated[Path, arg(help="where finished cells are kept")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsCostArgs:
    slugs: Annotated[Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all when left out")] = ()
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsJudgeArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all that have a verdict when left out")
    ] = ()
    dry: Annotated[bool, arg(help="write no line")] = False
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    cells: Annotated[Path, arg(help="where finished cells are kept")] = CELLS
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsCheckArgs:
    slugs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="SLUG", help="systems or claims; all that have a verdict when left out")
    ] = ()
    respelled: Annotated[
        str,
        arg(
            metavar="WHY",
            help="of one claim: why its declaration is written differently than when it was judged, and says the same",
        ),
    ] = ""
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


@dataclass(frozen=True)
class ClaimsTableArgs:
    ledger: Annotated[Path, arg(help="the folder of verdicts")] = LEDGER
    plot: Annotated[Path | None, arg(help="also write the forest plot of all claims to this SVG file")] = None
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "list": (_list, "every claim in a sentence"),
        "cost": (_cost, "what a verdict would cost, from a few steps of every arm"),
        "run": (_run, "sweep the rates, run what is missing, give the verdict, write the ledger"),
        "judge": (_judge, "judge kept verdicts by the present rule, with raw-input controls"),
        "check": (_check, "check that verdicts are of the present code"),
        "table": (_table, "the newest verdict of every claim"),
    }
    return dispatch("claims", subs, argv)


def _list(argv: Sequence[str]) -> int:
    args = parse(ClaimsTableArgs, argv, "claims list", "Every claim in a sentence.")
    from diptych.cli.commands.claims_work import print_list

    return print_list(args)


def _cost(argv: Sequence[str]) -> int:
    args = parse(
        ClaimsCostArgs, argv, "claims cost", "Processor minutes of sweep, arms and controls, from a few steps of every arm."
    )
    from diptych.cli.commands.claims_work import print_costs

    return print_costs(args)


def _run(argv: Sequence[str]) -> int:
    args = parse(ClaimsRunArgs, argv, "claims run", "Method against baseline at equal budget, with controls, over fresh seeds.")
    from diptych.cli.commands.claims_work import run_claims

    return run_claims(args)


def _judge(argv: Sequence[str]) -> int:
    args = parse(
        ClaimsJudgeArgs, argv, "claims judge", "Adds raw-input controls to kept verdicts and judges them again; trains nothing."
    )
    from diptych.cli.commands.claims_work import judge_claims

    return judge_claims(args)


def _check(argv: Sequence[str]) -> int:
    args = parse(
        ClaimsCheckArgs, argv, "claims check", "Recomputes the trace of verdicts whose code has changed; seconds a claim."
    )
    from diptych.cli.commands.claims_work import check_claims

    return check_claims(args)


def _table(argv: Sequence[str]) -> int:
    args = parse(ClaimsTableArgs, argv, "claims table", "The newest verdict of every claim.")
    from diptych.cli.commands.claims_work import print_table

    return print_table(args)
