"""Every claim stands in the registry under its key and runs at its smallest, in this process; none of that gives a verdict."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from diptych.claims import cell as cells
from diptych.claims import engine, registry
from diptych.claims.cell import Cell, run_cell
from diptych.claims.cells.domains import abstracts, masked_findings
from diptych.claims.trace import differences, trace
from diptych.core.errors import UnknownName
from diptych.data.articles import medline
from diptych.recipes._shared import small_encoder
from diptych.recipes._shared.diffusion import base_model, reference_base
from diptych.recipes._shared.language import small_language
from diptych.worlds.address import open_data

EVERY = [claim.key for claim in registry.every()]
HEAVY = {
    "arl", "biovil", "chat3d_v2", "croc", "denseclip", "dr_llava", "georsclip", "linear_map", "locked", "mblip", "medslip", "metaclip",
    "minigpt4", "mir", "mrl", "ndcr", "ocr_rl", "pllava", "provision", "rad_dino", "ref_vlm", "relationbooth", "reversion", "rl4lms",
    "rlaif_v", "simvlg", "sitta", "text4point", "ulip2",
}  # fmt: skip
"""Over 1.2 processor seconds each: their models are made or their data are drawn before anything is learned. The recipes' own tests run
what they train."""
OWN = {"mrl", "locked"}
"""They report scores that no other claim of their cells does."""
BATCH = 4
"""Rows of a step."""
FEW = 32
"""Rows at most, where a claim asks for thousands."""
ROOMS = 8
"""Rows at most of rendered rooms, which take a twentieth of a second each."""
TESTED = 48
"""Findings that are guessed, where a cell's smoke test would ask for as many as a full one."""
ABSTRACTS = 600
"""Abstracts read of the newest dump: nine in ten have the sections that are asked for."""


@pytest.fixture(scope="module")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which no other test finds models of few rows under the names of whole ones."""
    return tmp_path_factory.mktemp("few")


@pytest.fixture
def few_shared_rows(monkeypatch: pytest.MonkeyPatch, own_models: Path) -> None:
    """Small models that cells share learn from few rows, and of MEDLINE only the beginning is read: rendering and reading all of it takes
    most of the time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_models))

    def smaller(address: str) -> Any:
        count = ROOMS if "world:rooms" in address else FEW
        return open_data(re.sub(r"\bn=\d+", f"n={count}", address))

    for module in (small_encoder, small_language, base_model, reference_base):
        monkeypatch.setattr(module, "open_data", smaller)
    monkeypatch.setattr(cells, "SMOKE_BATCH", BATCH)
    monkeypatch.setattr(masked_findings, "TESTED", TESTED)
    sections, newest = medline.abstract_sections, medline.packaged_dumps()[-1:]
    monkeypatch.setattr(medline, "packaged_dumps", lambda: newest)
    monkeypatch.setattr(medline, "abstract_sections", lambda path: islice(sections(path), ABSTRACTS))
    monkeypatch.setattr(abstracts, "structured_abstracts", medline.structured_abstracts.__wrapped__)  # nothing short is kept


def with_few_rows(run: Any) -> Any:
    """What runs an arm, with its counts of rows cut down."""
    counts = {item.name: FEW for item in fields(run) if type(value := getattr(run, item.name)) is int and value > FEW}
    return replace(run, **counts)


def sharing(claim: Any) -> list[Any]:
    """Main claims whose methods run the cells of this one and report scores of the same names, itself first."""
    kind = type(claim.method.run)
    others = [registry.find(key) for key in EVERY if "/" not in key and key not in {claim.key, *OWN}]
    return [claim, *(each for each in others if type(each.method.run) is kind and claim.key not in OWN)]


def _main_claims() -> list[Any]:
    """Keys of main claims. Those whose cells an earlier claim runs too, with another recipe or other data, are slow: the names of their
    scores are looked up with its own, and each recipe learns in tests/recipes/test_recipe_contract.py."""
    params, met = [], set[type]()
    for key in EVERY:
        kind = type(registry.find(key).method.run)
        if "/" not in key:
            slow = key in HEAVY or (kind in met and key not in OWN)
            params.append(pytest.param(key, marks=pytest.mark.slow) if slow else key)
            met.add(kind)
    return params


def test_a_key_names_a_claim_or_is_told_the_nearest() -> None:
    assert registry.find("clip").key == registry.find("clip/").key == "clip"
    assert registry.find("coop/probe").name == "probe"
    for wrong, right in (("coop/prob", "coop/probe"), ("realsyn/x", "realsyn")):
        with pytest.raises(UnknownName, match=f"unknown claim '{wrong}'; did you mean '{right}'"):
            registry.find(wrong)


@pytest.mark.parametrize("key", _main_claims())
def test_the_method_of_a_main_claim_runs(key: str, tmp_path: Path, few_shared_rows: None) -> None:
    claim = registry.find(key)
    cell = Cell(claim.method.name, 0, tmp_path / "cell", rate=min(claim.method.rates, default=None), size="smoke")
    done = run_cell(cell, with_few_rows(claim.method.run))
    for each in sharing(claim):
        assert {each.metric, each.tuned_by or each.metric, *each.reported} <= set(done.scores), each.key
    assert 0.0 <= done.scores[claim.metric] <= (10.0 if claim.metric in ("cider_d", "text_nll", "drift") else 1.0)  # nats
    if claim.method.rates or claim.slug in ("linear_map", "sitta"):
        assert done.cost["steps"] >= (1 if claim.slug in ("linear_map", "sitta") else 2)  # closed form: one pass
        assert done.cost["trained_parameters"] > (10 if claim.slug == "reversion" else 1000)  # one row of a table
    assert not (tmp_path / "cell/cell.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", EVERY)
def test_both_arms_and_all_controls_run_and_a_trace_repeats(key: str, tmp_path: Path) -> None:
    claim = registry.find(key)
    engine.smoke(claim, tmp_path)
    assert not list(tmp_path.rglob("cell.json"))
    assert differences(trace(claim), trace(claim)) == []


def test_keys_and_seeds_are_each_claims_own() -> None:
    claims = [registry.find(key) for key in EVERY]
    assert [claim.key for claim in claims] == EVERY
    assert len({claim.hash() for claim in claims}) == len(claims)
    seeds = [seed for claim in claims for seed in claim.verdict_seeds()]
    assert len(set(seeds)) > 0.99 * len(seeds)
