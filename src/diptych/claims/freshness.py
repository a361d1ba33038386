"""Which code verdicts are about: one generated file, ``docs/claims/freshness.jsonl``, with a line a claim.

``diptych claims run`` and ``diptych claims check`` write it, nobody edits it. The ledger beside it holds verdicts alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from diptych.claims.claim import Claim
from diptych.claims.constants import constants_hash
from diptych.claims.declared import modules_of
from diptych.claims.ledger import Entry
from diptych.claims.trace import Trace, trace
from diptych.claims.tree import Tree
from diptych.core.config import from_plain
from diptych.core.disk.files import write_atomic
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sources.closure import closure_hash

FILE = "freshness.jsonl"
State = Literal["fresh", "changed", "stale"]
"""`changed`: code that the claim reaches has changed since, and no trace has shown yet whether that matters."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """The code that a claim was last found to behave the same with as when it was judged.

    date, commit   of the check; the commit of changed sources ends with "+"
    hash, closure  of the declaration, and of the syntax of all modules that it reaches
    constants      hash of full-size constants, see `claims/constants.py`; "" of a line whose trace has the earlier form
    respelled      why the declaration may have another hash than the verdict's and still says the same: a field was renamed, say
    trace          of the judged code, see `claims/trace.py`; what later code is compared with
    """

    claim: str
    date: str
    commit: str
    hash: str
    closure: str
    constants: str = ""
    respelled: tuple[str, ...] = ()
    trace: Trace = field(default_factory=dict, repr=False)


Kept = dict[str, list[Freshness]]
"""Claim -> its lines: one, or two where branches were merged."""


def read(folder: Path) -> Kept:
    """All lines by claim; nothing when there is no file yet."""
    by_claim: Kept = {}
    for line in _lines(folder / FILE):
        by_claim.setdefault(line.claim, []).append(line)
    return by_claim


def write(folder: Path, line: Freshness) -> None:
    """Put this line in place of those of its claim: sorted by claim, in one step."""
    kept = {**read(folder), line.claim: [line]}
    plain = [asdict(each) for _, of_claim in sorted(kept.items()) for each in of_claim]
    write_atomic(folder / FILE, "".join(json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in plain))


def state(kept: Kept, claim: Claim, entry: Entry) -> State:
    """State of a verdict: fresh if it is about the code that is there. Of two lines of a merge the one that fits counts."""
    if claim.hash() not in {entry.hash, *(line.hash for line in kept.get(claim.key, ()) if line.respelled)}:
        return "stale"
    return "fresh" if claim_closure(claim) in {line.closure for line in kept.get(claim.key, ())} else "changed"


def claim_closure(claim: Claim) -> str:
    """The hash of all code that a claim reaches, from the modules of its arms, their recipes and data."""
    return closure_hash(*sorted(modules_of(claim)))


def judged(claim: Claim, traced: Trace, now: Tree) -> Freshness:
    """The line of a claim that was judged with the present code."""
    commit = now.commit + ("" if now.clean else "+")
    date = datetime.now(UTC).date().isoformat()
    return Freshness(claim.key, date, commit, claim.hash(), claim_closure(claim), constants_hash(claim), trace=traced)


def line_of(kept: Kept, entry: Entry) -> Freshness | None:
    """The line that speaks about this verdict; None where none does."""
    own = [line for line in kept.get(entry.claim, ()) if line.hash == entry.hash or line.respelled]
    return own[-1] if own else None


def checked(claim: Claim, before: Freshness, now: Tree, respelled: str = "") -> Freshness:
    """The line of a claim whose present code behaves as `before` says. Its trace stays, so that small differences do not add up; one of
    the earlier form is taken anew."""
    reasons = (*before.respelled, *([respelled] if respelled else []))
    kept = before.trace if before.constants else trace(claim)
    return replace(judged(claim, kept, now), respelled=reasons)


def _lines(path: Path) -> Iterator[Freshness]:
    if not path.exists():
        return
    for row, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield from_plain(Freshness, parse_json(text))
        except (ValueError, KeyError, TypeError, ConfigError, UnknownName) as error:
            raise DataError(f"not a line of freshness ({error})", file=path, row=row) from error
