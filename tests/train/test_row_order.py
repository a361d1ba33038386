"""A recipe that says which rows come when: whole groups in every batch, the same after a stop and for hooks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy import Toy
from toy_engines import Average

from diptych.core.contracts import Dataset, Hook, Order
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.load.order import GroupedOrder
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

QUIET = TrainOptions(progress=False, log_every=1, save_every=3, precision="fp32")


def pool() -> Pool:
    """Seven groups of different sizes, 29 rows."""
    sizes = (2, 3, 4, 4, 5, 5, 6)
    names = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    return Pool.from_samples([Sample(f"s{n:03d}", group=name) for n, name in enumerate(names)], name="groups")


@dataclass(frozen=True, kw_only=True)
class Blocks(Toy):
    """Batches of 4 groups x 2 members."""

    members: int = 2

    def row_order(self, data: Dataset) -> Order:
        return GroupedOrder(data.groups, self.members)


def met(witness: Path) -> list[list[str]]:
    """The groups of every step's rows."""
    group = {sample.uid: sample.group for sample in (pool()[row] for row in range(len(pool())))}
    return [[group[uid] for uid in json.loads(line)["uids"]] for line in Path(f"{witness}.0").read_text().splitlines()]


def test_batches_hold_whole_groups(tmp_path: Path) -> None:
    fit(Blocks(steps=12, witness=str(tmp_path / "witness")), pool(), tmp_path / "run", QUIET)
    steps = met(tmp_path / "witness")
    assert len(steps) == 12
    assert all(names[0::2] == names[1::2] for names in steps), "more than three epochs, with a seam in the middle of a batch"


def test_a_stop_does_not_change_the_order(tmp_path: Path) -> None:
    whole = fit(Blocks(steps=10), pool(), tmp_path / "whole", QUIET)
    cut = fit(Blocks(steps=10, witness=str(tmp_path / "witness"), stop_at=5), pool(), tmp_path / "cut", QUIET)
    assert cut.state["status"] == "stopped"
    resume(cut.path, pool(), kind=Blocks)
    one, other = ((run.model / "model.safetensors").read_bytes() for run in (whole, cut))
    assert one == other


def test_extra_batches_and_batches_ahead_have_the_order_too(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    class Look(Hook):
        name = "look"

        def on_start(self, run: Any) -> None:
            seen.extend(batch.uid_B for batch in (*run.batches(3, seed=1), *run.ahead(2)))

    class Looking(Blocks):
        def hooks(self) -> list[Hook]:
            return [Look()]

    fit(Looking(steps=2), pool(), tmp_path / "run", QUIET)
    group = dict(zip(pool().uids, pool().groups, strict=True))
    assert len(seen) == 5
    assert all([group[uid] for uid in uids[0::2]] == [group[uid] for uid in uids[1::2]] for uids in seen)


def test_a_closed_form_counts_every_sample_once(tmp_path: Path) -> None:
    class Ordered(Average):
        def row_order(self, data: Dataset) -> Order:
            return GroupedOrder(data.groups, 2)

    with pytest.raises(ConfigError, match="the engine 'solve' wants every sample once: 'average' cannot have an order"):
        fit(Ordered(), pool(), tmp_path / "run", QUIET)
