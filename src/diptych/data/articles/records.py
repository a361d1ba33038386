"""Records of articles in the form of the pipeline of PMC-15M (BiomedCLIP; Zhang et al., 2023, 2303.00915), and the list that names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError
from diptych.data.articles.jats import Article

LARGEST = 2**32
FIELDS = ("path", "title", "pmcid", "pmid", "code")
ENDING = ".jpg"


@dataclass(frozen=True, slots=True)
class ListedArticle:
    """One line of PubMed Central's list of open-access files: path of the package, title, identifiers, and licence code ("CC BY")."""

    path: str
    title: str
    pmcid: str
    pmid: str
    code: str


def read_file_list(path: Path) -> list[ListedArticle]:
    """The articles of PubMed Central's oa_file_list.txt, whose first line is a date. Raises DataError that names file and row."""
    try:
        lines = read_file(path, most=LARGEST).decode("utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="oa_file_list.txt of PubMed Central") from error
    articles = []
    for row, line in enumerate(lines, 1):
        fields = line.strip().split("\t")
        if len(fields) != len(FIELDS):
            raise DataError(f"has {len(fields)} fields", file=path, row=row, expected=f"{', '.join(FIELDS)} with tabs between")
        articles.append(ListedArticle(*fields))
    return articles


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
            "graphic_ref": str(PurePosixPath(location) / f"{figure.graphic}{ENDING}") if figure.graphic else "",
            "pair_id": f"{article.pmid}_{figure.id}",
        }
        for figure in article.figures
    ]
    return {"pmid": article.pmid, "pmc": article.pmc, "location": location, "figures": figures}
