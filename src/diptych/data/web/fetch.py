"""Real image-text data from Debian packages: downloaded, read and built, never installed.

    stamps   951 pictures (photo cut-outs and drawings) with a sentence in up to 77 languages     tuxpaint-stamps-default, GPL-2
    clipart  some 8,000 pieces of clip art with title, description and keywords as people wrote   openclipart-png, openclipart-svg,
             them: the noisy set, for curation                                                     public domain

`apt-get download` checks the signatures. Archives are streamed member by member; no member is written to a path that it names.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar
from xml.parsers import expat

from diptych.core.errors import DataError, RunError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.naming import uids_of
from diptych.data.shards.build import build, open_built
from diptych.data.shards.mark import is_built, words_of

Files = Iterator[tuple[PurePosixPath, bytes]]
Links = dict[PurePosixPath, PurePosixPath]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that Debian packages: which packages, and how their files become samples."""

    packages: tuple[str, ...]
    read: Callable[[list[Path]], tuple[list[Sample], list[QuarantineEntry]]]
    about: str


def fetch(name: str, out: Path | str, *, keep_debs: bool = False, progress: bool = True) -> Pool:
    """Download the data set `name` ("stamps" or "clipart") and build it into the folder `out`; returns the pool.

    keep_debs  leave the downloaded archives in a folder beside `out` (OUT-debs), where a later call finds them
    A folder that holds this data set already is opened as it is. What cannot be used is in `.quarantine`, with a reason.
    Needs `apt-get` and `dpkg-deb` (Debian, Ubuntu), no root rights.
    """
    if name not in SOURCES:
        raise UnknownName("data set", name, SOURCES)
    source, out = SOURCES[name], Path(out)
    if is_built(out):
        pool = open_built(out)
        if pool.name != name:
            raise DataError(f"already holds the data set '{pool.name}'", file=out, expected="another folder")
        return pool
    with _debs_folder(out, keep_debs) as folder:
        debs = [_deb(package, folder, progress) for package in source.packages]
        with _working(f"reading {', '.join(source.packages)}", progress):
            samples, bad = source.read(debs)
    pool = Pool.from_samples(samples, name=name)
    pool.quarantine += bad
    build(pool, out, progress=progress, command=words_of("diptych", "data", "fetch", name, "--out", str(out)))
    return open_built(out)


# ---------------------------------------------------------------- packages


@contextmanager
def _debs_folder(out: Path, keep: bool) -> Iterator[Path]:
    if keep:
        folder = out.with_name(f"{out.name}-debs")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="diptych-fetch-") as scratch:
            yield Path(scratch)


def _deb(package: str, folder: Path, progress: bool) -> Path:
    """The archive of a package in `folder`, downloaded when it is not there."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RunError(f"{tool} is not on this machine: fetch on Debian or Ubuntu, then copy the built folder")
    debs = sorted(folder.glob(f"{package}_*.deb"))
    if not debs:
        with _working(f"downloading {package}", progress):
            done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
        debs = sorted(folder.glob(f"{package}_*.deb"))
        if done.returncode or not debs:
            raise RunError(_apt_error(package, done.stderr))
    return debs[-1]


def _apt_error(package: str, stderr: str) -> str:
    """One-line reason of a failed apt command, with a remedy."""
    errors = [line[2:].strip() for line in stderr.splitlines() if line.startswith("E:")]
    if any("Unable to locate" in line or "no candidate" in line or "candidate version" in line for line in errors):
        return f"apt knows no package {package}: run `apt-get update` (as root), then fetch again"
    reason = errors[0] if errors else "no message"
    return f"downloading {package} failed ({reason}): check the network or run `apt-get update`, then fetch again"


def _version(deb: Path) -> str:
    done = subprocess.run(["dpkg-deb", "--field", str(deb), "Package", "Version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError("is not a Debian package", file=deb, expected="the archive that apt-get downloaded")
    fields = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return f"debian:{fields['Package']} {fields['Version']}"


def files(deb: Path, under: str, links: Links | None = None) -> Files:
    """Regular files of a package below the folder `under`, as (path relative to it, bytes), streamed in archive order.

    Symbolic links that stay in the folder are noted in `links` (see `resolve_links`). Devices and whatever leaves the folder are passed
    over.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for info in tar:
                    path = _inside(info.name, under)
                    if path is not None and info.issym() and links is not None:
                        links[path] = PurePosixPath(posixpath.normpath(path.parent / info.linkname))
                    if path is None or not info.isreg():
                        continue
                    handle = tar.extractfile(info)
                    assert handle is not None
                    yield path, handle.read()
        except tarfile.TarError as error:
            raise DataError(f"is not readable as a Debian package: {error}", file=deb, expected="a complete download") from error


def resolve_links(links: Links, content_by_path: dict[PurePosixPath, Found]) -> None:
    """Give every link what its target has. Works on names alone; a circle or a target outside leads nowhere."""
    for link in sorted(links):
        target, hops = link, 0
        while target in links and hops < len(links):
            target, hops = links[target], hops + 1
        if target in content_by_path:
            content_by_path[link] = content_by_path[target]


def _inside(name: str, under: str) -> PurePosixPath | None:
    path = PurePosixPath(name)
    parts = tuple(part for part in path.parts if part != ".")
    start = PurePosixPath(under).parts
    if path.is_absolute() or ".." in parts or parts[: len(start)] != start or len(parts) == len(start):
        return None
    return PurePosixPath(*parts[len(start) :])


@contextmanager
def _working(what: str, progress: bool) -> Iterator[None]:
    """Progress bar on stderr for work of unknown length."""
    if not progress:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def _uids(paths: list[PurePosixPath]) -> list[str]:
    return uids_of([str(path.with_suffix("")) for path in paths], [str(path) for path in paths])


# ---------------------------------------------------------------- stamps

STAMPS = "usr/share/tuxpaint/stamps"
_LANGUAGE = re.compile(r"([a-z]{2,3}(?:[_@-][A-Za-z]+)*)\.utf8=(.*)")


def read_stamps(debs: list[Path]) -> tuple[list[Sample], list[QuarantineEntry]]:
    """A sample for each captioned picture. The group is the English caption: two pictures of "A frog." are no negatives."""
    source = _version(debs[0])
    pictures: dict[PurePosixPath, bytes] = {}
    captions: dict[PurePosixPath, tuple[Text, ...]] = {}
    for path, data in files(debs[0], STAMPS):
        if path.suffix in (".png", ".svg"):
            pictures[path] = data
        elif path.suffix == ".txt":
            captions[path.with_suffix("")] = stamp_texts(data.decode("utf-8", "replace"))
    drawn = sorted(path for path in pictures if path.suffix == ".png" or path.with_suffix(".png") not in pictures)
    samples, bad = [], []
    for path, uid in zip(drawn, _uids(drawn), strict=True):
        texts = captions.get(path.with_suffix(""))
        if not texts:
            bad.append(QuarantineEntry(uid, "text", "the picture has no caption file (a mirror image or a part)", str(path)))
        elif path.suffix == ".svg":
            bad.append(QuarantineEntry(uid, "image", "the picture is there as a vector drawing only", str(path)))
        else:
            image = BytesImage(pictures[path], str(path))
            group, extras = texts[0].string.casefold(), {"category": path.parts[0], "folder": str(path.parent)}
            samples.append(Sample(uid, image, texts, group=group, licence="GPL-2.0-only", source=source, extras=extras))
    return samples, bad


def stamp_texts(content: str) -> tuple[Text, ...]:
    """English on the first line, then lines such as ``pt_br.utf8=Um sapo.``; empty ones are left out."""
    first, *rest = content.splitlines() or [""]
    texts = [Text(first.strip(), "en", "caption")] if first.strip() else []
    for line in rest:
        match = _LANGUAGE.fullmatch(line.strip())
        if match and match[2].strip():
            texts.append(Text(match[2].strip(), bcp47(match[1]), "caption"))
    return tuple(texts) if first.strip() else ()


def bcp47(locale: str) -> str:
    """
    >>> bcp47("pt_br"), bcp47("sr@latin"), bcp47("zh_TW")
    ('pt-BR', 'sr-Latn', 'zh-TW')
    """
    language, *parts = re.split(r"[_@-]", locale)
    scripts = {"latin": "Latn", "cyrillic": "Cyrl"}
    return "-".join([language, *(scripts.get(p.lower(), p.upper() if len(p) == 2 else p.lower()) for p in parts)])


# ---------------------------------------------------------------- clip art

PNGS, SVGS = "usr/share/openclipart/png", "usr/share/openclipart/svg"
_DC, _RDF = "http://purl.org/dc/elements/1.1/ ", "http://www.w3.org/1999/02/22-rdf-syntax-ns# "


def read_clipart(debs: list[Path]) -> tuple[list[Sample], list[QuarantineEntry]]:
    """A sample per PNG, with the texts that its vector original carries. One without any goes to quarantine."""
    png, svg = debs
    source = _version(png)
    svg_links, png_links = Links(), Links()
    about: dict[PurePosixPath, ClipartMetadata | str] = {}
    for path, data in files(svg, SVGS, svg_links):
        if path.suffix == ".svg":
            try:
                about[path] = read_card(data)
            except DataError as error:
                about[path] = error.problem
    pictures = {path: data for path, data in files(png, PNGS, png_links) if path.suffix == ".png"}
    resolve_links(svg_links, about)  # Debian stores equal files once; as data they are the duplicates that people uploaded
    resolve_links(png_links, pictures)
    samples, bad = [], []
    for path, uid in zip(sorted(pictures), _uids(sorted(pictures)), strict=True):
        card = about.get(path.with_suffix(".svg"), "there is no SVG of that name")
        if isinstance(card, str) or not card.texts():
            reason = card if isinstance(card, str) else "the SVG has no title, description or keywords"
            bad.append(QuarantineEntry(uid, "text", reason, str(path)))
            continue
        extras = {"category": path.parts[0], "folder": str(path.parent), "author": card.author}
        image = BytesImage(pictures[path], str(path))
        samples.append(Sample(uid, image, card.texts(), licence="public-domain", source=source, extras=extras))
    return samples, bad


@dataclass(slots=True)
class ClipartMetadata:
    """Metadata that a drawing contains."""

    title: str = ""
    description: str = ""
    author: str = ""
    keywords: list[str] = field(default_factory=list)

    def texts(self) -> tuple[Text, ...]:
        """Language unknown: most are English, many are not."""
        texts = [
            Text(self.title, origin="label"),
            Text(self.description, origin="caption"),
            Text(", ".join(dict.fromkeys(self.keywords)), origin="tags"),
        ]
        return tuple(text for text in texts if text.string)


def read_card(svg: bytes) -> ClipartMetadata:
    """Title, description, keywords and author from the RDF in an SVG. Entities are refused, nothing outside is ever loaded."""
    card, path, words = ClipartMetadata(), [], list[str]()

    def start(tag: str, _: dict[str, str]) -> None:
        path.append(tag)
        words.clear()

    def end(tag: str) -> None:
        text = " ".join("".join(words).split())
        words.clear()
        inside = {part.removeprefix(_DC) for part in path[:-1] if part.startswith(_DC)}
        if tag == f"{_DC}title" and "creator" in inside:
            card.author = card.author or text
        elif tag == f"{_DC}title" and not inside:
            card.title = card.title or text
        elif tag == f"{_DC}description" and not inside:
            card.description = card.description or text
        elif tag == f"{_RDF}li" and "subject" in inside and text:
            card.keywords.append(text)
        path.pop()

    def refuse(name: str, *_: object) -> None:
        raise DataError(f"the SVG declares the entity {name!r}")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = words.append, refuse
    try:
        parser.Parse(svg, True)
    except expat.ExpatError as error:
        raise DataError(f"the SVG is not well-formed: {error}") from error
    return card


SOURCES = {
    "stamps": Source(("tuxpaint-stamps-default",), read_stamps, "pictures with a sentence in up to 77 languages"),
    "clipart": Source(("openclipart-png", "openclipart-svg"), read_clipart, "clip art with titles, descriptions and keywords"),
}
