from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import RunError
from diptych.train import checkpoint
from diptych.train.checkpoint import Checkpoint

PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4)
TENSOR = st.integers(0, 3).map(lambda n: torch.arange(n, dtype=torch.float64))
TREE = st.recursive(
    PLAIN | TENSOR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=3), TREE, max_size=3))
def test_what_hooks_remember_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, hooks: dict[str, Any]) -> None:
    path = checkpoint.save(tmp_path_factory.mktemp("hooks"), Checkpoint(3, {"stage": 0}, {}, {}, hooks), keep=2)
    assert same(checkpoint.load(path).hooks, hooks)


def test_model_and_optimiser_come_back_tied_and_sliced_tensors_too(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    model = {"a": base, "tied": base, "slice": base[1:], "turned": base.T, "number": torch.tensor(3), "half": base.bfloat16()}
    optimiser = {"layer|odd.weight": {"exp_avg": base + 1, "step": 7, "rate": 0.5}, "b": {"step": torch.tensor(2.0)}}
    back = checkpoint.load(checkpoint.save(tmp_path, Checkpoint(12, {"stage": 1}, model, optimiser), keep=2))
    assert back.step == 12
    assert back.state["stage"] == 1
    assert same(back.model, model)
    assert same(back.optimiser, optimiser)


def test_only_the_newest_stay_and_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.xyz").mkdir()
    for step in (1, 2, 3, 100_000_000):
        checkpoint.save(tmp_path, Checkpoint(step, {}, {"w": torch.ones(2)}), keep=2)
    assert checkpoint.steps_of(tmp_path) == [3, 100_000_000]
    checkpoint.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-100000000"]
    newest, notes = checkpoint.newest(tmp_path)
    assert newest is not None
    assert (newest.step, notes) == (100_000_000, [])


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "checkpoints") == (None, [])


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ({"a": {"b": {1, 2}}}, "hook state/a/b holds a set"),
        ({"a": [object()]}, "hook state/a/0 holds a object"),
        ({"a": {3: 4}}, "hook state/a has the key 3"),
    ],
)
def test_state_that_is_not_plain_is_refused_with_its_place(hooks: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=words):
        checkpoint.save(tmp_path, Checkpoint(1, {}, {}, {}, hooks), keep=2)
    assert list(tmp_path.iterdir()) == []


def test_a_format_from_the_future_is_refused_by_its_number(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, Checkpoint(1, {}, {}), keep=2)
    state = path / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(RunError, match="has checkpoint format 9; this version reads 1"):
        checkpoint.load(path)
