"""``diptych claims list | cost SLUG... | run SLUG... | judge [SLUG...] | check [SLUG...] | table``."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.cli.commands.claims_options import ClaimsCheckArgs, ClaimsCostArgs, ClaimsJudgeArgs, ClaimsRunArgs, ClaimsTableArgs
from diptych.cli.options.output import parse
from diptych.cli.options.subcommands import dispatch


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
