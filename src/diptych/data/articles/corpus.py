"""Texts to learn a vocabulary from: a file of lines, a MEDLINE dump, or the texts of any data."""

from __future__ import annotations

import gzip
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from diptych.core.disk.paths import is_file
from diptych.core.errors import DataError


def corpus_texts(source: str | Path) -> Iterator[str]:
    """Texts of a source, one at a time.

    source  .txt or .txt.gz (a text per line), .xml or .xml.gz of MEDLINE (titles and abstracts), or any data that `read` knows
    Raises DataError for a file that is not there, is cut short, or is not what its name says.
    """
    path = Path(source).expanduser()
    name = path.name.lower()
    if not name.endswith((".txt", ".txt.gz", ".xml", ".xml.gz")):
        from diptych.data.read import read

        pool = read(source)
        yield from (text.string for row in range(len(pool)) for text in pool[row].positives())
        return
    if not is_file(path):
        raise DataError("does not exist", file=path, expected="a text file, or MEDLINE's .xml.gz")
    try:
        with path.open("rb") as raw:
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if name.endswith(".gz") else raw
            yield from _medline(file) if ".xml" in name else _lines(file)
    except (ElementTree.ParseError, UnicodeDecodeError, OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="whole UTF-8 text, or whole XML of MEDLINE") from error


def _lines(file: IO[bytes]) -> Iterator[str]:
    yield from (text for line in file if (text := line.decode("utf-8").strip()))


def _medline(file: IO[bytes]) -> Iterator[str]:
    """Title and abstract of every record that has one; records are forgotten as they pass, so that a dump of any size is read."""
    for _, element in ElementTree.iterparse(file):
        if element.tag not in ("PubmedArticle", "MedlineCitation"):
            continue
        for tag in ("ArticleTitle", "AbstractText"):
            for part in element.iter(tag):
                if text := " ".join("".join(part.itertext()).split()):
                    yield text
        element.clear()
