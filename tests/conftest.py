"""What every test shares: a cache folder of its own, quiet threads, and the record of what mechanisms agree with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

PASSED = pytest.StashKey[bool]()
RECORDS = Path(__file__).parent / "parity"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of a test stays in the user's cache, and nothing of the cache changes a test."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("DIPTYCH_CACHE", raising=False)
        yield folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-parity", action="store_true", help="write tests/parity/SLUG.json from the parity tests that pass")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@dataclass(frozen=True)
class Check:
    """what       of ours, such as "loss and every gradient"
    against    what it was held against, with its version
    difference the largest that was measured, relative where the values are above 1; tolerance what was allowed
    test       which test measured it
    """

    what: str
    against: str
    difference: float
    tolerance: float
    test: str


class Parity:
    """Holds a system's mechanism against something independent, and records how close it came when the test passes."""

    def __init__(self, test: str) -> None:
        self.test, self.found = test, dict[str, list[Check]]()

    def __call__(self, slug: str, what: str, against: str, pairs: list[tuple[Tensor, Tensor]], *, tolerance: float) -> None:
        """`pairs` of (ours, theirs), in float64."""
        gaps = [((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).max() for ours, theirs in pairs]
        difference = float(torch.stack(gaps).max().detach())
        assert difference <= tolerance, f"{slug}: {what} is off by {difference:.1e} from {against}"
        self.found.setdefault(slug, []).append(Check(what, against, float(f"{difference:.0e}"), tolerance, self.test))


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """Each check has to stand in tests/parity/SLUG.json, which `make systems` reads; --record-parity writes it there."""
    test = request.node.nodeid.partition("[")[0].removeprefix("tests/")
    record = Parity(test)
    yield record
    if not request.node.stash.get(PASSED, False):
        return
    for slug, checks in record.found.items():
        path = RECORDS / f"{slug}.json"
        plain = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else []
        known = {(check["what"], check["against"]) for check in plain}
        if request.config.getoption("--record-parity"):
            names = {(check.what, check.against) for check in checks}
            kept = [check for check in plain if (check["what"], check["against"]) not in names]
            every = sorted([*kept, *map(asdict, checks)], key=lambda check: (check["what"], check["against"]))
            RECORDS.mkdir(exist_ok=True)
            path.write_text(json.dumps({"checks": every}, indent=1) + "\n", encoding="utf-8")
        else:
            missing = [check.what for check in checks if (check.what, check.against) not in known]
            assert not missing, f"{path.name} does not hold {missing}: run this test with --record-parity"
