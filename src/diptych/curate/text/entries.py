"""Entries of MetaCLIP's metadata: WordNet's names, and words, pairs and titles of a corpus.

Published: all WordNet synset names (some 86,600), English Wikipedia's words that occur 100 times or more (251,465), word pairs by
pointwise mutual information (100,646), article titles with 70 views or more (61,235), and "0".."99": 500,000 in all.

    PMI(a, b) = log2( n(a b) N / (n(a) n(b)) ),   N words in the corpus

What goes wrong: PMI is at most log2 N, so the published cut of 30 cannot be reached with fewer than 2^30 words (1.07 billion). A
cut that the corpus cannot reach raises an error; take the `top` pairs instead. Also, a list built from a set changes its order
between runs: here it is sorted, and its hash is recorded in everything built from it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import ConfigError, DataError
from diptych.data.columns import read_parquet, write_parquet

WORDS = re.compile(r"\w+(?:['\u2019]\w+)*")
WORDNET = Path("/usr/share/wordnet")
"""Where Debian's package wordnet-base puts the dictionary."""
PARTS = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True)
class Entries:
    """names    sorted and unique; names without a letter or digit are left out
    sources  source of each entry: "wordnet", "word", "pair", "title", "number", "given"; several are joined by +
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]

    @classmethod
    def of(cls, by_source: Mapping[str, Iterable[str]]) -> Entries:
        """
        >>> Entries.of({"word": ["b", "a", "--"], "given": ["a"]})
        Entries(names=('a', 'b'), sources=('given+word', 'word'))
        """
        sources_of: dict[str, set[str]] = {}
        for source, names in by_source.items():
            for name in names:
                name = " ".join(name.split())
                if any(character.isalnum() for character in name):
                    sources_of.setdefault(name, set()).add(source)
        names = tuple(sorted(sources_of))
        return cls(names, tuple("+".join(sorted(sources_of[name])) for name in names))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.names)

    def table(self) -> pa.Table:
        return pa.table({"entry": pa.array(self.names, pa.string()), "source": pa.array(self.sources, pa.string())})

    def save(self, path: Path) -> None:
        write_parquet(path, self.table())

    @classmethod
    def load(cls, path: Path) -> Entries:
        """Entries of a Parquet file with a column "entry", a text file with an entry a line, or the published metadata.json: a
        list of strings, of which nothing but empty ones is left out."""
        if not path.is_file():
            raise DataError(
                "does not exist", file=path, expected="a list of entries: Parquet with a column 'entry', JSON, or lines of text"
            )
        if path.suffix == ".json":
            return cls._published(path)
        if path.suffix != ".parquet":
            try:
                return cls.of({"given": path.read_text(encoding="utf-8").splitlines()})
            except UnicodeDecodeError as error:
                raise DataError(
                    f"is not UTF-8 at byte {error.start:,}", file=path, expected="an entry a line, in UTF-8"
                ) from error
        table = read_parquet(path)
        if "entry" not in table.column_names:
            raise DataError("has no column 'entry'", file=path, expected=f"'entry' among {', '.join(table.column_names)}")
        by_source: dict[str, list[str]] = {}
        sources = table["source"].to_pylist() if "source" in table.column_names else ["given"] * table.num_rows
        for name, source in zip(table["entry"].to_pylist(), sources, strict=True):
            for one in source.split("+"):
                by_source.setdefault(one, []).append(name)
        return cls.of(by_source)

    @classmethod
    def _published(cls, path: Path) -> Entries:
        try:
            given = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"is not valid JSON: {error}", file=path, expected="a list of strings") from error
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise DataError("is not a list of strings", file=path, expected="a list of strings, as MetaCLIP's metadata.json")
        names = tuple(sorted({name for name in given if name.strip()}))
        return cls(names, ("given",) * len(names))


def wordnet(folder: Path = WORDNET, *, lower: bool = False, cut: bool = False) -> list[str]:
    """Names of all WordNet synsets, in file order: the first lemma, underscores as spaces, without the adjective position marker.

    lower  as the published list has them; "eiffel tower" then never matches where case counts. (WordNet 3.0: 86,571 lower, 87,379
           not)
    cut    names are cut at their first full stop, as in the published list, whose code splits off the part of speech there: "u.s.
           army" becomes "u"
    """
    if not (folder / "data.noun").is_file():
        expected = "data.noun, data.verb, data.adj, data.adv, as Debian's package wordnet-base has them"
        raise DataError("contains no WordNet", file=folder, expected=expected)
    names = []
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):  # the licence
                word = line.split(" ", 5)[4]
                names.append(re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " "))
    names = [name.lower() for name in names] if lower else names
    return [head for name in names if (head := name.partition(".")[0])] if cut else names


def words_of_corpus(documents: Iterable[str]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Counts words and adjacent word pairs, case-sensitively. Pairs do not span punctuation."""
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for text in documents:
        spans = [(match[0], match.start(), match.end()) for match in WORDS.finditer(text)]
        words.update(word for word, _, _ in spans)
        pairs.update(
            (one, other) for (one, _, end), (other, start, _) in pairwise(spans) if not text[end:start].strip() and start > end
        )
    return words, pairs


def frequent(words: Counter[str], minimum: int = 100) -> list[str]:
    """Words with at least `minimum` occurrences, sorted. Published: 100."""
    return sorted(word for word, count in words.items() if count >= minimum)


def pmi_pairs(
    words: Counter[str], pairs: Counter[tuple[str, str]], *, cut: float = 0.0, top: int = 0, minimum: int = 5
) -> list[tuple[str, float]]:
    """Word pairs by pointwise mutual information (PMI), the highest first.

    cut      minimum PMI in bits; 0 for no minimum. A value above log2 N raises an error
    top      number of highest-scoring pairs to return; 0 returns all
    minimum  minimum count of a pair: rarer ones are noise, since PMI is highest for pairs that occur once
    """
    total = words.total()
    reach = math.log2(total) if total else 0.0
    if cut > reach:
        raise ConfigError(
            f"PMI of {cut:g} bits cannot be reached by a corpus of {total:,} words (expected at most log2 N = {reach:.1f}; "
            "or take the highest ones: bigrams=N)"
        )
    scored = []
    for (one, other), count in pairs.items():
        if count >= minimum:
            bits = math.log2(count * total / (words[one] * words[other]))
            if not cut or bits >= cut:
                scored.append((f"{one} {other}", bits))
    scored.sort(key=lambda pair: (-pair[1], pair[0]))
    return scored[:top] if top else scored


def viewed_titles(titles: Iterable[tuple[str, int]], minimum: int = 70) -> list[str]:
    """Titles with enough page views, excluding other namespaces ("Talk:..."). Published: 70 over 26 sampled days."""
    return sorted(title.replace("_", " ") for title, views in titles if views >= minimum and ":" not in title)


def page_views(path: Path, *, least: int = 50) -> Counter[str]:
    """Page views by title, summed over a file or over all files of a folder; `.gz` files are decompressed.

    A line is `title <tab> views`, or one of Wikimedia's hourly dumps: `domain title views bytes`, of which domain "en" counts.
    Lines of a dump with fewer than `least` views are ignored, as published.
    """
    if not path.exists():
        raise DataError("does not exist", file=path, expected="page views: lines of title, tab, views, or Wikimedia's dumps")
    views: Counter[str] = Counter()
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            for row, raw in enumerate(lines, 1):
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                if "\t" in line:
                    title, _, count = line.rpartition("\t")
                    domain, dumped = "en", False
                else:
                    fields = line.split(" ")
                    if len(fields) != 4:
                        continue  # dumps contain lines with empty titles
                    domain, title, count, _ = fields
                    dumped = True
                if not count.isdigit():
                    raise DataError(f"views are {count!r}", file=file, row=row, expected="title, tab, a whole number")
                if domain == "en" and int(count) >= (least if dumped else 1):
                    views[title.replace("_", " ")] += int(count)
    if not views:
        raise DataError("contains none of the titles", file=path, expected="lines of title, tab, views, or Wikimedia's dumps")
    return views


NUMBERS = tuple(str(number) for number in range(100))
