"""Processor seconds of the fast tests by file and by system: a system's tests should take about six together.

    python scripts/test_times.py tests/recipes tests/objectives        # or `make test-times FAMILY=contrastive`

Processor time, children included, hardly depends on what else the machine does. A file counts for the system in its name
(`test_clip.py`, `test_clip_released.py`); files of shared parts stand under their own names. What tests of a file share, such as a run
that is trained once, counts for the first that needs it. The exit code is 1 where a test fails or a system's tests take longer.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.core import systems

LIMIT = 6.0
"""Processor seconds a system."""
SHOWN = 15
"""Single tests that are listed."""


class Times:
    """A plugin of pytest: what each test cost, its fixtures included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        before = spent()
        result = yield
        self.seconds[item.nodeid] = spent() - before
        return result


def spent() -> float:
    """Processor seconds of this process, of those that it started and waited for, and of those that a server started for it."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    served = getattr(sys.modules.get("joined_processes"), "SPENT", [0.0])[0]
    return time.process_time() + children.ru_utime + children.ru_stime + served


def system_of(file: str) -> str:
    """The system whose name a test file has, the longest that fits; else the file.

    >>> system_of("tests/recipes/contrastive/test_clip.py"), system_of("tests/train/test_fit.py")
    ('clip', 'tests/train/test_fit.py')
    """
    stem = Path(file).stem.removeprefix("test_")
    fitting = [slug for slug in systems.slugs() if stem == slug or stem.startswith(f"{slug}_")]
    return max(fitting, key=len, default=file)


def main(arguments: list[str]) -> int:
    times = Times()
    code = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", *(arguments or ["tests"])], plugins=[times])
    by_system: dict[str, float] = defaultdict(float)
    for test, seconds in times.seconds.items():
        by_system[system_of(test.partition("::")[0])] += seconds
    print(f"\nprocessor seconds, {len(times.seconds):,} tests, {sum(times.seconds.values()):.0f} in all")
    above = {name for name, seconds in by_system.items() if name in systems.slugs() and seconds > LIMIT}
    for name, seconds in sorted(by_system.items(), key=lambda entry: -entry[1]):
        print(f"{seconds:8.1f}  {name}{'   above ' + format(LIMIT, '.0f') if name in above else ''}")
    print(f"\nthe {SHOWN} longest tests")
    for test, seconds in sorted(times.seconds.items(), key=lambda entry: -entry[1])[:SHOWN]:
        print(f"{seconds:8.1f}  {test}")
    return int(code) or int(bool(above))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
