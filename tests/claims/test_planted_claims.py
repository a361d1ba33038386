"""Protocols on planted answerers: what is planted is known, so that a method beats its baseline is a test and no claim with a verdict."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from diptych.claims import registry
from diptych.claims.cell import Cell, run_cell
from diptych.claims.claim import Arm, Claim

SLUGS = (
    "auto_bench",
    "groundvlp",
    "i2l",
    "ii_bench",
    "lifelong_memory",
    "mc_bench",
    "mmrel",
    "q_spatial",
    "socialgpt",
    "visual_reasoning",
)
CLAIMS = {claim.key: claim for slug in SLUGS for claim in import_module(f"planted.declared.{slug}").claims()}
EQUAL = {"mc_bench/referring"}
SEED = 1
HEAVY = {
    "mmrel",
    "mmrel/usual",
    "i2l",
    "mc_bench",
    "mc_bench/referring",
    "groundvlp",
    "groundvlp/sum",
    "groundvlp/random",
    "i2l/captions",
}


def _case(key: str) -> Any:
    return pytest.param(key, marks=pytest.mark.slow) if key in HEAVY else key


@pytest.mark.parametrize("key", map(_case, CLAIMS))
def test_a_protocol_tells_what_was_planted(key: str, tmp_path: Path) -> None:
    claim: Claim = CLAIMS[key]
    sign = 1.0 if claim.higher_is_better else -1.0

    def score(arm: Arm) -> float:
        done = run_cell(Cell(arm.name, SEED, tmp_path / arm.name.replace("/", "-")), arm.run)
        assert done.cost["steps"] == done.cost["trained_parameters"] == 0, "what learns is a claim"
        return sign * done.scores[claim.metric]

    method, baseline = score(claim.method), score(claim.baseline)
    if key in EQUAL:
        assert abs(method - baseline) <= claim.margins.equivalence
    else:
        assert method - baseline >= claim.margins.matters
    assert all(score(control) < method for control in claim.controls)


def test_planted_answerers_are_no_claims() -> None:
    assert not set(SLUGS) & set(registry.slugs())
