"""Records of articles in the form of the pipeline of PMC-15M (BiomedCLIP; Zhang et al., 2023, 2303.00915), and the list that names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError
from diptych.data.articles.jats import Article

LONGEST_LINE = 2**20
"""Bytes, far above those of any entry."""


@dataclass(frozen=True, slots=True)
class ListedArticle:
    """One line of PubMed Central's list of open-access files: path of the package, title, identifiers, and licence code ("CC BY")."""

    path: str
    title: str
    pmcid: str
    pmid: str
    code: str


def read_file_list(path: Path) -> Iterator[ListedArticle]:
    """The articles of PubMed Central's oa_file_list.txt, whose first line is a date, one at a time. Raises DataError that names file and
    row."""
    names = [field.name for field in fields(ListedArticle)]
    try:
        with open_file(path) as file:
            file.readline(LONGEST_LINE)
            for row, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                values = line.decode("utf-8").strip().split("\t")
                if len(values) != len(names):
                    raise DataError(
                        f"has {len(values)} fields", file=path, row=row, expected=f"{', '.join(names)} with tabs between"
                    )
                yield ListedArticle(*values)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="oa_file_list.txt of PubMed Central") from error


def pmc15_record(article: Article, location: str) -> dict[str, Any] | None:
    """An article as a line of the pipeline's JSON: pmid, pmc, location and figures; None for one without figures.

    location  folder of the article; a picture's path is it, the name of the graphic, and .jpg, or "" without a graphic
    """
    if not article.figures:
        return None
    figures = [
        {
            "fig_caption": figure.caption,
            "fig_id": figure.id,
            "fig_label": figure.label,
            "graphic_ref": str(PurePosixPath(location) / f"{figure.graphic}.jpg") if figure.graphic else "",
            "pair_id": f"{article.pmid}_{figure.id}",
        }
        for figure in article.figures
    ]
    return {"pmid": article.pmid, "pmc": article.pmc, "location": location, "figures": figures}
