"""Captions that bind say what the picture shows, and shuffling them changes nothing else."""

from __future__ import annotations

from diptych.claims.cells.learned_pairs.composed import bound, things, with_words
from diptych.tasks.composition.snare import DIRECTIONS, SNARE
from diptych.worlds.small_pairs import PLACES, SmallPairs

ROWS = SmallPairs(40, regions=True).pool("test", 3)


def test_captions_say_what_the_world_says() -> None:
    pool = bound(ROWS, 3)
    related = 0
    for row in range(len(ROWS)):
        said = " and ".join(f"a {noun} {PLACES[cell]}" for noun, cell in things(ROWS[row]))
        assert said == ROWS[row].texts[0].string
        (first, one), (second, two) = things(ROWS[row])
        sample = pool[row]
        assert sample.texts[0].string == f"the {first} and the {second}"
        if (fact := sample.extras.get("relation")) is not None:
            related += 1
            subject, name, other = (part.strip() for part in _parts(fact["true"]))
            ahead = subject == first
            assert {subject, other} == {first, second}
            assert (one // 3 == two // 3) == (name in DIRECTIONS[:2])
            assert name == {True: ("to the left of", "above"), False: ("to the right of", "below")}[ahead][one // 3 != two // 3]
            assert _parts(fact["false"]) == (other, name, subject)
    assert related > 5


def test_shuffled_captions_have_the_same_words_and_pictures() -> None:
    plain, mixed = bound(ROWS, 3), bound(ROWS, 3, shuffle=True)
    changed = 0
    for row in range(len(ROWS)):
        for one, two in zip(plain[row].texts, mixed[row].texts, strict=True):
            assert sorted(one.string.split()) == sorted(two.string.split())
            changed += one.string != two.string
        assert plain[row].image is mixed[row].image
    assert changed > 40
    assert bound(ROWS, 3, shuffle=True).fingerprint == mixed.fingerprint != bound(ROWS, 4, shuffle=True).fingerprint


def test_all_parts_are_asked_where_they_can_be() -> None:
    kinds = {case.kind.partition("/")[0] for sample in with_words(bound(ROWS, 3)) for case in SNARE().cases(sample)}
    assert kinds == {
        "negation_logic",
        "attribute_ownership",
        "relationship_composition",
        "spatial_relationship",
        "semantic_structure",
    }


def _parts(text: str) -> tuple[str, str, str]:
    subject, _, rest = text.removeprefix("the ").partition(" is ")
    name, _, other = rest.rpartition(" the ")
    return subject, name, other
