"""What every test shares: a cache folder of its own, files that need not reach the disk, and the record of what mechanisms agree with."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis.internal.conjecture import providers
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.recipes._shared import small_encoder
from diptych.recipes._shared.cached_models import steps_within_passes
from diptych.recipes._shared.diffusion import base_model, reference_base
from diptych.recipes._shared.language import small_language
from diptych.train.devices import flops
from diptych.worlds.address import open_data

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]  # for processes that tests start, whatever started pytest
PASSED = pytest.StashKey[bool]()
WRITTEN = pytest.StashKey[dict[tuple[str, str, str], float]]()
RECORDS = Path(__file__).parent / "parity"
SMALL_MODELS = ("encoders", "languages", "diffusion")
"""Folders of the cache in which recipes keep the small models that they need before they can begin (`cached_model`)."""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of a test stays in the user's cache, and nothing of the cache changes a test."""
    folder = tmp_path_factory.mktemp("cache")
    for kind in SMALL_MODELS if "PYTEST_XDIST_WORKER" in os.environ else ():
        shared = tmp_path_factory.getbasetemp().parent / "small models" / kind  # of all workers: one makes, the others wait
        shared.mkdir(parents=True, exist_ok=True)
        (folder / "diptych").mkdir(exist_ok=True)
        (folder / "diptych" / kind).symlink_to(shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("DIPTYCH_CACHE", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def hasty_small_models() -> Iterator[None]:
    """Small models that recipes make before they begin read few rows in few steps: rendering and learning the rest of them takes minutes,
    and no test but those of `learned_small_models` asks what they know."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (small_encoder, small_language, base_model, reference_base):
            patch.setattr(module, "open_data", lambda address: open_data(re.sub(r"\bn=\d{3,}", "n=64", address)))
        for module in (small_encoder, small_language):
            patch.setattr(module, "steps_within_passes", lambda steps, rows, batch_size: min(steps, 4))
        yield


@pytest.fixture
def learned_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models learn as they do outside tests."""
    for module in (small_encoder, small_language, base_model, reference_base):
        monkeypatch.setattr(module, "open_data", open_data)
    for module in (small_encoder, small_language):
        monkeypatch.setattr(module, "steps_within_passes", steps_within_passes)


@pytest.fixture(scope="session", autouse=True)
def without_fsync() -> Iterator[None]:
    """Files are written, but nothing waits for the disk: a test that stops a process needs no more, only a loss of power would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a closed file is an error as before
        yield


@pytest.fixture(scope="session", autouse=True)
def without_flops() -> Iterator[None]:
    """The first step of a run is not traced for its FLOPs, which takes as long again as the step: `counted_flops` lets a test trace it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flops.StepFlops, "__enter__", lambda self: self)
        patch.setattr(flops.StepFlops, "__exit__", lambda *_: None)
        yield


@pytest.fixture
def counted_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """First steps are traced for their FLOPs, as they are outside tests."""
    for name in ("__enter__", "__exit__"):
        monkeypatch.setattr(flops.StepFlops, name, getattr(TorchDispatchMode, name))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collecting makes millions of objects that stay: the garbage collector looks at them neither while they are made nor later, and at
    what tests make less often than by itself."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
    return result


def pytest_configure() -> None:
    """Hypothesis tries out constants of the code too, for which each worker would parse every module that is imported: nine seconds.
    They are labels and sizes for the most part, and what a test draws would depend on which files are collected with it."""
    pytest.MonkeyPatch().setattr(providers, "_get_local_constants", lambda: providers._local_constants, raising=False)


LONGEST = (
    "tests/claims/test_smoke.py",
    "tests/cli/test_contrastive_commands.py",
    "tests/recipes/test_recipe_contract.py",
    "tests/claims/test_freshness.py",
    "tests/core/test_systems.py",
    "tests/recipes/alignment/test_rl4lms.py",
    "tests/test_docs.py",
    "tests/test_add_a_system_page.py",
    "tests/tasks/relations/test_open_images_relations.py",
    "tests/serve/test_command.py",
    "tests/serve/browser/test_page_in_browser.py",
    "tests/models/pairs/test_packaged_pair.py",
    "tests/comparisons/test_compare.py",
    "tests/data/shards/test_takedown.py",
    "tests/attacks/test_decoding_service.py",
    "tests/attacks/test_while_served.py",
    "tests/cli/test_compare_command.py",
    "tests/api/test_own_recipes.py",
    "tests/api/test_sweep.py",
    "tests/recipes/generation/test_codebook_captioner.py",
    "tests/comparisons/test_pilot.py",
)
"""Files that take longest by `make test-times`. They are begun first: one that is begun last leaves the other workers idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


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

    @property
    def name(self) -> tuple[str, str]:
        return self.what, self.against


class Parity:
    """Holds a system's mechanism against something independent, and records how close it came when the test passes."""

    def __init__(self, test: str) -> None:
        self.test, self.found = test, dict[str, list[Check]]()

    def __call__(self, slug: str, what: str, against: str, pairs: Iterable[tuple[Any, Any]], *, tolerance: float) -> None:
        """`pairs` of (ours, theirs): tensors, arrays or numbers of one shape, compared in float64. With tolerance 0 they are equal."""
        difference = max(gap(ours, theirs) for ours, theirs in pairs)
        assert difference <= tolerance, f"{slug}: {what} is off by {difference:.1e} from {against}"
        self.found.setdefault(slug, []).append(Check(what, against, rounded_up(difference), tolerance, self.test))


def gap(ours: Any, theirs: Any) -> float:
    """The largest difference, relative where `theirs` is above 1. Infinities of one sign are equal, undefined numbers are not."""
    mine, other = (torch.as_tensor(x, dtype=torch.float64, device="cpu").detach() for x in (ours, theirs))
    assert mine.shape == other.shape, f"compared {list(mine.shape)} with {list(other.shape)}"
    assert mine.numel(), "nothing to compare"
    apart = torch.where(mine == other, 0.0, (mine - other).abs() / other.abs().clamp(min=1.0))
    return float(apart.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


def rounded_up(difference: float) -> float:
    """To one digit: what is recorded is never less than what was measured.

    >>> rounded_up(9.4e-16), rounded_up(2e-7), rounded_up(0.0)
    (1e-15, 2e-07, 0.0)
    """
    if not difference:
        return 0.0
    digit = 10.0 ** math.floor(math.log10(difference))
    return float(f"{math.ceil(difference / digit - 1e-9) * digit:.0e}")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """Each check has to stand in tests/parity/SLUG.json, which `make systems` reads; --record-parity writes it there.

    A test with several parameters records the largest difference of those that ran in one process.
    """
    test = request.node.nodeid.partition("[")[0].removeprefix("tests/")
    record = Parity(test)
    yield record
    if not request.node.stash.get(PASSED, False):
        return
    for slug, checks in record.found.items():
        path = RECORDS / f"{slug}.json"
        plain = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else []
        stands = {check.name: check for check in (Check(**fields) for fields in plain)}
        if request.config.getoption("--record-parity"):
            written = request.config.stash.setdefault(WRITTEN, {})
            for check in checks:
                largest = max(check.difference, written.get((slug, *check.name), 0.0))
                written[slug, *check.name] = largest
                stands[check.name] = replace(check, difference=largest)
            every = [asdict(stands[name]) for name in sorted(stands)]
            path.write_text(json.dumps({"checks": every}, indent=1) + "\n", encoding="utf-8")
        else:
            missing = [check.what for check in checks if check.name not in stands]
            assert not missing, f"{path.name} does not hold {missing}: run this test with --record-parity"
            old = [check.what for check in checks if outdated(stands[check.name], check)]
            assert not old, f"{path.name} is out of date on {old}: run this test with --record-parity"


def outdated(stands: Check, now: Check) -> bool:
    """Whether a record names another test or another tolerance than that of today. Differences vary with the processor."""
    return (stands.test, stands.tolerance) != (now.test, now.tolerance)
