"""Captions to phrases, phrases to labels, on rendered captions and on traps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.curate.tagging.caption_triplets import LabelLinker, TemplateGrammar
from diptych.worlds import links
from diptych.worlds.links.world import PREDICATES


def test_exact_on_rendered_captions() -> None:
    world, grammar = links(60, seed=0), TemplateGrammar(PREDICATES)
    for row in range(60):
        sample = world[row]
        said = [
            (f"{one.attributes[0]} {one.label}", r.predicate, f"{other.attributes[0]} {other.label}")
            for r in sample.relations
            for one, other in [(sample.regions[r.subject], sample.regions[r.object])]
        ]
        assert sorted(grammar(sample.texts[0].string)) == sorted(said)


def test_the_longest_phrase_wins_then_the_first_of_the_list_then_the_first_of_the_words() -> None:
    """Against the plain loop over phrases and places, on random words."""
    rng = np.random.default_rng(0)
    letters = ["p", "q", "r", "a", "is"]
    for _ in range(300):
        phrases = tuple(" ".join(rng.choice(letters[:3], rng.integers(1, 4))) for _ in range(4))
        words = rng.choice(letters, rng.integers(1, 9)).tolist()
        expected: list[tuple[str, str, str]] = []
        for phrase in sorted((name.split() for name in phrases), key=len, reverse=True):
            for start in range(len(words)):
                ends = TemplateGrammar(("x",))(" ".join([*words[:start], "x", *words[start + len(phrase) :]]))
                if words[start : start + len(phrase)] == phrase and ends and not expected:
                    expected = [(ends[0][0], " ".join(phrase), ends[0][2])]
        assert TemplateGrammar(phrases)(" ".join(words)) == expected


def test_tens_of_thousands_of_phrases_are_looked_up_and_not_tried() -> None:
    grammar = TemplateGrammar((*(f"relation {n}" for n in range(36_000)), "far left of"))
    grammar("a ring far left of a star")  # sorts them once
    looked = Looked(grammar._places)
    grammar.__dict__["_places"] = looked  # in place of the one that it keeps
    assert grammar("a red ring far left of a star") == [("red ring", "far left of", "star")]
    assert 0 < looked.up < 36  # spans of up to three words out of eight, and no pass over the phrases


class Looked(dict[tuple[str, ...], int]):
    """Counts look-ups; a pass over it is a failure."""

    up = 0

    def __contains__(self, phrase: object) -> bool:
        self.up += 1
        return super().__contains__(phrase)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        raise AssertionError("every phrase was tried")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two men riding on the brown horse.", [("men", "riding on", "brown horse")]),
        ("a man is riding a horse while his dog is near the fence", [("man", "riding", "horse"), ("dog", "near", "fence")]),
        ("riding a horse", []),
        ("a man riding", []),
        ("near near near", [("near", "near", "near")]),
        ("", []),
        ("the nearby horse", []),
    ],
)
def test_clauses(caption: str, expected: list[tuple[str, str, str]]) -> None:
    assert TemplateGrammar(("riding", "riding on", "near"))(caption) == expected


def test_labels_are_whole_words_at_the_end_of_a_phrase() -> None:
    link = LabelLinker((("person", ("man", "rider")), ("car", ("taxi",))))
    labels = ["person", "car", "dog", "hot dog"]
    assert link("red car", labels) == ("car",)
    assert link("carpet", labels) == ()
    assert link("car door", labels) == ()
    assert link("two hot dogs", labels) == ("hot dog",)
    assert link("dogs", labels) == ("dog",)
    assert link("bike rider", labels) == ("person",)
    assert link("yellow taxi", ["person"]) == ()
    assert link("", labels) == ()


def test_published_rule_finds_words_inside_words() -> None:
    link = LabelLinker((("person", ("man",)),), rule="substring")
    assert link("carpet", ["dog", "car"]) == ("car",)
    assert link("carpet of a woman", ["car", "person", "dog"]) == ("person",), "of two the last, as the release overwrites"
    assert link("carpet of a woman", ["person", "car", "dog"]) == ("car",)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="'exact'"):
        LabelLinker(rule="exact")  # type: ignore[arg-type]
    for relations in ((), ("on", " ")):
        with pytest.raises(ConfigError, match="relation phrases"):
            TemplateGrammar(relations)
