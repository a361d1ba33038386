"""Implementation of the sub-commands of ``diptych claims``, apart from their options so that help starts without the engine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diptych.claims import engine, freshness, ledger, registry
from diptych.claims.cell import Cell, CellResult
from diptych.claims.claim import LONG, Claim
from diptych.claims.constants import changed_constants, constants_hash
from diptych.claims.controls.raw_input import PREFIX
from diptych.claims.cost import estimate_costs
from diptych.claims.table import WIDTH, rows, table_lines
from diptych.claims.trace import differences, trace, trace_at
from diptych.claims.tree import Tree, tree
from diptych.cli.commands.claims_options import ClaimsCheckArgs, ClaimsCostArgs, ClaimsJudgeArgs, ClaimsRunArgs, ClaimsTableArgs
from diptych.cli.options.output import finish, say
from diptych.core.errors import ConfigError, RunError


def print_list(args: ClaimsTableArgs) -> int:
    claims = registry.every()
    plain = [{"claim": c.key, "kind": c.kind, "sentence": c.sentence, "metric": c.metric, "data": c.data} for c in claims]
    return finish({"claims": plain}, [f"{c.key:<{WIDTH}}{c.sentence}" for c in claims], args.json)


def print_costs(args: ClaimsCostArgs) -> int:
    claims = _claims_of(args.slugs) if args.slugs else registry.every()
    with tempfile.TemporaryDirectory() as folder:
        costs = estimate_costs(claims, Path(folder), lambda claim, seconds: say(_price(claim.key, seconds)))
    systems: dict[str, float] = {}
    for claim in claims:
        systems[claim.slug] = systems.get(claim.slug, 0.0) + costs[claim.key]
    lines = [_price(key, seconds) for key, seconds in sorted(systems.items(), key=lambda item: item[1])]
    return finish({"claims": costs, "systems": systems}, ["processor minutes of all claims of a system:", *lines], args.json)


def _price(key: str, seconds: float) -> str:
    return f"{key:<{WIDTH}}{seconds / 60:6.1f}"


def run_claims(args: ClaimsRunArgs) -> int:
    lines: list[str] = []
    entries: list[dict[str, Any]] = []
    now = tree()
    for claim in _claims_of(args.slugs):
        if args.smoke:
            with tempfile.TemporaryDirectory() as folder:
                engine.smoke(claim, Path(folder))
            lines.append(f"{claim.key}: runs")
            continue
        entry = _verdict(claim, args, now)
        entries.append(asdict(entry))
        low, high = entry.interval
        difference = f"{entry.metric} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}], p = {entry.p:.3g}"
        spent = f"{len(entry.seeds)} seeds, {entry.cpu_seconds / 60:.1f} processor minutes"
        if entry.shared_cpu_seconds != 0:
            own = (
                "an unknown time"
                if entry.shared_cpu_seconds is None
                else f"{entry.shared_cpu_seconds / 60:.1f} processor minutes"
            )
            spent += f", and {own} for models that its cells share"
        spent += f", tries: {entry.tries}" if entry.tries > 1 else ""
        why = f" ({entry.why})" if entry.why else ""
        power = f"; a difference of {entry.matters:g} needs {entry.seeds_needed} seeds" if entry.verdict == "open" else ""
        lines.append(f"{claim.key}: {entry.verdict}{why}; {difference}, {spent}{power}")
        if entry.cpu_seconds > LONG and not claim.why_long:
            say(f"note: {claim.key} took more than ten minutes of two cores, and its file does not say why (`why_long`)")
    return finish({"entries": entries}, lines, args.json)


def _verdict(claim: Claim, args: ClaimsRunArgs, now: Tree) -> ledger.Entry:
    """Runs a claim; logs that it was run, and whatever came of it."""
    if not now.clean and not (args.dirty or args.dry):
        what = f"{len(now.changed)} files differ from the commit ({', '.join(now.changed[:3])})" if now.commit else "no checkout"
        raise RunError(f"a verdict needs sources that can be found again: {what}; commit them, or try with --dirty")
    seeds = _seeds(args.seeds, claim)
    own = seeds == claim.verdict_seeds()
    writes = own and not args.dry and not args.dirty
    commit = now.commit + ("" if now.clean else "+")
    facts = {
        "claim": claim.key,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hash": claim.hash(),
        "seeds": list(seeds),
        "writes": writes,
    }
    log, tries = args.ledger / ledger.LOG, ledger.tries(args.ledger, claim)
    if tries > 1:
        say(f"note: {tries - 1} other declarations of {claim.key} were run to their end before this one")
    ledger.append(log, {**facts, "event": "begun"})

    def widened(arm: str, rate: float, beyond: float) -> None:
        say(f"  {arm}: the best rate {rate:g} is at the edge of those declared, {beyond:g} is tried, too")
        ledger.append(log, {**facts, "event": "widened", "arm": arm, "best": rate, "tried": beyond})

    try:
        entry = engine.run(claim, cells=args.cells, commit=commit, seeds=seeds, tries=tries, on_cell=_report, on_widened=widened)
        line = freshness.judged(claim, trace(claim), now) if writes else None
    except BaseException as error:
        ledger.append(log, {**facts, "event": "ended", "verdict": None, "reason": f"{type(error).__name__}: {error}"})
        raise
    outcome = {"verdict": entry.verdict, "difference": entry.difference, "p": entry.p, "cpu_seconds": entry.cpu_seconds}
    ledger.append(log, {**facts, "event": "ended", **outcome})
    if line is not None:
        ledger.append(ledger.path_of(args.ledger, claim.key), entry)
        freshness.write(args.ledger, line)
    return entry


def _report(cell: Cell, done: CellResult) -> None:
    rate = "" if cell.rate is None else f" rate {cell.rate:g}"
    scores = ", ".join(f"{name} {value:.4f}" for name, value in done.scores.items())
    say(f"  {cell.arm}{rate} seed {cell.seed}: {scores} ({done.cost['cpu_seconds']:.0f} s of processor)")


def _seeds(text: str, claim: Claim) -> tuple[int, ...]:
    """Nothing: the claim's own; ``7``: so many drawn in the same way; ``201,202,203``: these."""
    if not text:
        return claim.verdict_seeds()
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds is {text!r} (expected a number such as 5, or a list such as 201,202,203)") from None
    seeds = claim.verdict_seeds(numbers[0]) if "," not in text else numbers
    engine.check_seeds(seeds)
    return seeds


def judge_claims(args: ClaimsJudgeArgs) -> int:
    """Judges kept scores by the present rule. A line is written where the verdict or its raw-input controls are others than before."""
    lines: list[str] = []
    entries: list[dict[str, Any]] = []
    for claim in _claims_of(args.slugs) if args.slugs else registry.every():
        entry = ledger.latest(args.ledger, claim.key)
        if entry is None:
            continue
        again = engine.judge_again(claim, entry, cells=args.cells)
        sides = (again.baseline, again.method, *again.raw)
        now = {side.name: sum(side.scores[again.metric]) / len(again.seeds) for side in sides}
        entries.append({"claim": claim.key, "was": again.was, "verdict": again.verdict, "why": again.why, "scores": now})
        why = f" ({again.why})" if again.why else ""
        scores = ", ".join(f"{name.removeprefix(PREFIX)} {value:.3f}" for name, value in now.items())
        lines.append(f"{claim.key:<{WIDTH}}{again.was} -> {again.verdict}{why}; {again.metric}: {scores}")
        lines += [f"{'':<{WIDTH}}{name}: {reason}" for name, reason in again.raw_missing.items()]
        say(lines[-1 - len(again.raw_missing)])
        if not args.dry and (again.verdict, again.raw, again.raw_missing) != (entry.verdict, entry.raw, entry.raw_missing):
            ledger.append(ledger.path_of(args.ledger, claim.key), again)
    return finish({"claims": entries}, lines or ["no claim has a verdict yet"], args.json)


def check_claims(args: ClaimsCheckArgs) -> int:
    states: list[dict[str, Any]] = []
    lines: list[str] = []
    claims = _claims_of(args.slugs) if args.slugs else registry.every()
    if args.respelled:  # of a bare slug it is about the main claim, which has no name; never about one without a verdict
        claims = [claim for claim in claims if claim.key in args.slugs] or claims
        claims = [claim for claim in claims if ledger.latest(args.ledger, claim.key) is not None] or claims
    if args.respelled and len(claims) != 1:
        raise ConfigError(f"--respelled is about one claim, and {len(claims)} are named (expected SLUG/NAME, or SLUG)")
    for claim in claims:
        entry = ledger.latest(args.ledger, claim.key)
        if entry is None:
            continue
        try:
            parted = _check_one(claim, entry, args)
        except Exception as error:  # one claim that cannot be traced says so, and the others are checked
            parted = [f"cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
        state = "stale" if parted else "fresh"
        states.append({"claim": claim.key, "state": state, "differences": parted})
        lines += [f"{claim.key:<{WIDTH}}{state}", *(f"  {words}" for words in parted[:5])]
    stale = any(row["state"] == "stale" for row in states)
    finish({"claims": states}, lines or ["no claim has a verdict yet"], args.json)
    return 1 if stale else 0


def _check_one(claim: Claim, entry: ledger.Entry, args: ClaimsCheckArgs) -> list[str]:
    """Reasons why a verdict is stale; none where it is fresh, and its line then says so."""
    kept = freshness.read(args.ledger)
    state, parted = freshness.state(kept, claim, entry), list[str]()
    before = freshness.line_of(kept, entry)
    respelled = args.respelled if state != "fresh" else ""
    if state == "stale" and not respelled:
        return ["the claim itself was edited (where it says the same in other words: --respelled WHY)"]
    if before is None:
        return [f"no line of {freshness.FILE} says which code was judged (diptych claims run)"]
    if state != "fresh":
        parted = ledger.edits(claim, entry) or _trace_differences(claim, before, respelled=bool(respelled))
        rule = ledger.recompute_verdict(entry)
        parted += (
            [] if rule == entry.verdict else [f"the rule now says '{rule}', the line '{entry.verdict}' (diptych claims judge)"]
        )
    if not parted and (state != "fresh" or not before.constants):
        freshness.write(args.ledger, freshness.checked(claim, before, tree(), respelled))
        say(f"{claim.key:<{WIDTH}}checked")
    return parted


def _trace_differences(claim: Claim, before: freshness.Freshness, *, respelled: bool) -> list[str]:
    """Differences of constants or trace of a claim from those before, in words.

    Before a trace counts, the sources of that commit are traced here, too: single digits may differ from processor to processor. Who says
    that a claim was respelled speaks for its constants.
    """
    if before.constants and not respelled and before.constants != constants_hash(claim):
        changed = changed_constants(claim, before.commit)
        if changed:
            return [changed]
    now = trace(claim) if before.constants else trace(claim, earlier=True)
    parted = differences(before.trace, now)
    if parted and (then := trace_at(before.commit, claim.key)) is not None:
        return differences(then, now)
    return parted


def print_table(args: ClaimsTableArgs) -> int:
    table = rows(args.ledger, registry.every())
    if args.plot:
        from diptych.claims.table import forest

        args.plot.write_text(forest(table), encoding="utf-8")
    return finish({"claims": [row.to_json() for row in table]}, table_lines(table) or ["no claims"], args.json)


def _claims_of(names: Sequence[str]) -> list[Claim]:
    return [claim for name in names for claim in ([registry.find(name)] if "/" in name else registry.of(name))]
