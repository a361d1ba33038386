"""Which pieces begin a word, what they are called, and which of them say nothing, under all three spellings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Inner
from tokenizers import models, normalizers, pre_tokenizers, processors

from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.masked_words import mask_words
from diptych.data.text.tokens.whole_words import (
    empty_text_reasons,
    fragment_mask,
    hash_starts,
    spelling,
    term_names,
    unknown_share,
    word_starts,
)

TEXT = "two buses, red-ish stops!"


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return Tokenizer.train(["a red bus stops", "two buses, red trees!", "the stop of the bus"] * 3, 320)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """BERT's form."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "two",
        "bus",
        "##es",
        ",",
        "red",
        "-",
        "##ish",
        "is",
        "##h",
        "stop",
        "##s",
        "!",
    ]
    inner = Inner(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    inner.add_special_tokens(words[:5])
    folder = tmp_path_factory.mktemp("pieces")
    inner.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_spec(str(folder))


def begun(tokenizer: Tokenizer, text: str) -> list[tuple[str, bool]]:
    encoded = tokenizer.encode([text], 24)
    real = encoded.mask_BL[0]
    starts = word_starts(tokenizer, encoded.ids_BL)[0][real]
    return [(term_names(tokenizer)[number], bool(start)) for number, start in zip(encoded.ids_BL[0][real], starts, strict=True)]


def test_word_pieces(pieces: Tokenizer) -> None:
    assert spelling(pieces) == "pieces"
    found = begun(pieces, TEXT)
    assert found[1:-1] == [
        ("two", True),
        ("bus", True),
        ("##es", False),
        (",", True),
        ("red", True),
        ("-", True),
        ("is", True),
        ("##h", False),
        ("stop", True),
        ("##s", False),
        ("!", True),
    ]


def test_byte_pairs_with_a_sign_for_the_space(learned: Tokenizer) -> None:
    assert spelling(learned) == "space"
    found = dict(begun(learned, TEXT))
    assert found["two"]
    assert found["red"]
    assert found["##,"], "a sign is a word by itself"
    assert not found["##i"]
    assert [start for name, start in begun(learned, "dog")] == [True, True, *[False] * (len(begun(learned, "dog")) - 3), True]


def test_clips_pieces_end_their_words() -> None:
    clip = Tokenizer.from_spec("clip")
    assert spelling(clip) == "end"
    assert [name for name, start in begun(clip, TEXT)[1:-1] if start] == ["two", "buses", ",", "red", "-", "ish", "stops", "!"]
    split = begun(clip, "unbuslike")
    assert [start for _, start in split] == [True, True, *[False] * (len(split) - 3), True]
    assert all(name.endswith("##") for name, _ in split[1:-2])


@pytest.mark.parametrize("which", ["learned", "pieces", "clip"])
def test_every_name_is_its_own(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = Tokenizer.from_spec("clip") if which == "clip" else request.getfixturevalue(which)
    names = term_names(tokenizer)
    assert len(set(names)) == len(names) == tokenizer.vocab_size
    assert all(name.isprintable() for name in names)


def test_what_says_nothing(learned: Tokenizer, pieces: Tokenizer) -> None:
    assert unknown_share(learned, [TEXT], 24) == 0
    assert unknown_share(learned, ["собака"], 24) == 1
    assert unknown_share(pieces, ["собака red"], 24) == 0.5
    assert unknown_share(pieces, [""], 24) == 0
    for tokenizer in (learned, pieces):
        encoded = tokenizer.encode([TEXT, " ", "собака"], 24)
        found = empty_text_reasons(tokenizer, encoded.ids_BL, encoded.mask_BL)
        assert found == ["", "has no token", "has no word that the vocabulary knows"]
    assert not fragment_mask(learned)[[learned.pad_id, *learned.prefix, *learned.suffix]].any()


def test_words_are_hidden_with_all_their_pieces(pieces: Tokenizer) -> None:
    encoded = pieces.encode([TEXT] * 400, 16)
    ids_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
    starts_BL = torch.from_numpy(word_starts(pieces, encoded.ids_BL))
    rngs = [np.random.default_rng([0, row]) for row in range(400)]
    found = mask_words(ids_BL, mask_BL, rngs, special=[0, 2, 3], vocab_size=17, share=0.3, starts_BL=starts_BL)
    chosen = torch.zeros_like(mask_BL).scatter_(1, found.place_BM, found.word_BM >= 0)
    for first, second in ((2, 3), (7, 8), (9, 10)):  # bus ##es, is ##h, stop ##s
        assert torch.equal(chosen[:, first], chosen[:, second])
    assert int(chosen.sum(1).max()) == round(0.3 * 11), "a word that would go beyond the share is passed over"
    assert not chosen[:, 0].any()


def test_padding_can_count_as_the_released_collator_has_it() -> None:
    """Of 40 places 12 are drawn, marks aside: each real word with the same chance, so 12 of 38."""
    ids = torch.full((4000, 40), 0)
    ids[:, 0], ids[:, 1:9], ids[:, 9] = 1, torch.arange(10, 18), 2
    rngs = [np.random.default_rng([1, row]) for row in range(4000)]
    found = mask_words(ids, ids != 0, rngs, special=[0, 1, 2], vocab_size=20, share=0.3, padding_counts=True)
    asked = (found.word_BM >= 0).sum(1).double()
    assert asked.mean().item() == pytest.approx(8 * 12 / 38, rel=0.02)
    assert asked.var().item() == pytest.approx(12 * (8 / 38) * (30 / 38) * (26 / 37), rel=0.08), "hypergeometric"


@pytest.mark.parametrize("pad", ["<pad>", "[PAD]"])
def test_hidden_units_are_those_of_the_released_collator(pad: str, parity: Any) -> None:
    """`_whole_word_mask` of ARL at 527fe06 over the same order of units: "##" alone joins, and "<pad>" alone is left out."""
    tokens = ["<s>", "A", "chest", "##\u0120film", "##s", "of", "an", "##\u0120effusion", "seen", "</s>"] + [pad] * 54
    ids = torch.zeros(20, 64, dtype=torch.int64)
    ids[:, :10] = torch.arange(1, 11)
    starts = torch.tensor([not token.startswith("##") for token in tokens]).expand(20, -1)
    rngs = [np.random.default_rng([2, row]) for row in range(20)]
    found = mask_words(
        ids,
        ids != 0,
        rngs,
        special=[0, 1, 10],
        vocab_size=20,
        starts_BL=starts,
        padding_counts=True,
        padding_drawn=pad != "<pad>",
    )
    chosen = torch.zeros_like(ids).scatter_(1, found.place_BM, (found.word_BM >= 0).long())
    expected = torch.zeros_like(ids)
    for row in range(20):
        units: list[list[int]] = []
        for place, token in enumerate(tokens):
            if token in ("[CLS]", "[SEP]", "<s>", "</s>", "<pad>"):
                continue
            if units and token.startswith("##"):
                units[-1].append(place)
            else:
                units.append([place])
        taken: list[int] = []
        for at in np.random.default_rng([2, row]).permutation(len(units)):
            if len(taken) < round(64 * 0.15) and len(taken) + len(units[at]) <= round(64 * 0.15):
                taken += units[at]
        expected[row, [place for place in taken if tokens[place] != pad]] = 1
    parity(
        "arl", f"words that are asked for, padded with {pad}", "the released collator's loop", [(chosen, expected)], tolerance=0
    )
    assert (int(chosen.sum(1).min()) == 8) == (pad == "<pad>"), "all eight tokens of a short text, or a share of them"


def test_only_hashes_join_pieces_as_released(pieces: Tokenizer, learned: Tokenizer) -> None:
    for tokenizer in (pieces, learned):
        ids_BL = tokenizer.encode([TEXT], 24).ids_BL
        named = [tokenizer.inner.id_to_token(number) for number in ids_BL[0]]
        assert hash_starts(tokenizer, ids_BL)[0].tolist() == [not name.startswith("##") for name in named]
    assert not word_starts(learned, learned.encode([TEXT], 24).ids_BL).all()
