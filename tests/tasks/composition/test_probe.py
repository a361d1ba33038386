"""Credits worked out on paper, scorers whose result is known in closed form, and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample, Text
from diptych.data.probes.case import Case
from diptych.tasks import find
from diptych.tasks._scoring.captions.choices import credit, probe_records, shares
from diptych.tasks._scoring.captions.text_scorers import bag_of_words, blind, constant, perfect
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.composition.probe import Probe, cases_of, item_columns
from diptych.tasks.composition.winoground import scored
from diptych.worlds.scenes.world import scenes

TRUE = "a red circle left of a blue square"
SWAPPED = "a blue circle left of a red square"
OTHER = "a red circle above a blue square"


def case(kind: str = "swapped", *, uid: str = "u", group: str = "g", options: Any = (TRUE, SWAPPED), roles: Any = ()) -> Case:
    return Case(uid, group, kind, options, roles or ("true", *["false"] * (len(options) - 1)))


def records(cases: list[Case], scores: list[list[float]]) -> Any:
    zero = [constant(c) for c in cases]
    return probe_records(cases, scores, {"blind": zero, "bag_of_words": zero})


# ---------------------------------------------------------------- credits


def test_ties_are_shared_and_entailed_options_are_no_error() -> None:
    roles = ("true", "false", "false", "entailed")
    assert credit([0.9, 0.1, 0.2, 0.0], roles) == 1.0
    assert credit([0.5, 0.5, 0.2, 0.0], roles) == 0.5
    assert credit([0.5, 0.5, 0.5, 0.5], roles) == pytest.approx(1 / 3)  # the entailed one is not among those that tie
    assert credit([0.5, 0.2, 0.1, 0.9], roles) == 1.0  # preferring a true, weaker caption is no mistake
    assert credit([0.1, 0.2, 0.1, 0.9], roles) == 0.0
    assert credit([0.3, 0.3, 0.1], ("true", "true", "false")) == 1.0
    assert shares([0.5, 0.5, 0.1, 0.5]) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_the_place_of_the_true_option_does_not_matter() -> None:
    for score in ([0.5, 0.5, 0.1], [0.2, 0.2, 0.2], [0.4, 0.1, 0.3]):
        values = {
            credit(np.roll(score, shift), np.roll(np.array(["true", "false", "false"]), shift).tolist()) for shift in range(3)
        }
        assert len(values) == 1


def test_pairs_of_images_and_captions_count_as_published() -> None:
    assert scored(np.array([[0.9, 0.1], [0.2, 0.8]])) == (True, True, True)
    assert scored(np.array([[0.9, 0.1], [0.9, 0.95]])) == (True, False, False)
    assert scored(np.array([[0.9, 0.9], [0.1, 0.95]])) == (False, True, False)  # a tie is not greater
    rng = np.random.default_rng(0)
    share = np.mean([scored(rng.random((2, 2))) for _ in range(20_000)], axis=0)
    assert share == pytest.approx([1 / 4, 1 / 4, 1 / 6], abs=0.01)


def test_macro_is_the_mean_of_kinds_and_small_kinds_are_left_out() -> None:
    """swapped: 1, 0, 0, 0 -> 1/4; order: 1, 1/2 -> 3/4; rare: 1 case, right."""
    kinds = ["swapped"] * 4 + ["order"] * 2 + ["rare"]
    scores = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5], [0.9, 0.1]]
    table = records([case(kind, uid=f"u{i}", group=f"g{i}") for i, kind in enumerate(kinds)], scores)
    result = Probe(minimum=2).score(table)
    assert result.value == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert result.metrics["accuracy"].value == pytest.approx((1 + 1.5 + 1) / 7)
    assert (result.metrics["order"].value, result.metrics["rare"].value) == (0.75, 1.0)
    assert result.notes["kinds_below_minimum"] == ["rare"]
    assert result.notes["share_tied"] == pytest.approx(1 / 7)
    assert result.metrics["macro"].chance == 0.5
    with pytest.raises(DataError, match=r"no kind has 25 cases .the largest, 'swapped', has 4"):
        Probe().score(table)


def test_ties_are_worth_what_the_policy_says() -> None:
    """One right, one wrong, one tie with the true option first, one with it last, one tie of three with two false."""
    last = {"options": (SWAPPED, TRUE), "roles": ("false", "true")}
    cases = [
        case(uid="a"),
        case(uid="b"),
        case(uid="c"),
        case(uid="d", **last),
        case(uid="e", options=(SWAPPED, TRUE, OTHER), roles=("false", "true", "false")),
    ]
    scores = [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5, 0.5]]
    table = records(cases, scores)
    wanted = {"expected": (1 + 0.5 + 0.5 + 1 / 3) / 5, "pessimistic": 1 / 5, "optimistic": 4 / 5, "index": 2 / 5}
    for ties, value in wanted.items():
        result = Probe(minimum=1, ties=ties).score(table)  # type: ignore[arg-type]
        assert (result.value, result.notes["ties"]) == (pytest.approx(value), ties)
        assert result.notes["share_tied"] == pytest.approx(3 / 5)
    argmax = np.mean([c.roles[int(np.argmax(s))] == "true" for c, s in zip(cases, scores, strict=True)])
    assert argmax == wanted["index"]
    assert Probe(minimum=1, ties="index").score(table).metrics["blind"].value == pytest.approx(3 / 5)  # says 0 to all: the first
    with pytest.raises(ConfigError, match="ties is 'first'"):
        Probe(ties="first")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no column 'credit_first'"):
        Probe(minimum=1, ties="index").score(table.drop_columns(["credit_first"]))


def test_kinds_are_left_out_by_name() -> None:
    kinds = ["swapped"] * 4 + ["order"] * 2 + ["near"] * 3
    scores = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5], *[[0.9, 0.1]] * 3]
    table = records([case(kind, uid=f"u{i}", group=f"g{i}") for i, kind in enumerate(kinds)], scores)
    result = Probe(minimum=2, leave_out=("near",)).score(table)
    assert result.value == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert result.metrics["accuracy"].value == pytest.approx(2.5 / 6)
    assert result.metrics["near"].value == 1
    assert result.notes["kinds_left_out"] == ["near"]
    assert result.notes["kinds_below_minimum"] == []
    for metric in ("macro", "accuracy"):
        columns = item_columns(with_facts(table, options={"minimum": 2, "leave_out": ["near"]}), metric)
        assert np.nanmean(columns, axis=0).mean() == pytest.approx(result.metrics[metric].value)
    with pytest.raises(UnknownName, match="did you mean 'near'"):
        Probe(minimum=1, leave_out=("nera",)).score(table)
    with pytest.raises(DataError, match="every kind is left out"):
        Probe(minimum=1, leave_out=("near", "order", "swapped")).score(table)
    with pytest.raises(ConfigError, match=r"leave_out is .near"):
        find("probe", leave_out="near")


def test_columns_for_paired_comparison_average_to_the_metric() -> None:
    kinds = ["swapped"] * 4 + ["order"] * 2
    scores = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]
    table = with_facts(records([case(kind, uid=f"u{i}") for i, kind in enumerate(kinds)], scores), options={"minimum": 2})
    result = Probe(minimum=2).score(table)
    for metric in ("macro", "accuracy", "order", "swapped"):
        columns = item_columns(table, metric)
        assert columns is not None
        assert np.nanmean(columns, axis=0).mean() == pytest.approx(result.metrics[metric].value)
    assert item_columns(table, "blind") is None


def test_groups_that_move_together_make_the_interval_wider() -> None:
    scores = [[0.9, 0.1] if i // 10 % 2 else [0.1, 0.9] for i in range(200)]
    wide, narrow = (
        Probe().score(records([case(uid=f"u{i}", group=f"g{i // per}") for i in range(200)], scores)).metrics["macro"]
        for per in (10, 1)
    )
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


# ---------------------------------------------------------------- scorers whose result is known


def test_scorers_get_what_they_must() -> None:
    cases = [case(options=(TRUE, SWAPPED)), case(options=(TRUE, OTHER)), case(options=(TRUE, SWAPPED, OTHER))]
    got = {scorer: [credit(scorer(c), c.roles) for c in cases] for scorer in (perfect, constant, bag_of_words)}
    assert got[perfect] == [1.0, 1.0, 1.0]
    assert got[constant] == pytest.approx([1 / 2, 1 / 2, 1 / 3])
    assert got[bag_of_words] == [0.5, 1.0, 0.5]


def test_a_blind_scorer_finds_the_usual_wording_and_never_reads_its_own_group() -> None:
    odd = case("word order", uid="x", group="gx", options=(TRUE, "square a blue of circle left a red"))
    usual = [(f"g{i}", TRUE) for i in range(20)]
    scores = blind([odd], usual)[0]
    assert scores[0] > scores[1]
    other = case("x", uid="y", group="gx", options=("unseen words", "words unseen"))
    equal = blind([other], [("gx", "unseen words")] * 50)[0]
    assert equal[0] == pytest.approx(equal[1])


# ---------------------------------------------------------------- through a model


class Knowing:
    """Embeds a scene's image as its true captions; `level` 0 knows nothing, 1 everything."""

    name = fingerprint = "knowing"

    def __init__(self, data: Any, level: float) -> None:
        rng = np.random.default_rng(0)
        self.level, self.rows = level, {data[i].image.name: i for i in range(len(data))}
        self.axis_ND = np.linalg.qr(rng.standard_normal((len(data) + 1, len(data) + 1)))[0]
        self.true = {str(n["true"]): i for i in range(len(data)) for n in data[i].extras["negatives"]}

    def _mix(self, row: int | None) -> Any:
        base, own = self.axis_ND[-1], self.axis_ND[row] if row is not None else 0.0
        vector = base + self.level * own
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
        return np.stack([self._mix(self.rows[image.name]) for image in images])

    def embed_texts(self, texts: Any, *, batch_size: int = 64) -> Any:
        return np.stack([self._mix(self.true.get(text)) for text in texts])


def test_a_model_that_knows_everything_and_one_that_knows_nothing() -> None:
    data = scenes(30, seed=5, size=32, split="test")
    task = find("probe", minimum=5)
    nothing = task.score(task.predict(Knowing(data, 0.0), data))
    assert nothing.value == 0.5
    assert nothing.notes["share_tied"] == 1.0
    # Captions such as "exactly one circle" are true of several scenes, so only the kinds about the statement are certain.
    everything = task.score(task.predict(Knowing(data, 1.0), data))
    assert everything.metrics["swapped_roles"].value > 0.95
    assert everything.metrics["bag_of_words"].value == pytest.approx(
        np.mean([0.5 if kind.startswith("swapped") else 1.0 for kind in everything.notes["cases"]])
    )


# ---------------------------------------------------------------- cases


def test_wrong_captions_without_kinds_make_one_case_a_sample() -> None:
    texts = (Text(TRUE, "en"), Text(SWAPPED, "en", "negative"), Text(f"{TRUE}.", "en", "negative"), Text("rot", "de", "negative"))
    sample = Sample("u", texts=texts, extras={"entailed": ["a circle and a square"]})
    (found,), dropped = cases_of(sample)
    assert found.options == (TRUE, "a circle and a square", SWAPPED)
    assert found.roles == ("true", "entailed", "false")
    assert dropped == 1  # equal but for the full stop: no model could tell them apart
    assert cases_of(Sample("v", texts=(Text(TRUE, "en"),))) == ([], 0)


def test_what_is_no_probe_is_refused(kit: Any) -> None:
    model = kit.model({"u": [1.0, 0.0]}, {"a dog": [1.0, 0.0]})
    with pytest.raises(DataError, match="no case for this task"):
        Probe().predict(model, kit.pool(kit.sample("u", "a dog")))
    with pytest.raises(DataError, match="a true and a false one at least"):
        Case("u", "g", "k", ("a", "b"), ("true", "true"))
    with pytest.raises(ConfigError, match="minimum is 0"):
        Probe(minimum=0)
