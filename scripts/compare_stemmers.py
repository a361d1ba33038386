"""Words of CLIP's vocabulary that the built-in stemmer and an installed library stem differently (docs/decisions/0017).

python scripts/compare_stemmers.py [--words]     needs nltk or snowballstemmer; --words lists every word that differs
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from diptych.data.text.tokenize import Tokenizer
from diptych.tasks._scoring.captions.stemming import stem

END = "</w>"
"""What a piece that ends a word has behind it."""
SHOWN = 8


def vocabulary_words() -> list[str]:
    """Pieces of CLIP's vocabulary that end a word and have small letters a to z and apostrophes alone, sorted."""
    pieces = (piece.removesuffix(END) for piece in Tokenizer.from_spec("clip").inner.get_vocab() if piece.endswith(END))
    return sorted({piece for piece in pieces if piece.isascii() and piece.islower() and piece.replace("'", "").isalpha()})


def libraries() -> dict[str, Callable[[str], str]]:
    """English Snowball stemmers that are installed, by name and version."""
    made: dict[str, Callable[[str], str]] = {}
    if find_spec("nltk"):
        made[f"nltk {version('nltk')}"] = import_module("nltk.stem.snowball").EnglishStemmer().stem
    if find_spec("snowballstemmer"):
        stemmer = import_module("snowballstemmer").stemmer("english")
        made[f"snowballstemmer {version('snowballstemmer')}"] = stemmer.stemWord
    return made


def main() -> int:
    words, compared = vocabulary_words(), libraries()
    if not compared:
        print("neither nltk nor snowballstemmer is installed (expected pip install nltk snowballstemmer)", file=sys.stderr)
        return 1
    for name, theirs in compared.items():
        rows = [(word, stem(word), other) for word in words if (other := theirs(word)) != stem(word)]
        print(f"{name}: {len(rows):,} of {len(words):,} words have another stem")
        for word, ours, other in rows[: None if "--words" in sys.argv else SHOWN]:
            print(f"  {word}: ours {ours}, there {other}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
