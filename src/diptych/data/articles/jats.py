"""Figures, captions and licence of an article in JATS, the XML of PubMed Central."""

from __future__ import annotations

import html.entities
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from diptych.core.errors import DataError
from diptych.data.articles.licences import licence_of
from diptych.data.text.captions.sentences import sentences

LARGEST = 64 * 2**20
"""Bytes of an article's XML."""
_MARK = re.compile("\ue000(.*?)\ue001")
"""A reference to a figure, in text that is read for sentences."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of an article.

    caption   title and paragraphs, one line
    graphic   file name of the picture, as the article has it: usually without its ending
    mentions  sentences of the body that refer to the figure, in order, each once
    """

    id: str
    label: str
    caption: str
    graphic: str
    mentions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Article:
    """Identifiers, licence ("" for none that is known) and figures; language as the article's xml:lang has it."""

    pmid: str
    pmc: str
    doi: str
    licence: str
    language: str
    figures: tuple[Figure, ...]

    def pair_id(self, figure: Figure) -> str:
        """PMID and figure, as the pipeline of PMC-15M names pairs; PMC's number if there is no PMID."""
        return f"{self.pmid or self.pmc}_{figure.id}"


def parse_article(data: bytes, file: str = "", *, shallow: bool = False) -> Article:
    """Article of JATS XML. Raises DataError for what is no whole XML, declares entities, or is no article.

    shallow  texts as the released pipeline of BiomedCLIP has them (pubmed_parser 0.5.1): of elements within elements of a paragraph the
             words are lost, paragraphs are joined as they stand, and a figure without caption repeats the one before
    """
    root = _root(data, file)
    articles = [root] if root.tag == "article" else list(root.iter("article"))
    if not articles:
        raise DataError(f"has no article, but <{root.tag[:40]}>", file=file, expected="JATS XML of an article")
    article = articles[0]
    if (meta := article.find(".//article-meta")) is None:
        raise DataError("has no <article-meta>", file=file, expected="JATS XML of an article")
    ids = {element.get("pub-id-type", ""): (element.text or "").strip() for element in meta.findall("article-id")}
    mentions = _mentions(article)
    figures, before = list[Figure](), ""
    for number, element in enumerate(article.iter("fig")):
        caption = element.find("caption")
        before = _caption(caption, shallow) if caption is not None else before if shallow else ""
        label = element.find("label")
        key = element.get("id") or f"fig{number + 1}"
        title = "" if label is None else _line(label)
        figures.append(Figure(key, title, before, _graphic(element), tuple(mentions.get(key, ()))))
    language = article.get("{http://www.w3.org/XML/1998/namespace}lang", "").lower()
    pmc = (ids.get("pmc") or ids.get("pmcid", "")).upper().removeprefix("PMC")
    return Article(ids.get("pmid", ""), pmc, ids.get("doi", ""), _licence(meta), language, tuple(figures))


def _root(data: bytes, file: str) -> Element:
    if len(data) > LARGEST:
        raise DataError(f"has {len(data):,} bytes", file=file, expected=f"at most {LARGEST:,}")
    if b"<!ENTITY" in data:
        raise DataError("declares its own entities", file=file, expected="an article as PubMed Central has it")
    parser = ElementTree.XMLParser()
    parser.entity.update(html.entities.entitydefs)
    try:
        root = ElementTree.fromstring(data, parser)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not complete XML: {error}", file=file, expected="JATS XML of an article") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _caption(caption: Element, shallow: bool) -> str:
    if shallow:
        return " ".join(_shallow(child) for child in caption)
    return " ".join(line for child in caption if (line := _line(child)))


def _line(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _shallow(element: Element) -> str:
    parts = [element.text, *(part for child in element for part in (child.text, child.tail)), element.tail]
    return "".join(part for part in parts if part)


def _graphic(figure: Element) -> str:
    for element in figure.iter("graphic"):
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] == "href":
                return value.strip()
    return ""


def _licence(meta: Element) -> str:
    elements = list(meta.iter("license"))
    addresses = [value for element in elements for part in element.iter() for value in part.attrib.values() if "://" in value]
    words = [_line(element) for tag in ("license", "copyright-statement") for element in meta.iter(tag)]
    return licence_of(" ".join(addresses), " ".join(words))


def _mentions(article: Element) -> dict[str, list[str]]:
    """Sentences of the body by the figure that they refer to."""
    mentions: dict[str, list[str]] = {}
    body = article.find("body")
    if body is None:
        return mentions
    captions = {id(paragraph) for caption in body.iter("caption") for paragraph in caption.iter("p")}
    for paragraph in body.iter("p"):
        if id(paragraph) in captions or not any(ref.get("ref-type") == "fig" for ref in paragraph.iter("xref")):
            continue
        for sentence in sentences(" ".join("".join(_marked(paragraph)).split())):
            plain = _MARK.sub("", sentence)
            for keys in _MARK.findall(sentence):
                for key in keys.split():
                    if plain not in mentions.setdefault(key, []):
                        mentions[key].append(plain)
    return mentions


def _marked(element: Element) -> Iterator[str]:
    """Text of a paragraph with a mark after each reference to a figure; figures within it are left out."""
    yield element.text or ""
    for child in element:
        if child.tag not in ("fig", "fig-group", "table-wrap"):
            yield from _marked(child)
            if child.tag == "xref" and child.get("ref-type") == "fig":
                yield f"\ue000{child.get('rid', '')}\ue001"
        yield child.tail or ""
