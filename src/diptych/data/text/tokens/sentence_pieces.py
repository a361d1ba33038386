"""A unigram model of SentencePiece (`spiece.model`) as a tokenizer of the library `tokenizers`, without SentencePiece itself.

The file is a protocol buffer; of it the pieces with their scores and kinds, the kind of model, and the normaliser are read
(sentencepiece_model.proto of google/sentencepiece). Only unigram models are: SigLIP's and T5's.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from diptych.core.disk.protobuf import fields
from diptych.core.errors import DataError

UNIGRAM, UNKNOWN, CONTROL = 1, 2, 3
"""Kind of a model; kinds of a piece."""


def from_sentence_pieces(path: Path) -> tokenizers.Tokenizer:
    """The pieces and the normaliser of a file; special tokens and marks around a text are the caller's. Raises DataError."""
    try:
        pieces, kinds, charsmap, kind = _read(path.read_bytes())
    except (IndexError, ValueError, struct.error) as error:
        raise DataError("not a model of SentencePiece", file=path, expected="a spiece.model") from error
    if kind != UNIGRAM or not pieces:
        raise DataError(f"a SentencePiece model of kind {kind}", file=path, expected="a unigram model (kind 1)")
    unknown = kinds.index(UNKNOWN) if UNKNOWN in kinds else None
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown))
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    inner.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    inner.add_special_tokens([piece for (piece, _), kind in zip(pieces, kinds, strict=True) if kind in (UNKNOWN, CONTROL)])
    return inner


def _read(data: bytes) -> tuple[list[tuple[str, float]], list[int], bytes, int]:
    """(piece, score) of every piece, their kinds, the normaliser's table, and the kind of model."""
    pieces, kinds, charsmap, kind = list[tuple[str, float]](), list[int](), b"", UNIGRAM
    for number, value in fields(data):
        if number == 1:
            piece_fields = dict(fields(value))
            pieces.append(
                (piece_fields[1].decode("utf-8"), struct.unpack("<f", piece_fields[2])[0] if 2 in piece_fields else 0.0)
            )
            kinds.append(int(piece_fields.get(3, 1)))
        elif number == 2:
            kind = int(dict(fields(value)).get(3, UNIGRAM))
        elif number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    return pieces, kinds, charsmap, kind
