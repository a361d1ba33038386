"""Image links with alternative texts from web archives: WAT files (what Common Crawl extracted) and WARC files (the pages themselves).

Of every page: images whose alt is not empty, the address made absolute against the page's <base> if it has one, else against the
page; only http and https; with the address of the page's licence, where it links one with rel=license. A page whose <meta name="robots">
says noai, noimageai, noindex or noimageindex gives no image, and has a line among the bad rows. A record that cannot be read
costs itself; a file that was cut keeps what precedes the cut; either has a line there, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import is_utf8
from diptych.core.errors import DataError, MissingExtra
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.links import pair_uid
from diptych.data.web.polite_http import FORBIDDEN

SUFFIXES = (".warc", ".warc.gz", ".wat", ".wat.gz")
RECORD_END = b"\r\n\r\n"
LONGEST_RECORD = 32 * 2**20
"""Bytes; a longer page is no page."""


@dataclass(frozen=True, slots=True)
class ImageLink:
    """An image on a page: its absolute address and its alternative text. `uid` is that of the pair; `licence` the address of the page's
    licence, "" if it names none."""

    uid: str
    url: str
    text: str
    page: str
    licence: str = ""


def archives(path: Path) -> list[Path]:
    """The archive files of a folder, or the file itself."""
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file())
    )
    if not files:
        raise DataError("contains no web archive", file=path, expected=f"files that end in {', '.join(SUFFIXES)}")
    return files


def links_of(path: Path, bad: list[QuarantineEntry]) -> Iterator[ImageLink]:
    """All links of an archive in order of record; what is wrong is appended to `bad`."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError:
        raise MissingExtra("warcio", "curate", needed_for="reading web archives") from None
    count = 0
    with path.open("rb") as file:
        try:
            for record in ArchiveIterator(file, arc2warc=False):
                count += 1
                headers = record.rec_headers
                page = headers.get_header("WARC-Target-URI") or ""
                length = headers.get_header("Content-Length") or "0"
                declared = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else -1
                if declared < 0:
                    bad.append(QuarantineEntry("", "read", f"record {count} has the length {length[:40]!r}", str(path)))
                elif declared > LONGEST_RECORD:
                    reason = f"record {count} has {declared:,} bytes (expected at most {LONGEST_RECORD:,})"
                    bad.append(QuarantineEntry("", "read", reason, str(path)))
                else:
                    yield from _record(record, declared, page, bad, path, count)
        except (ArchiveLoadFailed, EOFError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            bad.append(QuarantineEntry("", "read", f"is broken after {count} records: {reason}", str(path)))
            return
    if not count and not path.stat().st_size:
        bad.append(QuarantineEntry("", "read", "is empty", str(path)))
    elif not any(one.file == str(path) for one in bad) and not _ends_whole(path):  # the library ends in silence there
        bad.append(
            QuarantineEntry("", "read", f"is truncated, or is not an archive: after {count} records none is complete", str(path))
        )


def _ends_whole(path: Path) -> bool:
    """True if a file ends with the end of a record: two line ends, and inside gzip the end of a member with its checksum."""
    tail, member = b"", zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(max(0, path.stat().st_size - 4))
            return file.read() == RECORD_END
        file.seek(0)
        fresh = True
        while piece := file.read(1 << 20):
            while piece:
                try:
                    tail = (tail + member.decompress(piece))[-4:]
                except zlib.error:
                    return False
                piece, fresh = member.unused_data, member.eof
                if fresh:
                    member = zlib.decompressobj(wbits=31)
    return fresh and (tail == RECORD_END or not tail)


def _record(record: Any, declared: int, page: str, bad: list[QuarantineEntry], path: Path, number: int) -> Iterator[ImageLink]:
    content = record.raw_stream.read(declared)
    if len(content) < declared - _http_size(record):
        bad.append(
            QuarantineEntry(
                "",
                "read",
                f"is truncated: record {number} has {len(content):,} bytes of {declared:,}; those before it are read",
                str(path),
            )
        )
        return
    kind = record.rec_type
    where = f"{path}#{number}"
    if kind == "metadata" and page.startswith(("http://", "https://")) and content.lstrip()[:1] == b"{":
        yield from _of_wat(content, page, bad, where)
    elif kind == "response" and record.http_headers is not None:
        sort = (record.http_headers.get_header("Content-Type") or "").lower()
        if "html" in sort:
            yield from _of_page(content, sort, page, bad, where)


def _http_size(record: Any) -> int:
    """Bytes of the HTTP headers, which the reader has taken off the record's content."""
    headers = getattr(record, "http_headers", None)
    return len(headers.to_bytes()) + 256 if headers is not None else 0


# ---------------------------------------------------------------- WAT


def _of_wat(content: bytes, page: str, bad: list[QuarantineEntry], where: str) -> Iterator[ImageLink]:
    try:
        envelope: Any = parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad.append(QuarantineEntry("", "text", f"is not UTF-8 at byte {error.start:,} of the record", where))
        return
    except ValueError as error:
        bad.append(QuarantineEntry("", "read", f"is not valid JSON: {error}", where))
        return
    for name in ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata"):
        envelope = envelope.get(name) if isinstance(envelope, dict) else None
    if not isinstance(envelope, dict):
        return  # not a page
    head = envelope.get("Head")
    base = head.get("Base") if isinstance(head, dict) else None
    metas = _dicts(head.get("Metas")) if isinstance(head, dict) else []
    if directive := forbidden_directive([(meta.get("name"), meta.get("content")) for meta in metas]):
        bad.append(QuarantineEntry("", "opt-out", f"the page {page} says {directive}", where))
        return
    base = _base_of_page(page, base) if isinstance(base, str) else page
    links = _dicts(envelope.get("Links"))
    named = [*links, *(_dicts(head.get("Link")) if isinstance(head, dict) else [])]
    licence = next((_address(link.get("url"), base) for link in named if _is_licence(link.get("rel"))), "")
    for link in links:
        if link.get("path") == "IMG@/src":
            yield from _link(link.get("url"), link.get("alt"), base, page, licence, bad, where)


def _dicts(value: Any) -> list[dict[str, Any]]:
    """Objects of a list of JSON; none of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def forbidden_directive(metas: Iterable[tuple[Any, Any]], agent_token: str = "diptych") -> str:
    """The first directive in <meta name="robots"> (or of that name for us alone) that forbids, "" when none does."""
    for name, content in metas:
        if isinstance(name, str) and isinstance(content, str) and name.strip().lower() in ("robots", agent_token):
            words = [word.strip().lower() for word in content.replace(";", ",").split(",")]
            if forbidden := next((word for word in words if word in FORBIDDEN), ""):
                return forbidden
    return ""


def _is_licence(rel: Any) -> bool:
    return isinstance(rel, str) and bool({"license", "licence"} & set(rel.lower().split()))


def _address(source: Any, base: str) -> str:
    """Absolute http or https address; "" for anything else."""
    if not isinstance(source, str) or not source.strip():
        return ""
    try:
        url = urljoin(base, source.strip())
        return url if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname and is_utf8(url) else ""
    except ValueError:
        return ""


# ---------------------------------------------------------------- pages


def _of_page(content: bytes, sort: str, page: str, bad: list[QuarantineEntry], where: str) -> Iterator[ImageLink]:
    charset = sort.partition("charset=")[2].split(";")[0].strip(" \"'") or "utf-8"
    try:
        text = content.decode(charset)
    except LookupError:
        bad.append(QuarantineEntry("", "text", f"names the unknown charset {charset!r}", where))
        return
    except UnicodeDecodeError as error:
        bad.append(QuarantineEntry("", "text", f"is not {charset} at byte {error.start:,} of the page", where))
        return
    except ValueError as error:  # charsets that are no charsets, as "idna"
        bad.append(QuarantineEntry("", "text", f"is not {charset}: {error}", where))
        return
    reader = _ImageParser()
    try:
        reader.feed(text)
    except (AssertionError, ValueError) as error:  # of the library, on markup that it does not expect
        bad.append(QuarantineEntry("", "read", f"is not readable HTML: {error}", where))
    if directive := forbidden_directive(reader.metas):
        bad.append(QuarantineEntry("", "opt-out", f"the page {page} says {directive}", where))
        return
    base = _base_of_page(page, reader.base) if reader.base else page
    licence = _address(reader.licence, base)
    for source, alt in reader.images:
        yield from _link(source, alt, base, page, licence, bad, where)


class _ImageParser(HTMLParser):
    """(src, alt) of every image, (name, content) of every <meta>, the addresses of <base> and of rel=license."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base = self.licence = ""
        self.images: list[tuple[str | None, str | None]] = []
        self.metas: list[tuple[str | None, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.images.append((given.get("src"), given.get("alt")))
        elif tag == "base" and not self.base:
            self.base = given.get("href") or ""
        elif tag == "meta":
            self.metas.append((given.get("name"), given.get("content")))
        elif tag in ("a", "link", "area") and not self.licence and _is_licence(given.get("rel")):
            self.licence = given.get("href") or ""


def _base_of_page(page: str, base: str) -> str:
    """The base of a page; a base that is no address is as if there were none."""
    try:
        return urljoin(page, base)
    except ValueError:
        return page


def _link(
    source: Any, alt: Any, base: str, page: str, licence: str, bad: list[QuarantineEntry], where: str
) -> Iterator[ImageLink]:
    text = " ".join(alt.split()) if isinstance(alt, str) else ""
    if not text or not isinstance(source, str) or not source.strip():
        return
    try:
        url = urljoin(base, source.strip())
        sound = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        return  # not a valid address
    if not is_utf8(url + text):
        bad.append(QuarantineEntry("", "text", "a link holds half a surrogate pair, which is not a character", where))
    elif sound:
        yield ImageLink(pair_uid(url, text), url, text, page, licence)


def as_rows(links: Iterator[ImageLink]) -> list[dict[str, str]]:
    """Links as plain rows, for a table."""
    return [asdict(link) for link in links]
