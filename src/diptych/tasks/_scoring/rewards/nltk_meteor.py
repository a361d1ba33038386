"""METEOR as NLTK computes it, with the synonyms of a WordNet that the user has: the metric that RL4LMs rewards and reports.

Beside `meteor` it keeps punctuation as words (NLTK's tokenizer), stems by NLTK's extension of Porter's rules, and matches words of one
WordNet synset. No package brings WordNet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from diptych.core.errors import ConfigError, MissingExtra


@lru_cache(maxsize=2)
def nltk_meteor(folder: str) -> Callable[[str, Sequence[str]], float]:
    """Score of an answer: the best METEOR over its references, 0 to 1.

    folder  NLTK's data, with corpora/wordnet in it. Raises ConfigError where it is missing or damaged.
    """
    try:
        import nltk.data
        from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.translate.meteor_score import meteor_score
    except ImportError:
        raise MissingExtra("rouge-score", "rl", needed_for="METEOR with WordNet") from None
    root = Path(folder).expanduser().absolute()
    if not (root / "corpora" / "wordnet").is_dir():
        raise ConfigError(f"{root} has no folder corpora/wordnet (expected a folder of NLTK's data, such as ~/nltk_data)")
    if str(root) not in nltk.data.path:
        nltk.data.path.insert(0, str(root))  # NLTK opens only files below these
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader warns that it has no WordNet of other languages
            wordnet = WordNetCorpusReader(str(root / "corpora" / "wordnet"), None)
    except (OSError, ValueError, AssertionError, LookupError, WordNetError) as error:
        raise ConfigError(f"{root}/corpora/wordnet is damaged: {error} (expected the files of WordNet 3.0)") from error
    words = NLTKWordTokenizer().tokenize

    def score(answer: str, references: Sequence[str]) -> float:
        return float(meteor_score([words(one) for one in references], words(answer), wordnet=wordnet))

    return score
