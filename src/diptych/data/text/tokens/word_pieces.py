"""WordPiece vocabularies learned from a corpus, as BERT and its domain versions (PubMedBERT; Gu et al., 2021) have them."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first ids of a learned vocabulary."""


def train_word_pieces(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
    """WordPiece tokenizer of these texts: lower case without accents, split at blanks and punctuation, "##" inside words.

    texts       in any order, which does not matter
    vocab_size  at most this many pieces, the five special ones and every character of the corpus included
    A word with a character that the corpus does not have becomes "[UNK]", as in BERT. Raises ConfigError and DataError.

    >>> words = train_word_pieces(["gastric ulcer", "gastric cancer", "ulcer"], 60)
    >>> words.decode(words.encode(["Gastric cancer"], 24).ids_BL[0])
    'gastric cancer'
    """
    if vocab_size <= len(SPECIAL):
        raise ConfigError(f"vocab_size is {vocab_size} (expected more than the {len(SPECIAL)} special pieces)")
    corpus = sorted(texts)
    if not any(text.strip() for text in corpus):
        raise DataError("no text to learn a vocabulary from", field="texts", expected="at least one text")
    inner = _bert(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the "##" letters in the order of a hash table and breaks ties by number: numbered here, it repeats itself.
    reserved = [*SPECIAL, *(f"##{letter}" for letter in _inner_letters(inner, corpus))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=reserved, show_progress=False
    )
    inner.train_from_iterator(corpus, trainer)
    learned = _bert(models.WordPiece(inner.get_vocab(), unk_token="[UNK]"))
    learned.add_special_tokens(list(SPECIAL))
    return Tokenizer(learned, pad_id=0, prefix=(SPECIAL.index("[CLS]"),), suffix=(SPECIAL.index("[SEP]"),), literal=True)


def _bert(model: models.WordPiece) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def _inner_letters(inner: tokenizers.Tokenizer, corpus: list[str]) -> list[str]:
    """Characters that follow another one in a word, in order."""
    strings = {string for text in corpus for string in text.split()}
    pieces = (
        piece for string in strings for piece, _ in inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(string))
    )
    return sorted({letter for piece in pieces for letter in piece[1:]})
