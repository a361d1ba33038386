"""Processor seconds of tests by folder, file, system, fixture and single test, and which passed: a table that grows file by file.

    python scripts/test_times.py tests/recipes tests/objectives                # or `make test-times FAMILY=contrastive`
    python scripts/test_times.py --slow --ledger runs/slow.jsonl --minutes 10  # the next ten minutes of the slow tests
    python scripts/test_times.py --show runs/slow.jsonl                        # the tables of what has run so far

Processor time, children included, hardly depends on what else the machine does. With --ledger each file's result is added to a file of
JSON lines when its last test ends, or when the minutes are over; tests that stand there as passed are left out: a run that was stopped
goes on where it was.

A file counts for the system in its name (`test_clip.py`, `test_clip_released.py`), whose tests should take about six seconds together.
A fixture's seconds stand under its own name and not under the test that was the first to need it. Collecting is the import of a test
file, with whatever it is the first to import. The exit code is 1 where a test fails or a system's fast tests take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from diptych.core import systems

LIMIT = 6.0
"""Processor seconds a system."""
SHOWN = 30
"""Files, fixtures and tests that are listed."""


@dataclass
class FileTimes:
    """file       path from the root of the repository
    collecting processor seconds of its import
    tests      processor seconds by test, without those of fixtures
    fixtures   processor seconds by fixture that a test of this file was the first to need
    failed     its tests that failed
    skipped    how many of its tests were skipped
    whole      False where the minutes were over before its last test
    """

    file: str
    collecting: float = 0.0
    tests: dict[str, float] = field(default_factory=dict)
    fixtures: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    whole: bool = True

    @property
    def seconds(self) -> float:
        return self.collecting + sum(self.tests.values()) + sum(self.fixtures.values())

    @property
    def passed(self) -> set[str]:
        return {f"{self.file}::{test}" for test in self.tests.keys() - set(self.failed)}

    def then(self, later: FileTimes) -> FileTimes:
        """This and a later run of other tests of the file, or of some again."""
        fixtures = {
            name: self.fixtures.get(name, 0.0) + later.fixtures.get(name, 0.0) for name in {**self.fixtures, **later.fixtures}
        }
        failed = [test for test in self.failed if test not in later.tests] + later.failed
        collecting, skipped = self.collecting + later.collecting, self.skipped + later.skipped
        return FileTimes(self.file, collecting, {**self.tests, **later.tests}, fixtures, failed, skipped, later.whole)


class Times:
    """A plugin of pytest that times each file and adds it to the ledger when its last test ends.

    Tests that passed in `before` are left out, and files that are done are not collected; after `minutes` no further test is begun.
    With `slow`, files that do not contain the word are not collected: importing them takes minutes.
    """

    def __init__(self, ledger: Path | None, before: list[FileTimes], minutes: float, *, slow: bool = False) -> None:
        self.ledger, self.minutes, self.slow, self.began = ledger, minutes, slow, time.monotonic()
        self.done = {row.file for row in before if row.whole and not row.failed}
        self.passed = {test for row in before for test in row.passed}
        self.out_of_time = False
        self.files: dict[str, FileTimes] = {}
        self.setting_up = [0.0]  # seconds of fixtures inside the fixture or test that runs, innermost last

    def of(self, nodeid: str) -> FileTimes:
        file = nodeid.partition("::")[0]
        return self.files.setdefault(file, FileTimes(file))

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        if collection_path.relative_to(config.rootpath).as_posix() in self.done:
            return True
        if self.slow and collection_path.match("test_*.py") and "slow" not in collection_path.read_text(encoding="utf-8"):
            return True
        return None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if again := [item for item in items if item.nodeid in self.passed]:
            config.hook.pytest_deselected(items=again)
            items[:] = [item for item in items if item.nodeid not in self.passed]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        before = spent()
        result = yield
        if isinstance(collector, pytest.Module):
            self.of(collector.nodeid).collecting += spent() - before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        before = spent()
        self.setting_up.append(0.0)
        try:
            return (yield)
        finally:
            whole = spent() - before
            own = whole - self.setting_up.pop()
            self.setting_up[-1] += whole
            fixtures = self.of(request._pyfuncitem.nodeid).fixtures
            fixtures[fixturedef.argname] = fixtures.get(fixturedef.argname, 0.0) + own

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        before, self.setting_up = spent(), [0.0]
        result = yield
        times = self.of(item.nodeid)
        times.tests[item.nodeid.partition("::")[2]] = spent() - before - self.setting_up[0]
        over = bool(self.minutes) and time.monotonic() - self.began > self.minutes * 60
        times.whole = nextitem is None or self.of(nextitem.nodeid) is not times
        if over or times.whole:
            self.write(times)
        if over:
            self.out_of_time = nextitem is not None
            item.session.shouldstop = f"{self.minutes:g} minutes are over: the same command goes on"
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.of(report.nodeid).failed.append(report.nodeid.partition("::")[2])
        self.of(report.nodeid).skipped += report.skipped

    def write(self, times: FileTimes) -> None:
        if self.ledger:
            self.ledger.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger.open("a", encoding="utf-8") as ledger:
                ledger.write(json.dumps(asdict(times)) + "\n")


def spent() -> float:
    """Processor seconds of this process, of those that it started and waited for, and of those that were forked of a server for it."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime + served()


def served() -> float:
    """Processor seconds of the server of `tests/helpers/joined_processes.py`, and of its forks that have ended."""
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is None:
        return 0.0
    fields = Path(f"/proc/{server}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def system_of(file: str) -> str | None:
    """The system whose name a test file has, the longest that fits.

    >>> system_of("tests/recipes/contrastive/test_clip.py"), system_of("tests/train/test_fit.py")
    ('clip', None)
    """
    stem = Path(file).stem.removeprefix("test_")
    return max((slug for slug in systems.slugs() if stem == slug or stem.startswith(f"{slug}_")), key=len, default=None)


def folder_of(file: str) -> str:
    """The room of a test file.

    >>> folder_of("tests/recipes/contrastive/test_clip.py"), folder_of("tests/test_docs.py")
    ('tests/recipes', 'tests')
    """
    return "/".join(file.split("/")[:-1][:2])


def read_ledger(path: Path) -> list[FileTimes]:
    """A row for each file of a ledger, all its runs put together."""
    rows = [FileTimes(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return together(rows)


def together(rows: Iterable[FileTimes]) -> list[FileTimes]:
    """
    >>> one, two = FileTimes("a", tests={"x": 1.0, "y": 2.0}, failed=["y"], whole=False), FileTimes("a", tests={"y": 3.0, "z": 1.0})
    >>> [(row.tests, row.failed, row.whole) for row in together([one, two])]
    [({'x': 1.0, 'y': 3.0, 'z': 1.0}, [], True)]
    """
    files: dict[str, FileTimes] = {}
    for row in rows:
        files[row.file] = files[row.file].then(row) if row.file in files else row
    return list(files.values())


def show(files: list[FileTimes]) -> set[str]:
    """Prints the tables; systems whose tests take longer than the limit."""
    ran = [row for row in files if row.tests]
    tests = {f"{row.file}::{test}": seconds for row in ran for test, seconds in row.tests.items()}
    print(f"\n{len(tests):,} tests in {len(ran)} files, {sum(row.skipped for row in ran)} skipped; processor seconds:")
    print(f"{sum(tests.values()):8.0f}  in tests")
    print(f"{sum(sum(row.fixtures.values()) for row in ran):8.0f}  in fixtures")
    print(f"{sum(row.collecting for row in files):8.0f}  in collecting")
    print(f"{sum(row.seconds for row in files):8.0f}  in all")
    by_system, by_fixture = (defaultdict[str, float](float) for _ in range(2))
    by_folder = defaultdict[str, list[FileTimes]](list)
    for row in files:
        by_folder[folder_of(row.file)].append(row)
        if system := system_of(row.file):
            by_system[system] += row.seconds - row.collecting
        for fixture, seconds in row.fixtures.items():
            by_fixture[f"{fixture}  {row.file}"] += seconds
    print("\n   seconds  passed  failed skipped  by folder")
    for folder, rows in sorted(by_folder.items()):
        seconds, skipped = sum(row.seconds for row in rows), sum(row.skipped for row in rows)
        passed, failed = sum(len(row.passed) for row in rows) - skipped, sum(len(row.failed) for row in rows)
        print(f"{seconds:10.1f} {passed:7} {failed:7} {skipped:7}  {folder}")
    table("by file", {row.file: row.seconds for row in files})
    table("by fixture", by_fixture)
    table("by collecting", {row.file: row.collecting for row in files})
    table("by test", tests)
    above = {name: seconds for name, seconds in by_system.items() if seconds > LIMIT}
    table(f"systems above {LIMIT:.0f} seconds", above, len(above))
    for row in ran:
        for test in row.failed:
            print(f"FAILED {row.file}::{test}")
    return set(above)


def table(title: str, seconds: dict[str, float], shown: int = SHOWN) -> None:
    print(f"\n{title}")
    for name, value in sorted(seconds.items(), key=lambda entry: -entry[1])[:shown]:
        print(f"{value:8.1f}  {name}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", default=["tests"])
    parser.add_argument("--slow", action="store_true", help="the tests that are marked slow, in place of the others")
    parser.add_argument("--ledger", type=Path, help="JSON lines that results are added to; files that stand there are left out")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no further test after so many minutes")
    parser.add_argument("--show", type=Path, metavar="LEDGER", help="run nothing, print the tables of a ledger")
    options = parser.parse_args(arguments)
    if options.show:
        show(read_ledger(options.show))
        return 0
    before = read_ledger(options.ledger) if options.ledger else []
    times = Times(options.ledger, before, options.minutes, slow=options.slow)
    marked = "slow" if options.slow else "not slow"
    code = int(pytest.main(["-q", "-m", marked, "-p", "no:cacheprovider", *options.paths], plugins=[times]))
    rows = together((*before, *times.files.values()))
    above = show(rows)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED or times.out_of_time:  # all files are done, or some are left for the next call
        code = int(any(row.failed for row in rows))
    return code or int(bool(above) and not options.slow)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
