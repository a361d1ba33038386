"""The rule against scipy and by simulation: false alarms with sweeps and controls in place, power, mirrored arms, withheld verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diptych.claims.sweep import choose
from diptych.claims.verdict import (
    Difference,
    Judgement,
    Margins,
    equivalence_p,
    holm,
    judge,
    paired_difference,
    reaches,
    seeds_needed,
)
from diptych.core.errors import ConfigError

MARGINS = Margins(matters=0.02, equivalence=0.02)
CLAIMS, SEEDS, TUNED = 2000, 5, 3
RATES = {1e-4: 0.40, 3e-4: 0.42, 1e-3: 0.41}
"""Learning rate -> true score of an arm: near the best one, where the sweep errs most often."""


def simulated(
    rng: np.random.Generator,
    effect: float,
    *,
    spread: float = 0.03,
    seeds: int = SEEDS,
    control: float = 0.1,
    raw: float | None = None,
) -> Judgement:
    """A whole claim: each arm's rate is swept on noisy tuning seeds, then fresh seeds, a part of whose noise the arms share. `raw` is the
    level of a raw-input control, which has the noise of its rows and none of training."""
    arms = []
    shared = rng.normal(0, 0.02, seeds)
    for gain in (0.0, effect):
        tuned = {rate: list(truth + gain + rng.normal(0, spread, TUNED)) for rate, truth in RATES.items()}
        truth = RATES[choose(tuned).rate] + gain
        arms.append(truth + shared + rng.normal(0, spread, seeds))
    controls = {"untrained": control + rng.normal(0, 0.01, seeds), "majority": rng.normal(0.002, 0.001, seeds)}
    if raw is not None:
        controls["ridge"] = raw + shared + rng.normal(0, 0.01, seeds)
    return judge(arms[0], arms[1], controls, MARGINS, blind=("majority",))


def test_paired_difference_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(0.5, size=5)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(b, a)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("mean", [0.0, 0.004, -0.013, 0.03])
def test_equivalence_is_two_one_sided_t_tests_of_scipy(mean: float) -> None:
    d = mean + np.random.default_rng(1).normal(0, 0.01, 6)
    above = stats.ttest_1samp(d, -0.02, alternative="greater").pvalue
    below = stats.ttest_1samp(d, 0.02, alternative="less").pvalue
    assert equivalence_p(paired_difference(np.zeros(6), d), 0.02) == pytest.approx(max(above, below))


def null_rates(seed: int, count: int, *, raw: bool) -> tuple[float, float]:
    """Shares of null claims that are called shown and reversed; with raw, a ridge of any level beside them."""
    rng = np.random.default_rng(seed)
    words = [simulated(rng, 0.0, raw=float(rng.uniform(0.0, 0.6)) if raw else None).verdict for _ in range(count)]
    return words.count("shown") / count, words.count("reversed") / count


@pytest.mark.parametrize("raw", [False, True])
def test_null_claims_with_sweeps_and_controls_are_seldom_shown(raw: bool) -> None:
    """A fast form of the next: 400 claims."""
    shown, turned = null_rates(2, 400, raw=raw)
    assert shown <= 0.06
    assert turned <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "together"), [(False, 0.08), (True, 0.05)])
def test_two_thousand_null_claims_are_seldom_shown(raw: bool, together: float) -> None:
    """Each wrong word stays at or below .05. Both together are more where no control is near, since noisy tuning seeds may give equal arms
    different rates, and then they do differ; with a raw-input control of any level they stay at or below .05, too."""
    shown, turned = null_rates(2, CLAIMS, raw=raw)
    assert 0.005 < shown <= 0.05
    assert 0.005 < turned <= 0.05
    assert shown + turned <= together


def test_equal_arms_of_little_noise_are_called_equal_and_arms_a_margin_apart_seldom() -> None:
    rng = np.random.default_rng(3)
    d = rng.normal(0, 0.008, (2, CLAIMS, SEEDS))
    zeros = np.zeros(SEEDS)
    equal = np.mean([judge(zeros, row, {}, MARGINS).verdict == "equal within the margin" for row in d[0]])
    edge = np.mean([judge(zeros, MARGINS.equivalence + row, {}, MARGINS).verdict == "equal within the margin" for row in d[1]])
    assert equal >= 0.8
    assert edge <= 0.055


@pytest.mark.parametrize("spread", [0.0115, 0.02, 0.035])
def test_an_effect_of_the_margin_is_found_with_as_many_seeds_as_the_power_line_says(spread: float) -> None:
    needed = seeds_needed(spread, MARGINS.matters)
    if spread == 0.0115:
        assert needed == SEEDS, "at this spread five seeds are enough"
    rng = np.random.default_rng(4)
    draws = MARGINS.matters + rng.normal(0, spread, (CLAIMS, needed))
    found = np.mean([judge(np.zeros(needed), row, {}, MARGINS).verdict == "shown" for row in draws])
    assert 0.78 <= found <= 0.92


def test_swapped_arms_mirror() -> None:
    rng = np.random.default_rng(5)
    mirrored = {"shown": "reversed", "reversed": "shown"}
    seen = set()
    for effect in (0.0, 0.03, 0.08, -0.08):
        for spread in (0.004, 0.03):
            a, b = 0.4 + rng.normal(0, spread, 5), 0.4 + effect + rng.normal(0, spread, 5)
            one, two = judge(a, b, {}, MARGINS), judge(b, a, {}, MARGINS)
            assert two.verdict == mirrored.get(one.verdict, one.verdict)
            assert two.difference.mean == pytest.approx(-one.difference.mean)
            assert judge(-a, -b, {}, MARGINS, higher_is_better=False).verdict == one.verdict
            seen.add(one.verdict)
    assert seen == {"shown", "reversed", "equal within the margin", "open"}


def test_a_tiny_difference_is_never_shown_however_certain() -> None:
    d = 0.003 + np.random.default_rng(6).normal(0, 0.0005, 5)
    found = judge(np.zeros(5), d, {}, MARGINS)
    assert found.difference.p < 0.01
    assert found.verdict == "equal within the margin"
    narrow = judge(np.zeros(5), d, {}, Margins(matters=0.02, equivalence=0.001))
    assert narrow.verdict == "open", "certainly not zero, certainly too small to matter, and not within so narrow a margin"


def test_a_control_above_both_arms_or_above_the_baseline_withholds_the_verdict() -> None:
    rng = np.random.default_rng(7)
    base, method, noise = 0.3 + rng.normal(0, 0.01, 5), 0.5 + rng.normal(0, 0.01, 5), rng.normal(0, 0.01, 5)
    assert judge(base, method, {"untrained": 0.1 + noise}, MARGINS).verdict == "shown"
    between = judge(base, method, {"raw pixels": 0.4 + noise}, MARGINS)
    assert (between.verdict, between.reached) == ("no verdict", {"raw pixels": ("baseline",)})
    assert between.why == "the baseline is below the control 'raw pixels'"
    near = judge(base, method, {"raw pixels": base - 0.001 + noise / 10}, MARGINS)
    assert near.verdict == "shown", "not shown to be below the baseline, but its mean is"
    above = judge(base, method, {"untrained": 0.1 + noise, "raw pixels": 0.6 + noise}, MARGINS)
    assert above.verdict == "no verdict"
    assert above.reached["raw pixels"] == ("baseline", "method")
    assert "raw pixels" in above.why
    planted = np.random.default_rng(8)
    words = [simulated(planted, 0.08, control=0.6).verdict for _ in range(200)]
    assert set(words) == {"no verdict"}


def test_a_baseline_at_chance_gives_no_verdict_and_chance_is_a_control_that_sees_no_picture() -> None:
    rng = np.random.default_rng(9)
    chance, base, method = 0.1 + rng.normal(0, 0.01, 5), 0.105 + rng.normal(0, 0.02, 5), 0.5 + rng.normal(0, 0.01, 5)
    base += max(0.0, chance.mean() - base.mean() + 0.002)
    found = judge(base, method, {"usual": chance}, MARGINS, blind=("usual",))
    assert (found.verdict, found.why) == ("no verdict", "the baseline is not above chance ('usual')")
    assert judge(base, method, {"usual": chance}, MARGINS).verdict == "shown", "the same values of a control that sees"


def test_what_is_shown_is_above_every_control_too() -> None:
    """A control that reaches the method reaches the baseline as well, or its mean is above it: no case of it is left to be shown."""
    rng = np.random.default_rng(10)
    shown = 0
    for _ in range(2000):
        control, base, method = (rng.normal(level, rng.uniform(0.01, 0.1), 5) for level in rng.uniform(0.2, 0.5, 3))
        found = judge(base, method, {"ridge": control}, MARGINS)
        shown += found.verdict == "shown"
        assert found.verdict != "shown" or "method" not in found.reached["ridge"]
    assert shown > 100


def test_an_arm_that_may_be_no_better_than_a_control_is_reached_by_it() -> None:
    arm, control = [0.30, 0.10, 0.26], [0.12, 0.13, 0.11]
    assert reaches(control, arm), "the mean is higher, the seeds do not say so"
    assert not reaches(control, [0.30, 0.31, 0.29])
    assert not reaches(arm, control, higher_is_better=False) or paired_difference(arm, control).p >= 0.05


def test_margins_and_seeds_that_cannot_decide_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 < equivalence <= matters"):
        Margins(matters=0.01, equivalence=0.02)
    with pytest.raises(ConfigError, match="at least 3 seeds, got 2"):
        judge([0.1, 0.2], [0.2, 0.3], {}, MARGINS)
    with pytest.raises(ConfigError, match="not a finite number"):
        judge([0.1, float("nan"), 0.2], [0.1, 0.2, 0.3], {}, MARGINS)
    with pytest.raises(ConfigError, match="a score under each tuning seed"):
        choose({1e-3: [0.1, 0.2], 1e-4: [0.1]})


def test_the_sweep_takes_the_best_mean_and_says_when_it_stands_at_the_edge() -> None:
    scores = {1e-4: [0.1, 0.2], 3e-4: [0.4, 0.4], 1e-3: [0.9, 0.1]}
    assert choose(scores).rate == 1e-3
    assert choose(scores).at_edge
    assert choose(scores, higher_is_better=False).rate == 1e-4
    assert choose({1e-3: [0.2], 3e-4: [0.2], 1e-4: [0.1]}).rate == 3e-4, "of equal means the lower rate"


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert isinstance(paired_difference([0.0, 0.0], [0.0, 0.0]), Difference)
