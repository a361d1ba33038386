"""Penn Treebank's words: NLTK's answers on made-up sentences with every odd sign, and what ARO does with them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from diptych.data.text.english.tagger import tag
from diptych.data.text.english.treebank import _cut, treebank_words
from diptych.tasks.composition.order_options import OrderOptions

RELEASED = json.loads((Path(__file__).parent / "treebank_released.json").read_text(encoding="utf8"))


def test_sentences_are_cut_as_nltk_cuts_them(parity: Any) -> None:
    found = [[_cut(sentence) == words for sentence, words in RELEASED], [True] * len(RELEASED)]
    parity("negclip", "words of the treebank, as equal or not", "NLTK 3.8.1, NLTKWordTokenizer", [tuple(found)], tolerance=0)
    assert len(RELEASED) == 100


def test_sentences_end_at_stops() -> None:
    assert treebank_words("A dog. It barks! (Why?) 2 cats") == [
        "A",
        "dog",
        ".",
        "It",
        "barks",
        "!",
        "(",
        "Why",
        "?",
        ")",
        "2",
        "cats",
    ]
    assert treebank_words("a dog. it barks.") == ["a", "dog", ".", "it", "barks", "."]
    assert treebank_words("Mr. Fox sees J. Doe ... again") == ["Mr.", "Fox", "sees", "J.", "Doe", "...", "again"]
    assert treebank_words('a "cat." and (a dog!) sit') == ["a", "``", "cat", ".", "''", "and", "(", "a", "dog", "!", ")", "sit"]
    assert treebank_words("") == []
    # NLTK's answers with its English sentences.
    for text, words in {
        "the corner of 8th ave. and 22 st.": "the corner of 8th ave. and 22 st .",
        "a fire hydrant I. The street": "a fire hydrant I . The street",
        "No. 7 bus. It stops": "No . 7 bus . It stops",
        "eat fruit (e.g. apples). good": "eat fruit ( e.g . apples ) . good",
        "Dec. 5 game.": "Dec. 5 game .",
        "Washington D.C. is big.": "Washington D.C. is big .",
    }.items():
        assert treebank_words(text) == words.split(), text


def test_threes_of_aro_come_from_these_words_where_it_is_asked() -> None:
    caption = "a well-known man's dog isn't on a big red mat"
    options = {
        form: OrderOptions(tag, normalise=False, trigrams=form).aro("u", "g", 0, caption).options
        for form in ("tagger", "treebank")
    }
    assert options["tagger"][:3] == options["treebank"][:3]
    for text in options["treebank"][3:]:
        assert Counter(text.split()) == Counter(treebank_words(caption))
        assert "well-known" in text.split()
    threes = options["treebank"][4].split()
    own = treebank_words(caption)
    assert len(own) == 12
    assert {tuple(threes[i : i + 3]) for i in range(0, 12, 3)} == {tuple(own[i : i + 3]) for i in range(0, 12, 3)}
