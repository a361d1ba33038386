"""The table of docs/coming-from.md: which peers' code was run on what, at which version. --record-parity writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[2] / "docs/measured/peers.json"
Note = Callable[[str, str, str, str], None]


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Note]:
    """`peer(package, entry, direction, what)` notes that the test ran a peer's own code.

    The row has to stand in docs/measured/peers.json; with --record-parity the test writes it, with the version of the package here.
    Versions are not compared: they say what the row was last recorded with.
    """
    noted: list[dict[str, str]] = []

    def note(package: str, entry: str, direction: str, what: str) -> None:
        assert direction in ("reads ours", "is read"), direction
        row = {"package": package, "entry": entry, "direction": direction, "what": what}
        noted.append({**row, "version": version(package)})

    yield note
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []
    names = [(row["package"], row["entry"], row["direction"]) for row in noted]
    if request.config.getoption("--record-parity"):
        rest = [row for row in kept if (row["package"], row["entry"], row["direction"]) not in names]
        every = sorted(rest + noted, key=lambda row: (row["package"], row["entry"], row["direction"]))
        RECORD.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
        return
    stands = {(row["package"], row["entry"], row["direction"]): row["what"] for row in kept}
    lost = [row for row, name in zip(noted, names, strict=True) if stands.get(name) != row["what"]]
    assert not lost, f"{RECORD.name} does not hold {lost}: run this test with --record-parity"
