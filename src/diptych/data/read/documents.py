"""A folder of documents in which pictures and sentences alternate: HTML and Markdown with local pictures.

Every picture is a row with its alternative text (origin "alt"), and every sentence a row without a picture (origin "caption"); the extras
"document" and "place" say where both stood. Which sentence describes which picture is not known: `diptych curate realsyn` finds out.

What a document may not do: fetch anything (a picture with an address of the web is left out), or name a file outside of the folder.
Scripts, styles, navigation, code blocks and comments are no text. Every fault costs its picture or its file and is in the quarantine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diptych.core.disk.paths import escapes_folder
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.naming import uid_of
from diptych.data.text.captions.sentences import sentences

ENDINGS = (".html", ".htm", ".md", ".markdown")
LARGEST = 32 * 2**20
"""Bytes of a document."""
TRIED = 20
"""Documents that are looked at to see whether a folder is one of documents."""
SILENT = frozenset(
    {"script", "style", "template", "noscript", "nav", "head", "svg", "math", "code", "pre", "iframe", "object", "textarea"}
)
VOID = frozenset({"img", "br", "hr", "input", "meta", "link", "source", "wbr", "area", "base", "col", "embed", "track"})
INLINE = frozenset(
    {
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "cite",
        "data",
        "del",
        "dfn",
        "em",
        "i",
        "ins",
        "kbd",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
    }
    | {"strong", "sub", "sup", "time", "u", "var", "wbr", "font"}
)
MD_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
MD_IMAGE = re.compile(r"!\[((?:[^\[\]\\]|\\.)*)\]\(\s*<?([^\s)>]+)>?(?:\s+[\"'(][^\n]*?[\"')])?\s*\)")
MD_LINK = re.compile(r"\[((?:[^\[\]\\]|\\.)*)\]\([^\s)]*(?:\s+\"[^\"]*\")?\)")
MD_MARKS = re.compile(r"^\s{0,3}(?:#{1,6}\s+|>\s?|[-*+]\s+|\d{1,9}[.)]\s+)", re.MULTILINE)
MD_EMPHASIS = re.compile(r"(\*\*|__|\*|`+|~~)(?=\S)(.+?)(?<=\S)\1")
MD_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
MD_TAG = re.compile(r"</?[a-zA-Z][^>]*>")


@dataclass(frozen=True, slots=True)
class DocumentImage:
    """source as the document spells it, and its alternative text."""

    source: str
    alt: str


Piece = DocumentImage | str
"""A picture or a run of text, in order."""


def documents_of(root: Path) -> list[Path]:
    """The documents below a folder, in order of path, when one of the first refers to a picture that is there; else none."""
    paths = sorted(Path(folder, file) for folder, _, files in os.walk(root) for file in files if file.lower().endswith(ENDINGS))
    for path in paths[:TRIED]:
        try:
            pieces = pieces_of(path)
        except DataError:
            continue
        if any(isinstance(piece, DocumentImage) and isinstance(_place(piece.source, path, root), Path) for piece in pieces):
            return paths
    return []


def read_documents(root: Path, paths: list[Path], *, name: str, within: str | None) -> Pool:
    """Pictures and sentences of these documents. A folder in which no document has a picture is refused."""
    samples: list[Sample] = []
    bad: list[QuarantineEntry] = []
    pictures = 0
    for path in paths:
        document = os.path.relpath(path, root)
        if within is not None and escapes_folder(path, within):
            bad.append(QuarantineEntry(uid_of(document), "read", "is a link that leads out of the folder", str(path)))
            continue
        try:
            pieces = pieces_of(path)
        except DataError as error:
            bad.append(QuarantineEntry(uid_of(document), "read", str(error), str(path)))
            continue
        document_samples, faults = _rows(pieces, path, root, document, within)
        samples += document_samples
        bad += faults
        here = sum(sample.image is not None for sample in document_samples)
        pictures += here
        if not here and not faults:
            bad.append(QuarantineEntry(uid_of(document), "read", "has no picture; its sentences are read", str(path)))
    if not pictures:
        first = f"; first problem: {bad[0]}" if bad else ""
        raise DataError(
            f"no document has a picture that can be used{first}", file=root, expected="HTML or Markdown with local pictures"
        )
    pool = Pool.from_samples(samples, name=name)
    pool.quarantine += bad
    return pool


def pieces_of(path: Path) -> list[Piece]:
    """Pictures and texts of a document in order. Raises DataError for what is too large or not UTF-8."""
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"has {size:,} bytes", file=path, expected=f"at most {LARGEST:,}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: byte {error.start}", file=path, expected="UTF-8; convert it with iconv") from error
    if path.suffix.lower() in (".md", ".markdown"):
        return list(_markdown(text))
    reader = _HTML()
    reader.feed(text)
    reader.close()
    return reader.finished()


def _rows(
    pieces: list[Piece], path: Path, root: Path, document: str, within: str | None
) -> tuple[list[Sample], list[QuarantineEntry]]:
    samples: list[Sample] = []
    bad: list[QuarantineEntry] = []
    position, pictures, lines = 0, 0, 0
    for piece in pieces:
        if isinstance(piece, DocumentImage):
            uid, extras = uid_of(f"{document}/image-{pictures}"), {"document": document, "place": position}
            pictures, position = pictures + 1, position + 1
            where = _place(piece.source, path, root)
            if isinstance(where, str):
                bad.append(QuarantineEntry(uid, "read", where, str(path)))
                continue
            texts = (Text(piece.alt, "", "alt"),) if piece.alt else ()
            samples.append(Sample(uid, FileImage(where, within), texts, group=document, extras=extras))
            continue
        for sentence in sentences(piece):
            uid, extras = uid_of(f"{document}/text-{lines}"), {"document": document, "place": position}
            lines, position = lines + 1, position + 1
            samples.append(Sample(uid, None, (Text(sentence, "", "caption"),), group=document, extras=extras))
    return samples, bad


def _place(source: str, document: Path, root: Path) -> Path | str:
    """File of a picture, or the reason why it is not available: only files in the folder of the documents are allowed."""
    shown = source[:100]
    try:
        parts = urlsplit(source.strip())
    except ValueError:
        return f"the address of a picture is not an address: {shown!r}"
    if parts.scheme or parts.netloc:
        return f"a picture elsewhere, which is not fetched: {shown!r}"
    local = unquote(parts.path)
    if not local or "\0" in local or "\\" in local:
        return f"a picture without a usable path: {shown!r}"
    if local.startswith("/"):
        return f"a picture by an absolute path: {shown!r} (expected one relative to its document)"
    target, top = os.path.normpath(document.parent / local), os.path.abspath(root)
    if not os.path.abspath(target).startswith(top + os.sep):
        return f"a picture that climbs out of the folder: {shown!r}"
    return Path(target) if os.path.isfile(target) else f"a picture that does not exist: {shown!r}"


@dataclass
class _Run:
    """Text until the next picture or block."""

    parts: list[str] = field(default_factory=list)

    def take(self) -> str:
        text = " ".join("".join(self.parts).split())
        self.parts.clear()
        return text


class _HTML(HTMLParser):
    """Block elements end a run of text; the content of silent elements is skipped, including nested and unclosed elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[Piece] = []
        self._run = _Run()
        self._silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._silent:
            if tag == self._silent[-1]:
                self._silent.append(tag)
            return
        if tag == "body":
            self._silent.clear()
        if tag in SILENT:
            self._end_text()
            self._silent.append(tag)
        elif tag == "img":
            self._end_text()
            given = {name: value or "" for name, value in attrs}
            source = given.get("src") or given.get("data-src") or ""
            if source:
                self._pieces.append(DocumentImage(source, " ".join(given.get("alt", "").split())))
        elif tag not in INLINE:
            self._end_text()

    def handle_endtag(self, tag: str) -> None:
        if self._silent:
            if tag == self._silent[-1]:
                self._silent.pop()
            elif self._silent[-1] == "head" and tag == "html":
                self._silent.clear()
            return
        if tag not in INLINE:
            self._end_text()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._run.parts.append(data)

    def _end_text(self) -> None:
        if text := self._run.take():
            self._pieces.append(text)

    def finished(self) -> list[Piece]:
        self._end_text()
        return self._pieces


def _markdown(text: str) -> Iterator[Piece]:
    """Paragraphs and pictures of Markdown; fenced code and comments are left out, links keep their words."""
    text = MD_COMMENT.sub("", MD_FENCE.sub("", text))
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        for image in MD_IMAGE.finditer(paragraph):
            yield from _plain(paragraph[start : image.start()])
            yield DocumentImage(image[2], " ".join(image[1].split()))
            start = image.end()
        yield from _plain(paragraph[start:])


def _plain(text: str) -> Iterator[str]:
    text = MD_LINK.sub(r"\1", MD_MARKS.sub("", text))
    while (bare := MD_EMPHASIS.sub(r"\2", text)) != text:
        text = bare
    if joined := " ".join(unescape(MD_TAG.sub(" ", text)).split()):
        yield joined
