"""Where benchmarks keep what they measured: `results/CLASS/NAME.json`, one file a benchmark and a class of machine, side by side.

A record says what it was measured on (processor, flags in use, variables that limit libraries, commit, load) and holds its rows as the
benchmark wrote them, beside its *figures*: what `scripts/how_fast.py` shows on the page "How fast", in one form for all. A figure has
ours, the peers that ran in turn with it, and which of them is the peer as a user would start it and which the peer at its best.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_json
from diptych.core.environment import environment
from diptych.core.machine import Machine, limits, machine_class, processor_name

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Peer:
    """What somebody else's code, or ours before, needed for the same work. `best` is the peer at the best setting that we know."""

    name: str
    value: float
    best: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside its peers. `less` says that a smaller value is the better one (seconds), as for rates it is not."""

    case: str
    unit: str
    ours: float
    peers: tuple[Peer, ...] = ()
    less: bool = True

    def times(self, peer: Peer) -> float:
        """How many times as good ours is: above 1 is for us."""
        return peer.value / self.ours if self.less else self.ours / peer.value


def facts() -> dict[str, Any]:
    """When and on what: beside the rows of a record, or of a part of it that is measured by itself."""
    try:
        load = round(os.getloadavg()[0], 2)
    except OSError:
        load = None
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor_name(),
        "limited_by": limits() | ({"CPUID": "AVX2"} if "as_avx2.so" in os.environ.get("LD_PRELOAD", "") else {}),
        "load_average": load,
        "environment": environment(),
    }


def path_of(name: str, machine: Machine | None = None) -> Path:
    """The file of a benchmark on this class of machine, or on the one that is named."""
    return RESULTS / (machine or machine_class()) / f"{name}.json"


def last(name: str, machine: Machine | None = None) -> dict[str, Any]:
    """The record that is there for this class of machine; {} where there is none."""
    path = path_of(name, machine)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def keep(name: str, found: Mapping[str, Any], figures: Sequence[Figure], machine: Machine | None = None) -> Path:
    """Write a record in place of the last one of this class of machine. `found` has rows, settings, or parts with facts of their own."""
    path = path_of(name, machine)
    shown = [{**asdict(figure), "peers": [asdict(peer) for peer in figure.peers]} for figure in figures]
    write_json(path, {"name": name, "machine": machine or machine_class(), **facts(), **found, "figures": shown})
    print(f"written: {path.relative_to(RESULTS.parents[1])}")
    return path


def figures_of(record: Mapping[str, Any]) -> list[Figure]:
    """A record's figures."""
    return [Figure(**{**row, "peers": tuple(Peer(**peer) for peer in row["peers"])}) for row in record["figures"]]
