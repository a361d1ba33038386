"""Spans that survive every change of a text, against a text whose characters each carry their owners."""

from __future__ import annotations

import random

import numpy as np
import pytest

from diptych.core.errors import DataError, ShapeError
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.spans import SpanText, find, from_json, occurrences, tokens_of

Owned = list[tuple[str, frozenset[tuple[int, int]]]]
"""Characters, each with the (entity, number of the span) that it belongs to."""
WORDS = ("red", "cup", "a cup", "plate", "İstanbul", "straße", "日本", "left of", "e\u0301clair", "🦊 fox", "x", "x x")


def _owned(text: SpanText, number: int) -> tuple[Owned, int]:
    owners: list[set[tuple[int, int]]] = [set() for _ in text.text]
    for entity, spans in text.spans.items():
        for start, stop in spans:
            for place in range(start, stop):
                owners[place].add((int(entity), number))
            number += 1
    return [(letter, frozenset(owner)) for letter, owner in zip(text.text, owners, strict=True)], number


def _read_back(owned: Owned, expected: dict[tuple[int, int], int]) -> dict[int, set[tuple[int, int]]]:
    """Entity -> spans of the marks all of whose characters are still there."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, (_, owners) in enumerate(owned):
        for owner in owners:
            places.setdefault(owner, []).append(place)
    spans: dict[int, set[tuple[int, int]]] = {}
    for owner, here in places.items():
        if len(here) == expected[owner]:
            spans.setdefault(owner[0], set()).add((here[0], here[-1] + 1))
    return spans


def test_ten_thousand_random_builds_keep_every_span_on_its_text() -> None:
    """Pieces are marked, shuffled, dropped, joined, cut and split; a text of owned characters goes the same way."""
    rng = random.Random(0)
    spans_seen = 0
    for _ in range(10_000):
        pieces, owned, lengths, number = [], [], {}, 0
        for _ in range(rng.randint(1, 5)):
            text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
            piece = SpanText(text)
            for _ in range(rng.randint(0, 2)):
                start = rng.randrange(len(text))
                piece = piece.also(rng.randint(0, 2), (start, rng.randint(start + 1, len(text))))
            mine, after = _owned(piece, number)
            for owner in {owner for _, owners in mine for owner in owners}:
                lengths[owner] = sum(owner in owners for _, owners in mine)
            number = after
            pieces.append(piece)
            owned.append(mine)
        order = rng.sample(range(len(pieces)), rng.randint(1, len(pieces)))
        separator = rng.choice(["", " ", ". "])
        made = SpanText.joined((pieces[place] for place in order), separator)
        whole: Owned = []
        for turn, place in enumerate(order):
            whole += [(letter, frozenset()) for letter in separator] if turn else []
            whole += owned[place]
        start = rng.randrange(len(whole))
        stop = rng.randint(start, len(whole))
        cut, kept = made.cut(start, stop), whole[start:stop]
        for text, letters in ((made, whole), (cut, kept)):
            assert text.text == "".join(letter for letter, _ in letters)
            assert {entity: set(spans) for entity, spans in text.spans.items()} == _read_back(letters, lengths)
            for entity, spans in text.spans.items():
                assert text.words(entity) == [text.text[a:b] for a, b in spans]
                spans_seen += len(spans)
    assert spans_seen > 20_000


def test_pieces_cover_the_text_and_drop_spans_that_cross_an_end() -> None:
    text = SpanText.from_phrases("a red cup. a box on it. ", {0: "red cup", 1: "box"}).also(2, (6, 12))
    one, two = text.pieces([10])
    assert (one.text, one.spans) == ("a red cup.", {0: ((2, 9),)})
    assert (two.text, two.spans) == (" a box on it. ", {1: ((3, 6),)})


def test_entities_are_chosen_renamed_and_merged() -> None:
    text = SpanText("a red cup here", {"a": ((0, 1), (2, 5)), "b": ((6, 9),)})
    assert text.merged().spans["a"] == ((0, 5),)
    assert text.merged(gap=0).spans["a"] == ((0, 1), (2, 5))
    assert text.renamed({"b": "a"}).merged().spans == {"a": ((0, 9),)}
    assert text.only(["b"]).spans == {"b": ((6, 9),)}


def test_a_phrase_is_found_as_whole_words_and_never_silently_the_first_of_two() -> None:
    assert find("A Cup and cupboards", "cup") == (2, 5)
    assert list(occurrences("x x x", "x x")) == [(0, 3), (2, 5)]
    with pytest.raises(DataError, match="occurs 2 times"):
        find("a cup by a cup", "cup")
    assert find("a cup by a cup", "cup", occurrence=1) == (11, 14)
    with pytest.raises(DataError, match="does not occur in"):
        find("a cup", "plate")
    with pytest.raises(DataError, match="empty phrase"):
        find("a cup", " ")
    with pytest.raises(DataError, match=r"0 to 0"):
        find("a cup", "cup", occurrence=3)


@pytest.mark.parametrize("span", [(3, 3), (-1, 2), (0, 6)])
def test_a_span_outside_its_text_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="0 <= start < stop <= 5"):
        SpanText("a cup", {"cup": (span,)})
    with pytest.raises(DataError, match="annotation 7"):
        from_json([list(span)], "a cup", "annotation 7")


@pytest.mark.parametrize("value", [[], None, [[1]], [["a", 2]], [[True, 2]], 3])
def test_spans_of_a_file_are_checked(value: object) -> None:
    with pytest.raises(DataError, match="tokens_positive"):
        from_json(value, "a cup", "annotation 7")


def test_an_entity_without_a_span_is_named() -> None:
    with pytest.raises(DataError, match="'box' has no span"):
        SpanText.whole("cup", "cup").words("box")


# ---------------------------------------------------------------- tokens


def _learned() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS), "a red cup left of a plate"] * 3, 300)


@pytest.mark.parametrize("spec", ["clip", "learned"])
def test_tokens_of_an_entity_spell_it(spec: str) -> None:
    """Over random joins, the tokens of each span decode to the words of that span and to nothing else."""
    words = Tokenizer.from_spec("clip") if spec == "clip" else _learned()
    known = [word for word in WORDS if spec != "clip" or "\u0301" not in word]  # CLIP's cleaning composes letters
    rng = random.Random(1)
    for _ in range(200):
        pieces = [SpanText.whole(rng.choice(known), number) for number in range(rng.randint(1, 4))]
        text = SpanText.joined(pieces, rng.choice([" ", ". ", ", "]))
        ids_L = words.encode([text.text], 64).ids_BL[0]
        for entity, inside_L in text.tokens(words.offsets(text.text, 64)).items():
            spelt = words.decode(ids_L[inside_L].tolist())
            plain = text.words(entity)[0]
            assert _bare(spelt) == _bare(plain), (text, entity)


def _bare(text: str) -> str:
    import unicodedata

    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def test_offsets_are_those_of_transformers() -> None:
    """The same file in transformers' fast tokenizer gives the same characters, but for the blanks that it counts in."""
    transformers = pytest.importorskip("transformers")
    words = _learned()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_spec(words.to_json()).inner)
    for text in ("a red cup left of a plate", "straße  İstanbul"):
        pairs = fast(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        stripped = [text[a:b].strip() for a, b in pairs]
        offset_L2 = words.offsets(text, 64)
        mine = [text[a:b] for a, b in offset_L2 if b > a]
        assert mine == [word for word in stripped if word]


def test_marks_padding_and_cut_tokens_belong_to_nothing() -> None:
    words = Tokenizer.from_spec("clip")
    text = SpanText.from_phrases("a red bus and a tree", {"bus": "red bus", "tree": "tree"})
    rows = text.tokens(words.offsets(text.text, 6))  # four tokens beside the marks
    assert rows["bus"].tolist() == [False, False, True, True, False, False]
    assert not rows["tree"].any()
    assert not tokens_of([(0, 5)], np.zeros((4, 2), np.int64)).any()
    with pytest.raises(ShapeError, match="L, 2"):
        tokens_of([(0, 1)], np.zeros(4, np.int64))


def test_offsets_on_the_left_stand_where_the_ids_stand() -> None:
    right = Tokenizer.from_spec("clip")
    left = Tokenizer(right.inner, pad_id=0, prefix=(49406,), suffix=(49407,), clean="clip", side="left")
    ids_L = left.encode(["a red bus"], 8).ids_BL[0]
    (inside_L,) = SpanText.from_phrases("a red bus", {0: "bus"}).tokens(left.offsets("a red bus", 8)).values()
    assert right.decode(ids_L[inside_L].tolist()) == "bus"


def test_a_text_that_cleaning_rewrites_has_no_offsets() -> None:
    words = Tokenizer.from_spec("clip")
    with pytest.raises(DataError, match="the positions of its words are lost"):
        words.offsets("fish &amp; chips", 16)
    siglip = Tokenizer(words.inner, pad_id=0, prefix=(49406,), suffix=(49407,), clean="siglip")
    text = SpanText.from_phrases("A red bus, and (maybe) a tree.", {0: "maybe", 1: "tree"})
    rows = text.tokens(siglip.offsets(text.text, 16))
    ids_L = siglip.encode([text.text], 16).ids_BL[0]
    assert [words.decode(ids_L[row].tolist()) for row in rows.values()] == ["maybe", "tree"]
