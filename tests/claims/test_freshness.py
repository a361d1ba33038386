"""A verdict stays fresh through comments, renames and moves, and goes stale with another optimiser, crop, loss sign or metric."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from diptych.claims import freshness, ledger, registry
from diptych.claims.cell import Cell
from diptych.claims.constants import constants
from diptych.claims.trace import differences, trace
from diptych.claims.training import SAMPLED
from diptych.claims.tree import Tree
from diptych.core.sources.closure import SOURCES, closure, closure_hash
from diptych.core.sources.syntax import statements
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.train import optimise

CLAIM = "diptych.claims.systems.fusecap"
KEY = "fusecap"


def copied(folder: Path) -> Path:
    """The package's sources in another place, without the emoji."""
    shutil.copytree(SOURCES / "diptych", folder / "src/diptych", ignore=shutil.ignore_patterns("__pycache__", "emoji", "page*"))
    return folder / "src"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.fixture(scope="module")
def shared_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that put back what they edit: its hundreds of modules are parsed once."""
    return copied(tmp_path_factory.mktemp("shared"))


def edited(sources: Path, file: str, old: str, new: str) -> Path:
    path = sources / "diptych" / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return sources


def moved(sources: Path, old: str, new: str) -> Path:
    """A module under another name, and every import of it."""
    there = sources.joinpath(*new.split(".")).with_suffix(".py")
    there.parent.mkdir(exist_ok=True)
    (there.parent / "__init__.py").touch()
    sources.joinpath(*old.split(".")).with_suffix(".py").rename(there)
    for path in (sources / "diptych").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(rf"\b{re.escape(old)}\b", new, text)
        file, moved_file = (name.removeprefix("diptych.").replace(".", "/") + ".py" for name in (old, new))
        path.write_text(text.replace(f'"{file}"', f'"{moved_file}"'), encoding="utf-8")
    return sources


# ---------------------------------------------------------------- by the closure alone


def test_the_closure_holds_what_a_claim_reaches_and_nothing_else() -> None:
    found = closure(CLAIM)
    assert {
        "diptych.objectives.pairs.info_nce",
        "diptych.train.optimise",
        "diptych.data.load.batch",
        "diptych.tasks.pairs.retrieval",
    } <= found
    assert {"diptych.claims.verdict", "diptych.claims.training"} <= found
    assert not {"diptych.api", "diptych.serve.app", "diptych.recipes.relations.rlipv2", "diptych.claims.systems.siglip"} & found


def test_comments_docstrings_formatting_and_moves_leave_the_closure_as_it_is(copy: Path) -> None:
    before = closure_hash(CLAIM, sources=copy)
    assert before == closure_hash(CLAIM)
    edited(copy, "objectives/pairs/info_nce.py", '"""', '"""In other words. ')
    edited(copy, "train/optimise.py", "def learning_rate(", "# a comment\n\n\ndef learning_rate(")
    edited(copy, "claims/systems/fusecap.py", "LENGTH = 4000,", "LENGTH = 4_000,")
    assert closure_hash(CLAIM, sources=copy) == before
    moved(copy, "diptych.objectives.pairs.info_nce", "diptych.objectives.two_sides.info_nce")
    moved(copy, "diptych.worlds.small_pairs", "diptych.worlds.tiny_pairs")
    moved(
        copy, "diptych.index.kinds.late", "diptych.index.late"
    )  # a file of a row of the table of systems, which every claim reaches
    assert '"index/late.py"' in (copy / "diptych/core/systems.py").read_text(encoding="utf-8")
    assert "diptych.worlds.tiny_pairs" in closure(CLAIM, sources=copy)
    assert closure_hash(CLAIM, sources=copy) == before


NESTED = """
try:
    import a
except ImportError as error:
    import b
else:
    import c
finally:
    import d
match x:
    case 1:
        import e
    case _:
        pass
async def f():
    async with g() as h:
        import i
    for j in k:
        import l
    else:
        import m
    while n:
        return lambda: o
if p:
    class Q:
        import r
elif s:
    import t
"""


def test_statements_are_those_of_a_whole_walk() -> None:
    tree = ast.parse(NESTED)
    walked = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    stated = list(statements(tree))
    assert len(stated) == len(walked)
    assert {*map(id, stated)} == {*map(id, walked)}


CHANGES = {
    "optimiser": ("train/optimise.py", "return spec.lr *", "return 0.5 * spec.lr *"),
    "crop": (
        "data/load/batch.py",
        "return flipped(image_HWC, draw.rng) if flip else image_HWC",
        "return random_crop(image_HWC, size, draw.rng, (0.5, 0.6))",
    ),
    "loss sign": ("objectives/pairs/info_nce.py", "return loss, ", "return -loss, "),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_behaviour_changes_the_closure(what: str, shared_copy: Path) -> None:
    before = closure_hash(CLAIM, sources=shared_copy)
    file, old, new = CHANGES[what]
    changed = closure_hash(CLAIM, sources=edited(shared_copy, file, old, new))
    assert closure_hash(CLAIM, sources=edited(shared_copy, file, new, old)) == before != changed


def test_what_a_claim_does_not_reach_leaves_the_closure_as_it_is(shared_copy: Path) -> None:
    before, other = closure_hash(CLAIM, sources=shared_copy), shared_copy / "diptych/objectives/boxes/focal.py"
    text = other.read_text(encoding="utf-8")
    other.write_text("raise SystemExit\n", encoding="utf-8")
    assert closure_hash(CLAIM, sources=shared_copy) == before
    other.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- by the trace


def method_trace(claim: Any) -> dict[str, Any]:
    return trace(replace(claim, baseline=replace(claim.baseline, run=claim.controls[0].run)))


@pytest.mark.slow
def test_a_trace_is_repeatable_and_sees_optimiser_crop_loss_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = registry.find(KEY)
    before = method_trace(claim)
    assert len(before["method"]["losses"]) == 7, "steps 1 to 4, 8, 16 and 24"
    assert {"loss", "lr", "grad_norm"} <= set(before["method"]["losses"][0])
    assert differences(before, json.loads(json.dumps(method_trace(claim)))) == []

    batch, pairs, state = (
        import_module(f"diptych.{name}") for name in ("data.load.batch", "recipes._shared.pairs", "train.state")
    )
    build, view, info_nce, score = state.build_optimiser, batch.view, pairs.info_nce, Retrieval.score

    def decaying(model: Any, spec: Any) -> Any:
        return build(model, replace(spec, weight_decay=spec.weight_decay + 0.05))

    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (state, "build_optimiser", decaying),
        (batch, "view", lambda *args: view(*args)[:, ::-1].copy()),
        (pairs, "info_nce", lambda *args, **more: (-info_nce(*args, **more)[0], info_nce(*args, **more)[1])),
        (Retrieval, "score", lambda self, records: _spoiled(score(self, records))),
    ]
    for place, name, change in changes:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, change)
            assert differences(before, method_trace(claim)), f"{name} changed and the trace did not"


@pytest.mark.slow
def test_a_trace_sees_what_begins_late_and_how_a_full_schedule_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = registry.find(KEY)
    before, rate_of = method_trace(claim), optimise.learning_rate
    assert len(before["method"]["schedules"][0]) == len(SAMPLED)
    late = {
        "times .05 from step 20": lambda spec, step, steps: rate_of(spec, step, steps) * (0.05 if step >= 20 else 1),
        "times .05 from step 200": lambda spec, step, steps: rate_of(spec, step, steps) * (0.05 if step >= 200 else 1),
        "does not come down": lambda spec, step, steps: max(rate_of(spec, step, steps), 0.1 * spec.lr if steps > 24 else 0.0),
    }
    for what, rate in late.items():
        with monkeypatch.context() as patch:
            patch.setattr(optimise, "learning_rate", rate)
            parted = differences(before, method_trace(claim))
            assert any("learning rates of training 1 at full size" in words for words in parted), what
            assert any("logged step 7" in words for words in parted) == (what == "times .05 from step 20")


@pytest.mark.slow
def test_full_size_constants_are_seen_and_names_and_places_are_not(copy: Path) -> None:
    claim = registry.find(KEY)
    before = constants(claim, copy)
    assert before == constants(claim) == constants(claim, copy)
    file, pairs = "claims/systems/fusecap.py", "claims/cells/learned_pairs/pairs.py"
    changes = {
        "tested rows": (pairs, "SMOKE_ROWS = 64, 500, 32", "SMOKE_ROWS = 64, 50, 32", "500", "50"),
        "a world's constant": ("worlds/small_pairs.py", "JITTER = 48, 16, 2", "JITTER = 48, 16, 90", "2", "90"),
        "a text": (file, "{one}, with {other}", "{one}, and {other}", "', with '", "', and '"),
        "a slice": (
            file,
            "        test = Pool",
            "        rows = rows.select(range(len(rows))[:50])\n        test = Pool",
            "",
            "[50]",
        ),
    }
    for what, (path, old, new, gone, came) in changes.items():
        now = constants(claim, edited(copy, path, old, new))
        assert (sorted(before - now), sorted(now - before)) == ([gone] if gone else [], [came]), what
        edited(copy, path, new, old)
    for path, old, new in (
        (file, '"""Trains on `rows`', '"""1,234 times on `rows`'),
        (
            file,
            "LENGTH = 4000,",
            "LENGTH = 7000,",
        ),  # in the declaration's own hash
    ):
        assert constants(claim, edited(copy, path, old, new)) == before
    moved(copy, "diptych.worlds.small_pairs", "diptych.worlds.tiny_pairs")
    for path in (copy / "diptych").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for old, new in (("clean_rows", "rows_to_test"), ("SmallPairs", "TinyPairs"), ("TESTED", "ASKED"), ("shown", "visible")):
            text = re.sub(rf"\b{old}\b", new, text)
        path.write_text(text, encoding="utf-8")
    assert constants(claim, copy) == before


def _spoiled(result: Any) -> Any:
    metric = result.metrics["i2t_r@1"]
    return replace(result, metrics={**result.metrics, "i2t_r@1": replace(metric, value=metric.value + 0.01)})


def test_differences_name_side_step_and_value() -> None:
    one = {"method": {"losses": [{"loss": 1.0, "a": 2.0}], "scores": {"r": 0.5}}}
    two = {"method": {"losses": [{"loss": 1.0 + 1e-11, "b": 2.0}], "scores": {"r": 0.6}}}
    assert differences(one, two) == [
        "method, logged step 1: 'a' is gone",
        "method, score 'r' was 0.5 and is 0.6",
    ]
    assert differences(one, {"method": {"losses": [], "scores": {"r": 0.5}}}) == ["method: 1 logged steps before, 0 now"]


@pytest.mark.slow
def test_check_on_a_copy_of_the_tree(copy: Path, tmp_path: Path) -> None:
    """The command itself: renamed functions stay fresh by their trace, then the optimiser, the crop and the loss sign do not."""
    claim = registry.find(KEY)
    entry = asdict(_entry(claim))
    line = freshness.judged(claim, trace(claim), Tree("abc", ()))
    folder = tmp_path / "ledger"

    def check() -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        ledger.append(ledger.path_of(folder, KEY), entry)
        freshness.write(folder, line)
        words = [sys.executable, "-m", "diptych.cli", "claims", "check", KEY, "--ledger", str(folder), "--json"]
        done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout)["claims"][0])

    assert check()["state"] == "fresh"
    for path in (copy / "diptych").rglob("*.py"):
        path.write_text(path.read_text().replace("set_learning_rate", "put_rate"))
    assert closure_hash(CLAIM, sources=copy) != closure_hash(CLAIM)
    assert check()["state"] == "fresh"
    assert freshness.read(folder)[KEY][0].closure != line.closure
    edited(copy, "claims/cells/learned_pairs/pairs.py", "64, 500, 32", "64, 50, 32")
    assert check() == {"claim": KEY, "state": "stale", "differences": ["constants of its cells or worlds have changed"]}
    edited(copy, "claims/cells/learned_pairs/pairs.py", "64, 50, 32", "64, 500, 32")
    for file, old, new in CHANGES.values():
        edited(copy, file, old, new)
        assert check()["state"] == "stale"
        edited(copy, file, new, old)


def _entry(claim: Any) -> ledger.Entry:
    """As good as a verdict for the check: the declaration is real, the scores are made up."""
    sides = {
        arm.name: ledger.Side(arm.name, {claim.metric: [0.0] * 5}, None, {})
        for arm in (claim.baseline, claim.method, *claim.controls)
    }
    sweep = {
        arm.name: {
            "rates": {f"{rate:g}": [0.0] * len(claim.tuning_seeds) for rate in arm.rates},
            "seeds": list(claim.tuning_seeds),
        }
        for arm in (claim.baseline, claim.method)
        if arm.rates
    }
    controls = tuple(sides[arm.name] for arm in claim.controls)
    return ledger.Entry(
        claim.key, claim.kind, "2026-01-01", "abc", claim.hash(), {}, tuple(claim.verdict_seeds()),
        claim.data, claim.metric, True, claim.margins.matters, claim.margins.equivalence, sides[claim.baseline.name],
        sides[claim.method.name], controls, claim.equal_budget, sweep, 0.0, (0.0, 0.0), 1.0, 0.0, "no verdict", "", {},
        3, 0.0,
    )  # fmt: skip


def test_a_cell_trains_at_the_rate_and_share_it_is_told(tmp_path: Path) -> None:
    recipe = registry.find(KEY).method.run.recipe  # type: ignore[attr-defined]
    half = Cell("clip", 0, tmp_path, rate=3e-3, share=0.5).sized(recipe)
    assert (half.lr, half.steps, half.batch_size) == (3e-3, recipe.steps // 2, recipe.batch_size)
    part = Cell("clip", 0, tmp_path, rate=3e-3, share=0.5).part("scorer")
    assert (part.sized(recipe).lr, part.sized(recipe).steps) == (recipe.lr, recipe.steps // 2)
    assert part.spending is Cell("x", 0, tmp_path, spending=part.spending).spending
    traced = Cell("clip", 0, tmp_path, size="trace").sized(recipe)
    assert (traced.steps, traced.batch_size, traced.warmup) == (24, 16, 2.0)
