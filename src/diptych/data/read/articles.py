"""Articles of PubMed Central as pairs of figure and caption: folders of XML with pictures beside it, or packages (.tar.gz).

A row is a figure: its caption (origin "caption"), as group its article, as licence the article's own, as source its DOI. Extras: `pmid`,
`pmc`, `figure` (its id), `label` ("Figure 2"), `graphic` (the file as the article names it), `use` (commercial, non-commercial or
unknown, by the licence), and `mentions`, the sentences of the article that refer to it. After the pipeline of PMC-15M (BiomedCLIP;
Zhang et al., 2023, 2303.00915). Every fault costs its figure or its article and is in the quarantine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from diptych.core.disk.paths import escapes_folder, read_file
from diptych.core.errors import DataError
from diptych.core.image import FileImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.data.articles.jats import LARGEST, Article, parse_article
from diptych.data.articles.licences import use_of
from diptych.data.articles.packages import ENDINGS, PackageImage, package_files
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.naming import uids_of

FORMAT = "pmc"
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff")
"""Endings that are tried after the name of a graphic, in this order."""


@dataclass(frozen=True, slots=True)
class _OpenedArticle:
    """An article, with the pictures beside it."""

    article: Article
    file: str
    pictures: Callable[[str], ImageSource | None]


def is_article(path: Path) -> bool:
    """True for a file name of an article or of a package of one."""
    name = path.name.lower()
    return name.endswith(".nxml") or (name.startswith("pmc") and name.endswith((".xml", *ENDINGS)))


def articles_of(root: Path) -> list[Path]:
    """Articles and packages below a folder, in order of path."""
    paths = (Path(folder, file) for folder, _, files in os.walk(root) for file in files)
    return sorted(path for path in paths if is_article(path))


def read_articles(paths: Sequence[Path], *, name: str, within: str | None = None) -> Pool:
    """Figures with captions of these files. Raises DataError if no figure has both a caption and a picture."""
    bad, rows = list[QuarantineEntry](), dict[str, Sample]()
    without = 0
    for opened in _articles(paths, within, bad):
        here = list(_samples(opened, bad))
        without += bool(here) and not opened.article.licence
        for sample in here:
            if sample.uid in rows:
                bad.append(QuarantineEntry(sample.uid, "read", "the article is in two files", opened.file))
            else:
                rows[sample.uid] = sample
    keys = list(rows)
    samples = [replace(sample, uid=uid) for sample, uid in zip(rows.values(), uids_of(keys, keys), strict=True)]
    if not samples:
        first = f"; first problem: {bad[0]}" if bad else ""
        raise DataError(
            f"no figure has a caption and a picture{first}",
            file=paths[0] if len(paths) == 1 else paths[0].parent,
            expected="articles of PubMed Central with their pictures beside them, or their packages",
        )
    pool = Pool.from_samples(samples, name=name)
    pool.quarantine += bad
    if without:
        pool.notes.append(f"{without:,} articles state no licence that is known: `diptych curate pubmed` leaves them out")
    return pool


def _articles(paths: Sequence[Path], within: str | None, bad: list[QuarantineEntry]) -> Iterator[_OpenedArticle]:
    for path in paths:
        try:
            if within is not None and escapes_folder(path, within):
                raise DataError("is a link that leads out of the folder")
            if path.name.lower().endswith(ENDINGS):
                yield from _package(path, within)
            else:
                article = parse_article(read_file(path, within, most=LARGEST), str(path))
                yield _OpenedArticle(article, str(path), _beside(path.parent, within))
        except (DataError, OSError) as error:
            bad.append(QuarantineEntry("", "read", str(error), str(path)))


def _package(path: Path, within: str | None) -> Iterator[_OpenedArticle]:
    names, content = package_files(path, within, (".nxml", ".xml"))
    articles = {name: data for name, data in content.items() if name.lower().endswith(".nxml")} or content
    if not articles:
        raise DataError("contains no article", file=path, expected="a file .nxml in it")
    members = set(names)
    for name, data in articles.items():
        folder = PurePosixPath(name).parent

        def picture(graphic: str, folder: PurePosixPath = folder) -> ImageSource | None:
            member = next((file for ending in ("", *PICTURES) if (file := f"{folder / graphic}{ending}") in members), "")
            return PackageImage(path, member, within) if member else None

        yield _OpenedArticle(parse_article(data, f"{path}:{name}"), f"{path}:{name}", picture)


def _beside(folder: Path, within: str | None) -> Callable[[str], ImageSource | None]:
    def picture(graphic: str) -> ImageSource | None:
        for ending in ("", *PICTURES):
            if (file := folder / f"{graphic}{ending}").is_file():
                return FileImage(file, within)
        return None

    return picture


def _samples(opened: _OpenedArticle, bad: list[QuarantineEntry]) -> Iterator[Sample]:
    article = opened.article
    if not article.figures:
        bad.append(QuarantineEntry(article.pmid or article.pmc, "read", "has no figure", opened.file))
    for figure in article.figures:
        key = article.pair_id(figure)
        fault = _fault(figure.caption, figure.graphic)
        image = None if fault else opened.pictures(figure.graphic)
        if image is None:
            fault = (
                fault
                or f"the picture {figure.graphic[:100]!r} does not exist (tried its name alone and with {', '.join(PICTURES)})"
            )
            bad.append(QuarantineEntry(key, "read", fault, opened.file))
            continue
        extras = {
            "pmid": article.pmid,
            "pmc": article.pmc,
            "figure": figure.id,
            "label": figure.label,
            "graphic": figure.graphic,
            "use": use_of(article.licence),
            "mentions": list(figure.mentions),
        }
        group = f"PMC{article.pmc}" if article.pmc else article.pmid or opened.file
        text = Text(figure.caption, article.language)
        yield Sample(key, image, (text,), group=group, licence=article.licence, source=article.doi or group, extras=extras)


def _fault(caption: str, graphic: str) -> str:
    if not caption:
        return "has no caption"
    if not graphic:
        return "does not name a picture"
    if "/" in graphic or "\\" in graphic or "\0" in graphic or graphic in (".", ".."):
        return f"names a picture by a path: {graphic[:100]!r} (expected a file beside the article)"
    return ""
