"""Mistakes that are known: as many as asked for, none in place, equal for every arm, never in the test rows. Long captions are true."""

from __future__ import annotations

from diptych.claims.dreamlip import captioned
from diptych.claims.noisy_texts import PLACES, NoisyPairs, exchanged, for_noisy_pairs
from diptych.data.text.sentences import sentences
from diptych.recipes.contrastive.clip import CLIP


def test_no_exchanged_row_keeps_its_own() -> None:
    source = exchanged(200, 0.3, "train", 0)
    moved = [row for row, other in enumerate(source) if row != other]
    assert len(moved) == 60
    assert sorted(source) == list(range(200)), "every text is used once"
    assert exchanged(200, 0.3, "train", 0) == source != exchanged(200, 0.3, "train", 1)
    assert exchanged(5, 0.0, "train", 0) == exchanged(5, 0.2, "train", 0) == list(range(5)), "one row has nobody to exchange with"


def test_texts_say_what_is_shown_unless_they_are_marked() -> None:
    clean, noisy = NoisyPairs(40).pool("train", 3), NoisyPairs(40, 0.5, 0.1, captioned=True).pool("train", 3)
    for true, found in zip(clean, noisy, strict=True):
        assert true.uid == found.uid
        assert (true.texts[0].string == found.texts[0].string) or found.extras["mismatched"]
        assert [text.origin for text in found.texts] == ["alt", "synthetic"]
    assert sum(noisy.column("mismatched")) == 20
    assert not any(clean.column("mismatched"))
    unplaced = [sample.texts[1].string for sample in noisy]
    assert not any(word in text for text in unplaced for word in ("top", "left", "centre", "bottom"))


def test_what_is_avoided_is_not_shown() -> None:
    rows = NoisyPairs(60, avoid=("red circle", "blue cross")).pool("train", 0)
    assert not any("red circle" in sample.texts[0].string or "blue cross" in sample.texts[0].string for sample in rows)


def test_equal_texts_are_one_group_in_the_test_rows_alone() -> None:
    test, train = NoisyPairs(30).pool("test", 0), NoisyPairs(30).pool("train", 0)
    assert all(sample.group == sample.texts[0].string for sample in test)
    assert not any(sample.group for sample in train)


def test_a_long_caption_says_in_sentences_what_the_short_text_says_half_of() -> None:
    both, rows, short = (
        NoisyPairs(40).pool("train", 2),
        captioned(NoisyPairs(40), 2, long=True),
        captioned(NoisyPairs(40), 2, long=False),
    )
    for true, found, alone in zip(both, rows, short, strict=True):
        one, other = true.texts[0].string.split(" and ")
        assert found.texts[0] == alone.texts[0]
        assert len(alone.texts) == 1
        assert found.texts[0].string in (one, other)
        first, where, there, lies = (sentence.rstrip(".") for sentence in sentences(found.texts[1].string))
        (noun, at), (rival, to) = ((" ".join(t.split()[1:3]), " ".join(t.split()[3:])) for t in (one, other))
        assert first == f"there is a {noun} and a {rival}"
        assert (where, there) == (f"the {noun} is {at}", f"the {rival} is {to}")
        down = PLACES.index(to) // 3 - PLACES.index(at) // 3
        assert lies == f"a {noun} lies {'above' if down else 'left of'} a {rival}"
    assert {sample.texts[0].string in true.texts[0].string[:24] for sample, true in zip(short, both, strict=True)} == {
        True,
        False,
    }


def test_a_long_caption_is_cut_at_the_window_and_its_sentences_are_not() -> None:
    rows = captioned(NoisyPairs(40), 2, long=True)
    recipe = for_noisy_pairs(CLIP.tiny()).prepare(rows)
    captions = [sample.texts[1].string for sample in rows]
    assert recipe.words().encode(captions, recipe.text_length).truncated == len(captions)
    every = [sentence for caption in captions for sentence in sentences(caption)]
    assert recipe.words().encode(every, recipe.text_length).truncated == 0
