"""Numbers, options and shuffles of ARO, SNARE and Winoground as their released code gives them, ties included.

SNARE's code sorts by numpy's default, which on some processors does not keep the order of equal scores; these numbers are those of a stable
sort, in which the first option wins.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.sample import Sample
from diptych.data.probes.case import Case, Role
from diptych.data.text.captions import shuffles as to
from diptych.data.text.captions.cleaning import cleaned
from diptych.tasks._scoring.captions.choices import probe_records
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.composition.aro import ARO
from diptych.tasks.composition.snare import DIRECTIONS, PARTS, SNARE
from diptych.tasks.composition.winoground import Winoground, scored

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "probes_released.npz"
SNARES = "WangFei-2019/SNARE 3abda6c"
AROS = "mertyg/vision-language-models-are-bows 81fdd20"
FALSE_FIRST: tuple[Role, ...] = ("false", "true")


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    return dict(np.load(RELEASED).items())


def records(kinds: Sequence[str], scores: Any, roles: Any, names: Any = ()) -> Any:
    """Made-up options with these scores; `roles` and `names` are one tuple for all, or one a case."""
    cases = []
    for row, kind in enumerate(kinds):
        role = roles if isinstance(roles[0], str) else roles[row]
        options = tuple(f"{row} {place}" for place in range(len(role)))
        cases.append(Case(f"u{row}", f"u{row}", kind, options, role, names))
    zero = [[0.0] * len(case.options) for case in cases]
    return with_facts(probe_records(cases, list(scores), {"blind": zero, "bag_of_words": zero}))


def test_aro_counts_as_released(theirs: dict[str, Any]) -> None:
    names = ["on", "under", "holding", "near", "wearing", "behind"]
    task = ARO(ties="index", draws=10)
    kinds = [f"relation/{names[place]}" for place in theirs["relation"]]
    result = task.score(records(kinds, theirs["relation_score"], FALSE_FIRST))
    assert result.value == pytest.approx(float(theirs["relation_macro"]), abs=1e-12)
    each = [result.metrics[f"relation/{name}"].value for name in names]
    assert each == pytest.approx(theirs["relation_each"].tolist(), abs=1e-12)
    assert result.notes["kinds_left_out"] == ["relation/near"]

    kinds = [f"attribution/a_{place}" for place in theirs["pair"]]
    result = task.score(records(kinds, theirs["pair_score"], FALSE_FIRST))
    assert result.value == pytest.approx(float(theirs["pair_macro"]), abs=1e-12)
    rare = {f"attribution/a_{place}" for place in set(theirs["pair"].tolist()) - set(theirs["pair_kinds"].tolist())}
    assert set(result.notes["kinds_below_minimum"]) == rare

    result = task.score(records(["order"] * 200, theirs["order_score"], ("true", *["false"] * 4)))
    assert result.metrics["order"].value == pytest.approx(float(theirs["order"]), abs=1e-12)


@pytest.mark.parametrize(
    ("short", "part"),
    [("apart", "attribute_ownership"), ("negated", "negation_logic"), ("joined", "relationship_composition")],
)
def test_snare_counts_wins_as_released(theirs: dict[str, Any], parity: Any, short: str, part: str) -> None:
    roles: tuple[Role, ...] = ("true", "false", "entailed") if theirs[f"{short}_score"].shape[1] == 3 else ("true", "false")
    kinds = [f"{part}/g{place}" for place in theirs[f"{short}_group"]]
    result = SNARE(ties="index", draws=10).score(records(kinds, theirs[f"{short}_score"], roles, PARTS[part]))
    pairs = [([result.metrics[f"{part}/{name}@1"].value for name in PARTS[part]], theirs[f"{short}_top1"])]
    if f"{short}_top2" in theirs:
        pairs.append(([result.metrics[f"{part}/{name}@2"].value for name in PARTS[part]], theirs[f"{short}_top2"]))
    by_kind = result.notes["by_kind"]
    each = [[by_kind[kind][name] for name in PARTS[part]] for kind in sorted(set(kinds))]
    pairs.append((each, theirs[f"{short}_each"]))
    parity("snare", "shares of wins, whole and by kind", SNARES, pairs, tolerance=1e-12)


def test_snare_places_directions_as_released(theirs: dict[str, Any], parity: Any) -> None:
    part = "spatial_relationship"
    roles = [tuple("true" if place == true else "false" for place in range(4)) for true in theirs["spatial_true"]]
    kinds = [f"{part}/g{place}" for place in theirs["spatial_group"]]
    result = SNARE(ties="index", draws=10).score(records(kinds, theirs["spatial_score"], roles, DIRECTIONS))
    top = [result.metrics[f"{part}/true@{depth}"].value for depth in (1, 2, 3)]
    each = [[result.notes["by_kind"][kind][name] for name in DIRECTIONS] for kind in sorted(set(kinds))]
    pairs = [(top, theirs["spatial_top"]), (each, theirs["spatial_each"])]
    parity("snare", "directions among the first one, two and three", SNARES, pairs, tolerance=1e-12)


def test_snare_counts_structure_as_released(theirs: dict[str, Any], parity: Any) -> None:
    names = PARTS["semantic_structure"]
    table = records(["semantic_structure"] * 150, theirs["structure_score"], ("true", *["false"] * 3), names)
    result = SNARE(ties="index", draws=10).score(table)
    wins = [result.metrics[f"semantic_structure/{name}@1"].value for name in names]
    parity("snare", "which order of words wins", SNARES, [(wins, theirs["structure"])], tolerance=1e-12)


def test_snare_makes_the_released_options(theirs: dict[str, Any], parity: Any) -> None:
    relation = {
        "name": "to the left of",
        "true": "the cup is to the left of the box",
        "false": "the box is to the left of the cup",
    }
    attribution = {
        "attributes": ["red", "blue"],
        "objects": ["cup", "box"],
        "true": "the red cup and the blue box",
        "false": "the blue cup and the red box",
    }
    cases = {
        case.kind.partition("/")[0]: [zlib.crc32(option.encode()) for option in case.options]
        for extras in ({"relation": relation}, {"attribution": attribution})
        for case in SNARE().cases(Sample("u", extras=extras))
    }
    pairs = [
        (cases["relationship_composition"], theirs["joined_options"]),
        (cases["spatial_relationship"], theirs["spatial_options"]),
        (cases["attribute_ownership"], theirs["apart_options"]),
        (cases["negation_logic"], theirs["negated_options"]),
    ]
    parity("snare", "options of four parts", SNARES, pairs, tolerance=0)


def test_snare_agrees_with_aro_on_its_two_options(theirs: dict[str, Any], parity: Any) -> None:
    """Composition without its third option is ARO's relation; theirs lists the true one first, ARO's the false one, and no tie is here."""
    score = theirs["relation_score"] + np.array([0.0, 1e-3])
    kinds = [f"g{place}" for place in theirs["relation"]]
    roles: tuple[Role, ...] = ("true", "false")
    snare = SNARE(draws=10).score(
        records([f"relationship_composition/{kind}" for kind in kinds], score[:, ::-1], roles, ("true", "exchanged"))
    )
    aro = ARO(draws=10).score(records([f"relation/{kind}" for kind in kinds], score, FALSE_FIRST))
    pairs = [(snare.metrics["accuracy"].value, aro.metrics["accuracy"].value)]
    parity("snare", "two options", "ARO's accuracy over cases", pairs, tolerance=1e-12)


def test_words_are_shuffled_as_released(theirs: dict[str, Any], parity: Any) -> None:
    kinds = [
        "DET",
        "ADJ",
        "NOUN",
        "VERB",
        "ADP",
        "DET",
        "ADJ",
        "ADJ",
        "NOUN",
        "CONJ",
        "DET",
        "NOUN",
        "VERB",
        "ADV",
        "ADP",
        "PROPN",
        "PUNCT",
    ]
    words = [str(place) for place in range(len(kinds))]
    nouns, content = (to.NOUN, to.ADJECTIVE), (to.NOUN, to.VERB, to.ADJECTIVE)
    ours = {
        "nouns_adj": lambda rng: to.shuffled_classes(words, kinds, nouns, rng),
        "others": lambda rng: to.shuffled_others(words, kinds, nouns, rng),
        "content": lambda rng: to.shuffled_classes(words, kinds, content, rng),
        "snare_others": lambda rng: to.shuffled_others(words, kinds, content, rng),
        "all": lambda rng: to.shuffled(words, rng),
        "within": lambda rng: to.shuffled_within_trigrams(words, rng),
        "threes": lambda rng: to.shuffled_trigrams(words, rng),
    }
    found = {
        name: [[int(word) for word in shuffle(np.random.RandomState(seed))] for seed in range(5)]
        for name, shuffle in ours.items()
    }
    for name in ("nouns_adj", "others", "within", "threes"):
        assert np.array_equal(found[name], theirs[f"shuffle_{name}"]), f"{name}, {AROS}"
    pairs = [(found[name], theirs[f"shuffle_{name}"]) for name in ("content", "snare_others", "all")]
    parity("snare", "shuffled words under equal random numbers", SNARES, pairs, tolerance=0)


def test_captions_are_cleaned_as_released(theirs: dict[str, Any], parity: Any) -> None:
    captions = [
        "A dog (brown), running:  fast!",
        'He said "hi"; #1 ~ * ok.\n',
        "  Two  men - one's tall. ",
        "word " * 40,
        "A.B.C",
        "tab\there\n\n",
    ]
    ours = [[zlib.crc32(cleaned(caption, most).encode()) for most in (30, 8, 22)] for caption in captions]
    parity("snare", "cleaned captions", f"{AROS}, which SNARE copies", [(ours, theirs["cleaned"])], tolerance=0)


def test_winoground_counts_as_syvics_evaluation_does(theirs: dict[str, Any]) -> None:
    found = [scored(score_22) for score_22 in theirs["wino_score"]]
    assert np.array_equal(found, theirs["wino"])
    cases, scores = [], []
    for number, score_22 in enumerate(theirs["wino_score"]):
        for side, roles in enumerate((("true", "false"), ("false", "true"))):
            cases.append(Case(f"{number}-{side}", f"g{number}", "Object", ("a", "b"), roles))
            scores.append(score_22[side])
    zero = [[0.0, 0.0]] * len(cases)
    result = Winoground(draws=10).score(probe_records(cases, scores, {"blind": zero, "bag_of_words": zero}))
    means = [result.metrics[name].value for name in ("text", "image", "group")]
    assert means == pytest.approx(theirs["wino"].mean(axis=0).tolist(), abs=1e-12)


def test_words_go_by_their_tag_of_the_penn_treebank_where_there_is_one() -> None:
    """As the released code sorts them: "someone" is a noun (spaCy: NN, a pronoun), a foreign word none, a modal no verb."""
    words, tags = ["someone", "must", "see", "snowy", "Oslo"], ["PRON", "AUX", "VERB", "NOUN", "PROPN"]
    assert to.kinds_of(words, tags) == ["PRON", "MODAL", "VERB", "NOUN", "PROPN"]
    assert to.kinds_of(words, tags, ["NN", "MD", "VB", "FW", "NNP"]) == ["NOUN", "OTHER", "VERB", "OTHER", "NOUN"]
    assert to.kinds_of(words[:2], tags[:2], ["", ""]) == ["PRON", "MODAL"]
