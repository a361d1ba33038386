"""A claim from sweep to verdict: cells kept and resumed, budgets measured, seeds nobody chooses, controls that withhold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.claims import freshness, ledger
from diptych.claims.cell import Cell, CellResult
from diptych.claims.claim import Arm, Claim
from diptych.claims.engine import folder_of, run, smoke
from diptych.claims.tree import Tree
from diptych.claims.verdict import Margins
from diptych.core.errors import ConfigError, DataError

CALLS: list[tuple[str, int, float | None, float]] = []
RATES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Fake:
    """An arm that trains nothing and pretends it did: best at a rate of 1e-3."""

    level: float
    steps: int = 100
    trains: bool = True
    spread: float = 0.005
    label: str = ""

    def __call__(self, cell: Cell) -> dict[str, float]:
        if cell.instead is None:  # it asks no model, so the runner tries raw-input controls in vain
            CALLS.append((cell.arm, cell.seed, cell.rate, cell.share))
        if self.trains:
            cell.spending.count(steps=round(self.steps * cell.share), samples=8 * self.steps)
        off = 0.05 * abs(np.log10((cell.rate or 1e-3) / 1e-3))
        noise = np.random.default_rng([cell.seed, round(self.level * 1000)]).normal(0, self.spread)
        return {"recall": self.level - off + noise, "other": 1.0}


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def claim(baseline: float = 0.2, method: float = 0.4, *, control: float = 0.05, **changes: Any) -> Claim:
    given: dict[str, Any] = {
        "slug": "clip",
        "kind": "mechanism check",
        "sentence": "more is more",
        "source": "nobody",
        "refuted": "less",
        "baseline": Arm("plain", Fake(baseline), RATES),
        "method": Arm("better", Fake(method), RATES),
        "controls": (Arm("untrained", Fake(control, trains=False)),),
        "metric": "recall",
        "margins": Margins(0.02, 0.02),
        "equal_budget": ("steps", "samples"),
        "data": "none",
        "reported": ("other",),
    }
    return Claim(**{**given, **changes})


def judged(it: Claim, cells: Path, **more: Any) -> ledger.Entry:
    return run(it, cells=cells, commit="abc", **more)


def test_a_claim_is_swept_on_tuning_seeds_at_half_the_steps_and_judged_on_fresh_ones(tmp_path: Path) -> None:
    it = claim()
    entry = judged(it, tmp_path)
    tuning = [call for call in CALLS if call[3] == 0.5]
    assert {(arm, rate) for arm, _, rate, _ in tuning} == {(arm, rate) for arm in ("plain", "better") for rate in RATES}
    assert {seed for _, seed, _, _ in tuning} == {0, 1, 2}
    verdicts = [call for call in CALLS if call[3] == 1.0 and call[0] != "untrained"][:10]
    assert {rate for _, _, rate, _ in verdicts} == {1e-3}, "the best of three rates"
    assert {seed for _, seed, _, _ in verdicts} == set(it.verdict_seeds())
    assert entry.sweep["better"]["chosen"] == 1e-3
    assert not entry.sweep["better"]["at_edge"]
    assert entry.verdict == "shown"
    assert entry.method.budget["steps"] == 100
    assert entry.method.scores["other"] == [1.0] * 5
    assert entry.reached == {"untrained": []}


def test_rates_are_chosen_at_the_share_that_the_claim_says(tmp_path: Path) -> None:
    entry = judged(claim(tuning_share=1.0), tmp_path)
    assert {share for _, seed, _, share in CALLS if seed < 5} == {1.0}
    assert {arm["rule"] for arm in entry.sweep.values()} == {
        "best mean over tuning seeds at all steps; of equal means the lower rate"
    }
    assert claim(tuning_share=0.5).hash() == claim().hash() != claim(tuning_share=1.0).hash()
    with pytest.raises(ConfigError, match="tunes at 0 of the steps"):
        claim(tuning_share=0.0)


def test_swapped_arms_mirror_equal_ones_are_equal_and_a_control_above_both_withholds(tmp_path: Path) -> None:
    assert judged(claim(0.4, 0.2), tmp_path).verdict == "reversed"
    same = claim(method=0.2, baseline=0.2)
    assert judged(replace(same, method=Arm("twin", Fake(0.2), RATES)), tmp_path).verdict == "equal within the margin"
    above = judged(claim(control=0.6), tmp_path)
    assert above.verdict == "no verdict"
    assert above.reached == {"untrained": ["baseline", "method"]}
    assert "untrained" in above.why


def test_finished_cells_are_read_and_an_arm_that_stands_in_two_claims_runs_once(tmp_path: Path) -> None:
    first = judged(claim(), tmp_path)
    made = len(CALLS)
    again = judged(claim(), tmp_path)
    assert len(CALLS) == made
    assert again.difference == first.difference
    second = replace(claim(), name="second", baseline=Arm("other", Fake(0.3), RATES))
    CALLS.clear()
    judged(second, tmp_path, seeds=claim().verdict_seeds())
    assert {arm for arm, *_ in CALLS} == {"other"}, "method and control were there already"


def test_a_broken_off_claim_goes_on_with_the_missing_cells(tmp_path: Path) -> None:
    it = claim()
    judged(it, tmp_path)
    lost = folder_of(tmp_path, it.method) / f"0.001-{it.verdict_seeds()[2]}" / "cell.json"
    before = CellResult.read(lost.parent)
    lost.unlink()
    CALLS.clear()
    judged(it, tmp_path)
    assert [call[:2] for call in CALLS if call[1]] == [("better", it.verdict_seeds()[2])]
    assert before is not None
    assert CellResult.read(lost.parent).scores == before.scores  # type: ignore[union-attr]


def test_an_edited_claim_gets_fresh_seeds_and_words_that_explain_it_do_not_count() -> None:
    it = claim()
    seeds = it.verdict_seeds()
    assert len(set(seeds)) == 5
    assert min(seeds) >= 1000
    assert replace(it, refuted="something else", source="2020").verdict_seeds() == seeds
    edits = (
        replace(it, metric="other"),
        replace(it, margins=Margins(0.03, 0.02)),
        replace(it, method=Arm("better", Fake(0.4, steps=101), RATES)),
        replace(it, method=Arm("better", Fake(0.4), (1e-4, 1e-3, 3e-2))),
        replace(it, controls=(Arm("untrained", Fake(0.06, trains=False)),)),
        replace(it, sentence="less is more"),
        replace(it, tuning_seeds=(0, 1, 2, 3)),
    )
    for edited in edits:
        assert not set(edited.verdict_seeds()) & set(seeds)
    assert it.verdict_seeds(7)[:5] == seeds


def test_unequal_budgets_are_refused_unless_the_claim_says_what_is_held_equal(tmp_path: Path) -> None:
    double = claim(method=0.4, equal_budget=("steps", "samples"))
    double = replace(double, method=Arm("better", Fake(0.4, steps=200), RATES))
    with pytest.raises(ConfigError, match="'plain' had 50 steps and 'better' 100, more than a tenth apart"):
        judged(double, tmp_path)
    assert judged(replace(double, equal_budget=("trained_parameters",)), tmp_path).verdict == "shown"
    close = replace(double, method=Arm("better", Fake(0.4, steps=108), RATES))
    assert judged(close, tmp_path).verdict == "shown"


def test_what_may_not_give_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 3 different seeds, got 2"):
        judged(claim(), tmp_path, seeds=(1001, 1002))
    with pytest.raises(ConfigError, match=r"seeds \[3, 4\] are for tuning"):
        judged(claim(), tmp_path, seeds=(3, 4, 1001))
    with pytest.raises(ConfigError, match="'better' trains but sweeps no rates"):
        judged(replace(claim(), method=Arm("better", Fake(0.4))), tmp_path)
    with pytest.raises(ConfigError, match="sweeps 2 rates"):
        Arm("two", Fake(0.1), (1e-3, 1e-4))
    with pytest.raises(ConfigError, match="does not name a control"):
        claim(controls=())
    with pytest.raises(ConfigError, match="same name"):
        claim(controls=(Arm("plain", Fake(0.1)),))
    with pytest.raises(ConfigError, match="but not 'accuracy'"):
        judged(claim(metric="accuracy"), tmp_path)


def test_a_grid_is_widened_once_where_its_edge_is_best(tmp_path: Path) -> None:
    low = claim(method=0.4, baseline=0.2)
    low = replace(low, method=Arm("better", Fake(0.4), (1e-5, 1e-4, 3e-4)), baseline=Arm("plain", Fake(0.2), (2e-3, 6e-3, 2e-2)))
    tried: list[tuple[str, float, float]] = []
    entry = judged(low, tmp_path, on_widened=lambda *words: tried.append(words))
    assert tried == [("plain", 2e-3, 0.000666667), ("better", 3e-4, 9e-4)]
    sweep = entry.sweep["better"]
    assert (sweep["chosen"], sweep["widened"], sweep["at_edge"]) == (9e-4, ["0.0009"], True), "once: the next edge is only marked"
    assert list(sweep["rates"]) == ["1e-05", "0.0001", "0.0003", "0.0009"]
    assert all(len(values) == 3 for values in sweep["rates"].values())
    assert {rate for arm, seed, rate, _ in CALLS if arm == "better" and seed > 2} == {9e-4}
    assert ledger.edits(low, entry) == [], "what the runner tried is no edit of the declaration"
    assert judged(claim(), tmp_path).sweep["better"]["widened"] == []


def test_a_mechanism_check_in_which_nothing_learns_gives_no_verdict(tmp_path: Path) -> None:
    planted = claim(baseline=0.2, method=0.4)
    planted = replace(planted, baseline=Arm("plain", Fake(0.2, trains=False)), method=Arm("better", Fake(0.4, trains=False)))
    with pytest.raises(ConfigError, match="no arm learns anything"):
        judged(planted, tmp_path)
    assert judged(replace(planted, kind="paper's claim"), tmp_path).verdict == "shown"


def test_a_bound_is_run_and_shown_and_decides_nothing(tmp_path: Path) -> None:
    above = Arm("true labels", Fake(0.9))
    entry = judged(claim(bounds=(above,)), tmp_path)
    assert (entry.verdict, entry.reached) == ("shown", {"untrained": []})
    assert [side.name for side in entry.bounds] == ["true labels"]
    assert min(entry.bounds[0].scores["recall"]) > max(entry.method.scores["recall"])
    ledger.append(tmp_path / "clip.jsonl", entry)
    assert ledger.latest(tmp_path, "clip") == entry
    assert claim(bounds=()).hash() == claim().hash() != claim(bounds=(above,)).hash()
    withheld = judged(claim(controls=(above,)), tmp_path)
    assert withheld.verdict == "no verdict", "as a control it would have"
    with pytest.raises(ConfigError, match="controls and bounds sweep no rates"):
        claim(bounds=(Arm("true labels", Fake(0.9), RATES),))


def test_smoke_and_trace_store_nothing(tmp_path: Path) -> None:
    smoke(claim(), tmp_path)
    assert {arm for arm, *_ in CALLS} == {"plain", "better", "untrained"}
    assert not list(tmp_path.rglob("*.json"))


def test_ledger_round_trip_old_lines_freshness_and_broken_ones(tmp_path: Path) -> None:
    it = claim()
    entry = judged(it, tmp_path / "cells")
    path = ledger.path_of(tmp_path, "clip/names")
    assert path == tmp_path / "clip.jsonl"
    ledger.append(path, {"claim": "clip", "superseded": "older rules", "verdict": "shown"})
    ledger.append(path, entry)
    assert ledger.latest(tmp_path, "clip") == entry
    assert ledger.latest(tmp_path, "clip/names") is None
    assert [line.superseded for line in ledger.superseded(tmp_path, "clip")] == ["older rules"]
    assert freshness.state(freshness.read(tmp_path), it, entry) == "changed", "no line says which code was judged"
    line = freshness.judged(it, {}, Tree("abc", ()))
    freshness.write(tmp_path, replace(line, claim="siglip"))
    freshness.write(tmp_path, replace(line, closure="another"))
    assert freshness.state(freshness.read(tmp_path), it, entry) == "changed"
    freshness.write(tmp_path, line)
    assert freshness.state(freshness.read(tmp_path), it, entry) == "fresh"
    assert freshness.state(freshness.read(tmp_path), replace(it, metric="other"), entry) == "stale"
    kept = tmp_path / freshness.FILE
    assert [json.loads(text)["claim"] for text in kept.read_text().splitlines()] == ["clip", "siglip"]
    merged = kept.read_text() + kept.read_text().splitlines()[0].replace(line.closure, "of the other branch") + "\n"
    kept.write_text(merged)
    assert freshness.state(freshness.read(tmp_path), it, entry) == "fresh", "of two lines of a merge the one that fits counts"
    freshness.write(tmp_path, line)
    assert len(kept.read_text().splitlines()) == 2
    for file in (path, kept):
        file.write_text(file.read_text() + "{half")
        with pytest.raises(DataError, match="row 3"):
            list(ledger.lines(path) if file == path else freshness.read(tmp_path))


def test_a_remark_is_what_stands_under_the_claims_own_heading(tmp_path: Path) -> None:
    (tmp_path / "clip.md").write_text("# Remarks\n\nhead\n\n## clip\n\nOne.\nTwo.\n\n## Superseded: clip\n\nOld.\n")
    assert ledger.remark(tmp_path, "clip") == "One.\nTwo."
    assert ledger.remark(tmp_path, "clip/names") == ""
    assert ledger.remark(tmp_path, "siglip") == ""


@dataclass(frozen=True)
class Wider(Fake):
    extra: int = 0
    more: tuple[int, ...] = field(default=())


def test_a_new_option_at_its_default_leaves_the_hash_as_it_is() -> None:
    def key(value: Fake) -> str:
        return replace(claim(), method=Arm("better", value, RATES)).hash()

    assert key(Wider(0.4)) == key(Wider(0.4, extra=0, more=()))
    assert key(Wider(0.4)) != key(Wider(0.4, extra=1))


def test_cell_json_is_the_only_record(tmp_path: Path) -> None:
    judged(claim(), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"cell.json"}
    plain = json.loads(files[0].read_text())
    assert {"steps", "samples", "labelled", "trusted", "trained_parameters", "cpu_seconds"} <= set(plain["cost"])
