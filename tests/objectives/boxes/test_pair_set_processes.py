"""Pair losses over several processes: their gradients are those of the whole batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pair_examples as made
import pytest
import torch
from joined_processes import on_processes
from pair_examples import COUNTS, LAYERS, NAMES, RELATIONS, TEXT, example, leaves
from torch import Tensor

from diptych.data.graphs.pairs import PairPredictions, PairTargets
from diptych.objectives.boxes.pair_set import MatchedPairs, PairSetLoss

CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "corner, last": {"focal": "corner", "quality": False, "pseudo": None, "matching": "last"},
    "one pair in all": {"counts": [0, 0, 1, 0], "pseudo": None},
    "no pair at all": {"counts": [0, 0, 0, 0]},
}


def part(rank: int, world: int, name: str) -> list[Tensor]:
    """terms, then parts, then gradients of this process's rows."""
    options = dict(CASES[name])
    predictions, targets = example(without_object=True)
    if "counts" in options:
        targets = made.targets(options.pop("counts"), NAMES, RELATIONS, seed=2, without_object=True)
        targets = dataclasses.replace(
            targets, relation_BGR=(torch.arange(RELATIONS) == 3).expand_as(targets.relation_BGR).double()
        )
    own = slice(rank * len(COUNTS) // world, (rank + 1) * len(COUNTS) // world)
    mine = PairPredictions(*(getattr(predictions, n)[own].clone() for n in predictions.__dataclass_fields__))
    theirs = PairTargets(*(getattr(targets, n)[own] for n in targets.__dataclass_fields__))
    inputs = leaves(mine)
    terms, parts = PairSetLoss(**options)(mine, theirs, relation_text_RD=TEXT)
    gradients = torch.autograd.grad(sum(terms.values()), inputs)
    return [torch.stack(list(terms.values())).detach(), torch.stack(list(parts.values())), *gradients]


def work(rank: int, world: int) -> dict[str, Any]:
    found = {name: part(rank, world, name) for name in CASES}
    predictions, targets = example()
    if rank == 1:  # no pairs here: the released divisors count each process alone
        targets = made.targets([0] * len(COUNTS), NAMES, RELATIONS)
    found["process"] = [
        torch.stack(list(PairSetLoss(divisors="process")(predictions, targets, relation_text_RD=TEXT)[0].values()))
    ]
    return found


@pytest.fixture(scope="module", params=[1, 2])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp(f"pairs{request.param}")
    return [work(0, 1)] if request.param == 1 else on_processes(work, folder, world=request.param)


@pytest.mark.parametrize("name", CASES)
def test_mean_of_gradients_is_the_gradient_of_the_whole_batch(name: str, processes: list[dict[str, Any]]) -> None:
    terms, parts, *gradients = part(0, 1, name)
    for each in processes:
        torch.testing.assert_close(each[name][0], terms, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(each[name][1], parts, rtol=1e-12, atol=1e-14)
    for place, want in enumerate(gradients, start=2):
        got = torch.cat([each[name][place] for each in processes]) / len(processes)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_released_divisors_average_what_each_process_counts(processes: list[dict[str, Any]]) -> None:
    predictions, targets = example()
    empty = made.targets([0] * len(COUNTS), NAMES, RELATIONS)
    loss = PairSetLoss(divisors="process")
    alone = [loss(predictions, each, relation_text_RD=TEXT)[0] for each in (targets, empty)[: len(processes)]]
    matched = MatchedPairs.of(predictions, targets, loss.match(predictions, targets))
    pairs_S, exist_S = matched.counts(torch.ones(LAYERS, dtype=torch.float64))
    never_S = torch.full_like(pairs_S, torch.inf)
    subjects, objects = (
        {"boxes": loss.box * l1, "giou": loss.giou * far}
        for l1, far in (matched.box_losses(pairs_S, never_S), matched.box_losses(never_S, exist_S + 1e-4))
    )
    for place, term in enumerate(("labels", "relations", "boxes", "giou")):
        want = torch.stack([each[term] for each in alone]).mean()  # relations: each by its own positives
        if term in ("boxes", "giou"):  # subjects by the pairs of an average process, objects by each process's own
            want = subjects[term] + objects[term] / len(processes)
        for each in processes:
            torch.testing.assert_close(each["process"][0][place], want.detach())
