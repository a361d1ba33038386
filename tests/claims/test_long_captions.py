"""Long captions of the claims about DreamLIP are true and do not fit into the window."""

from __future__ import annotations

from pathlib import Path

from diptych.claims.cell import Cell
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.systems.dreamlip import CaptionedImages
from diptych.data.dataset import Pool
from diptych.data.text.captions.sentences import sentences
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.small_pairs import PLACES, SmallPairs


def rows_of(*, long: bool) -> Pool:
    return CaptionedImages(SmallPairs(40), long)(Cell("arm", 2, Path("nowhere")))


def test_a_long_caption_says_in_sentences_what_the_short_text_says_half_of() -> None:
    both, rows, short = (
        SmallPairs(40).pool("train", 2),
        rows_of(long=True),
        rows_of(long=False),
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
    rows = rows_of(long=True)
    recipe = sized_for(CLIP.tiny()).prepare(rows)
    captions = [sample.texts[1].string for sample in rows]
    assert recipe.words().encode(captions, recipe.text_length).truncated == len(captions)
    every = [sentence for caption in captions for sentence in sentences(caption)]
    assert recipe.words().encode(every, recipe.text_length).truncated == 0
