"""How tests fuzz: so many cases, each of which ends in data or in one line, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diptych.core.errors import DiptychError

from .damage import Draw, damaged

T = TypeVar("T")
FAST, SLOW = 12, 5000
"""Cases of each reader in `make test` and in `make test-all`."""
SECONDS = 20.0
"""No case may take longer, on a busy machine."""
BOTH = pytest.mark.parametrize("cases", [FAST, pytest.param(SLOW, marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)])])


@contextmanager
def one_line(kind: type[DiptychError] = DiptychError) -> Iterator[None]:
    """An error of that kind is an answer, when it is one line and came in time."""
    begun = time.monotonic()
    try:
        yield
    except kind as error:
        if "\n" in str(error):
            raise AssertionError(f"more than a line: {error}") from error
    assert time.monotonic() - begun < SECONDS


def fuzz_case(made: Callable[[Draw], T], opened: Callable[[T], object], cases: int) -> None:
    """Opens what is made, as often as asked. Few cases are always the same ones; many are other ones each time."""

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=cases <= FAST,
        database=None,
        phases=[Phase.generate],  # a smaller example is worth little here, and takes long
        suppress_health_check=list(HealthCheck),
    )
    @given(draw=st.data())
    def case(draw: Draw) -> None:
        content = made(draw)
        with one_line():
            opened(content)

    case()


def fuzz_files(seed: dict[Path, bytes], opened: Callable[[], object], cases: int, ours: Callable[[Path], bool]) -> None:
    """Damages one file or two, opens, and puts everything back. `ours` are the files worth damaging."""
    folder = next(iter(seed)).parent
    while not all(path.is_relative_to(folder) for path in seed):
        folder = folder.parent
    targets, stamps = sorted(filter(ours, seed)), dict[Path, tuple[int, int]]()

    def made(draw: Draw) -> None:
        restore(folder, seed, stamps)
        for path in draw.draw(st.lists(st.sampled_from(targets), min_size=1, max_size=2, unique=True), "files"):
            path.write_bytes(damaged(draw, path.name, seed[path]))

    try:
        fuzz_case(made, lambda _: opened(), cases)
    finally:
        restore(folder, seed, {})


def restore(folder: Path, seed: dict[Path, bytes], stamps: dict[Path, tuple[int, int]]) -> None:
    """Files as they were. `stamps` has time and size of those that are: an index has chunks of 32 MiB, and reading them takes longer than a
    case."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in seed:
            path.unlink()
    for path, content in seed.items():
        if path in stamps and path.is_file() and _stamp(path) == stamps[path]:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
        stamps[path] = _stamp(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
