"""A spiece.model is read without SentencePiece, and cuts a text into the likeliest pieces."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from sentence_piece_files import write_sentence_pieces

from diptych.core.errors import DataError
from diptych.data.text.tokens.sentence_pieces import from_sentence_pieces
from diptych.models.io.foreign.tokenizer import from_transformers

PIECES = [
    ("<pad>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<unk>", 0.0, 2),
    ("▁a", -1.5, 1),
    ("▁", -3.0, 1),
    ("re", -2.0, 1),
    ("red", -2.2, 1),
]
PIECES += [(letter, -4.0 - n / 10, 1) for n, letter in enumerate("abdersu")] + [("▁bus", -2.5, 1), ("bu", -3.0, 1)]


def write(path: Path, kind: int = 1) -> Path:
    return write_sentence_pieces(path, PIECES, kind)


def likeliest(text: str) -> list[int]:
    """The best way to cut a text, by trying all of them."""
    known = {piece: (score, number) for number, (piece, score, which) in enumerate(PIECES) if which == 1}
    best: tuple[float, list[int]] = (float("-inf"), [])
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, len(text)), n) for n in range(len(text))):
        parts = [text[a:b] for a, b in itertools.pairwise((0, *cuts, len(text)))]
        if all(part in known for part in parts):
            best = max(best, (sum(known[part][0] for part in parts), [known[part][1] for part in parts]))
    return best[1]


def test_pieces_are_those_of_the_likeliest_cut(tmp_path: Path) -> None:
    inner = from_sentence_pieces(write(tmp_path / "spiece.model"))
    for text in ("a red bus", "a bus", "red", "  a   red ", "sued"):
        expected = [number for word in text.split() for number in likeliest("▁" + word)]
        assert inner.encode(text, add_special_tokens=False).ids == expected


def test_siglips_folder_opens_by_it(tmp_path: Path) -> None:
    write(tmp_path / "spiece.model")
    settings = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    words = from_transformers(tmp_path)
    encoded = words.encode(["A Red, bus!"], 8)
    ids = [*likeliest("▁a"), *likeliest("▁red"), *likeliest("▁bus"), 1]
    assert encoded.ids_BL[0].tolist() == ids + [1] * (8 - len(ids))
    assert encoded.mask_BL.sum() == len(ids)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind 2"):
        from_sentence_pieces(write(tmp_path / "bpe.model", kind=2))
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(DataError, match="not a model of SentencePiece"):
        from_sentence_pieces(tmp_path / "text.model")
