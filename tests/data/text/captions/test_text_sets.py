"""K sub-captions an image: drawn fairly, the last one too, in one batch whose rows belong together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import pair_batch
from diptych.data.media.transforms import Preprocess
from diptych.data.text.captions.text_sets import sample_indices, sub_captions, text_set_batch, texts_of_draw
from diptych.data.text.tokenize import Tokenizer

WORDS = Tokenizer.train(["a red bus near one tree two dogs three cats sleep today"] * 2, 300)


def draw(number: int, *texts: Text, seed: int = 0) -> Draw:
    image_HWC = np.full((20, 24, 3), number, np.uint8)
    return Draw(Sample(uid=f"s{number}", texts=texts), keyed_rng(seed, number), image_HWC)


def captions(*strings: str) -> tuple[Text, ...]:
    return tuple(Text(string, "en") for string in strings)


def test_drawing_is_uniform_over_ordered_choices_and_reaches_the_last() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(tuple(sample_indices(rng, 4, 2)) for _ in range(12_000))
    assert set(counts) == set(permutations(range(4), 2))
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5


def test_fewer_than_asked_come_once_each_and_then_again() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        places = sample_indices(rng, 3, 7)
        assert sorted(places[:3]) == [0, 1, 2]
        assert set(places) == {0, 1, 2}
    assert {sample_indices(rng, 3, 4)[3] for _ in range(50)} == {0, 1, 2}


def test_sub_captions_are_the_different_sentences_in_order() -> None:
    texts = captions("a red bus", "A red bus. It is new! It is new. Near a tree.", '"it is new"')
    assert sub_captions(texts) == ["a red bus", "It is new!", "Near a tree."]
    assert sub_captions(texts[1:2], merged=3) == ["A red bus. It is new! It is new.", "Near a tree."]
    with pytest.raises(ConfigError, match="merged is 0"):
        sub_captions(texts, 0)


def test_numbers_tell_equal_texts_and_only_those() -> None:
    for seed in range(30):
        own, ids = texts_of_draw(draw(1, *captions("one. two"), seed=seed), 5)
        assert all((own[i] == own[j]) == (ids[i] == ids[j]) for i in range(5) for j in range(5))


def test_the_first_text_is_kept_whole_and_not_drawn_again() -> None:
    texts = (*captions("one. two. three"), Text("near a tree. today", "en", "alt"))
    for seed in range(20):
        own, ids = texts_of_draw(draw(1, *texts, seed=seed), 3, keep_first=True)
        assert own[0] == "near a tree. today"
        assert len(set(own)) == len(set(ids)) == 4
    alone = texts_of_draw(draw(2, *captions("a bus")), 2, keep_first=True)
    assert alone == (["a bus"] * 3, [0] * 3)


def test_negatives_and_other_languages_are_never_drawn() -> None:
    texts = (Text("a bus", "en"), Text("ein Bus", "de"), Text("a tram", "en", "negative"))
    assert set(texts_of_draw(draw(1, *texts), 6, language="en")[0]) == {"a bus"}
    with pytest.raises(DataError, match="sample 's1' has no text in language 'fr'"):
        texts_of_draw(draw(1, *texts), 6, language="fr")
    assert texts_of_draw(draw(1, *captions("😀")), 1)[0] == ["😀"]


def made(draws: list[Draw], count: int, **options: object) -> object:
    return text_set_batch(
        Draws(tuple(draws), np.random.default_rng(0)),
        count=count, preprocess=Preprocess(16), tokenizer=WORDS, text_length=8, **options,
    )  # fmt: skip


def test_texts_stay_with_their_image() -> None:
    """Rows are images: text k of image i is at [i, k]. Stacking by text and viewing by image would mix them up."""
    own = {i: [f"{word} {noun}" for word in ("one", "two", "three")] for i, noun in enumerate(("bus", "tree"))}
    batch = made([draw(i, *captions(*strings)) for i, strings in own.items()], 3)
    assert batch.text_BKL.shape == (2, 3, 8)
    for i, strings in own.items():
        assert {WORDS.decode(row.tolist()) for row in batch.text_BKL[i]} == set(strings)
        assert (batch.image_BCHW[i] == batch.image_BCHW[i, :, :1, :1]).all()
    half = batch.rows(1, 2)
    assert torch.equal(half.text_BKL[0], batch.text_BKL[1])
    assert half.text_id_BK.shape == (1, 3)


def test_one_text_of_one_sentence_is_the_batch_of_pairs() -> None:
    def draws() -> Draws:
        rows = [draw(i, *captions("a red bus", "one tree", "two dogs", "cats sleep")) for i in range(6)]
        noisy = [
            replace(d, image_HWC=np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8)) for i, d in enumerate(rows)
        ]
        return Draws(tuple(noisy), np.random.default_rng(0))

    options = {"preprocess": Preprocess(16), "tokenizer": WORDS, "text_length": 8, "flip": True}
    sets, pairs = text_set_batch(draws(), count=1, **options), pair_batch(draws(), **options)
    assert torch.equal(sets.text_BKL[:, 0], pairs.text_BL)
    assert torch.equal(sets.text_mask_BKL[:, 0], pairs.text_mask_BL)
    assert torch.equal(sets.image_BCHW, pairs.image_BCHW)
    assert torch.equal(sets.group_B, pairs.group_B)
    assert sets.truncated == pairs.truncated


def test_texts_cut_at_stops_are_those_of_the_released_code() -> None:
    """Written out as DreamLIP's `CsvDataset` does it, but that the last piece may be drawn too."""
    raw = Text("A bus. Seen from e.g. a car", origin="alt")
    long = captions("It is red. It is 2.5 m high.\nIt is red", "New</s> old .. ")
    pieces = ["It is red", "It is 2", "5 m high", "It is red", "New", "old"]
    for merged in (1, 2):
        joined = [". ".join(pieces[at : at + merged]) for at in range(len(pieces) - merged + 1)]
        seen = Counter[str]()
        for seed in range(200):
            chosen, numbers = texts_of_draw(draw(0, raw, *long, seed=seed), 4, merged=merged, keep_first=True, cut="stops")
            assert chosen[0] == raw.string
            assert not Counter(chosen[1:]) - Counter(joined), "none more often than it is there"
            assert [chosen.index(text) for text in chosen] == [numbers.index(n) for n in numbers]
            seen.update(chosen[1:])
        assert set(seen) == set(joined)
    few = [
        texts_of_draw(draw(0, raw, *captions("One. Two"), seed=seed), 3, keep_first=True, cut="stops")[0][1:]
        for seed in range(40)
    ]
    assert any(len(set(texts)) == 1 for texts in few), "with repetition"
    alone, _ = texts_of_draw(draw(0, raw), 2, keep_first=True, cut="stops")
    assert set(alone[1:]) <= {"A bus", "Seen from e", "g", "a car"}, "the only text, where there is no other"
