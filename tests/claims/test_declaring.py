"""`declare` fills in what most claims say, and a declaration that says all of it is the same claim with the same hash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diptych.claims import registry
from diptych.claims.claim import Claim, Margins, declare
from diptych.claims.table import Row, processor_hours

GIVEN = registry.find("siglip")
SAID: dict[str, Any] = {
    name: getattr(GIVEN, name) for name in ("slug", "sentence", "source", "baseline", "method", "controls", "metric", "data")
}


def test_what_is_not_said_is_the_papers_claim_at_equal_steps_and_samples() -> None:
    short = declare(margins=0.03, **SAID)
    budget, below = ("steps", "samples"), "a difference whose interval lies below zero"
    whole = Claim(kind="paper's claim", margins=Margins(0.03, 0.03), equal_budget=budget, refuted=below, **SAID)
    assert short == whole
    assert short.hash() == whole.hash()


def test_what_refutes_a_claim_follows_its_direction_and_what_is_said_stays() -> None:
    assert declare(margins=0.1, higher_is_better=False, **SAID).refuted == "a difference whose interval lies above zero"
    own = declare(margins=Margins(0.05, 0.01), kind="mechanism check", refuted="nothing", equal_budget=("labelled",), **SAID)
    assert (own.margins.matters, own.margins.equivalence, own.kind, own.refuted) == (0.05, 0.01, "mechanism check", "nothing")
    assert own.equal_budget == ("labelled",)


def test_a_field_that_is_missing_or_unknown_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        declare(margins=0.02, colour="red", **SAID)
    with pytest.raises(TypeError, match="metric"):
        declare(margins=0.02, **{name: value for name, value in SAID.items() if name != "metric"})


def test_claims_without_a_verdict_cost_nothing() -> None:
    assert processor_hours([Row(GIVEN, None, None), Row(replace(GIVEN, name="other"), None, None)]) == 0.0
