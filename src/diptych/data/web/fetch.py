"""Real image-text data from packages. Those of Debian are downloaded, read and built, never installed:

    stamps       951 pictures (photo cut-outs and drawings) with a sentence in up to 77 languages   tuxpaint-stamps-default, GPL-2
    openclipart  some 8,000 pieces of clip art with title, description and keywords as people       openclipart-png, openclipart-svg,
                 wrote them: the noisy set, for curation; "clipart" is another name of it           public domain
    geography    154 maps with 4,081 named regions as masks, capitals, and 727 flags                kgeography-data, GPL-2

Those of Python are installed by an extra:

    icons        some 8,800 icons of four families with names, tags and categories                 diptych[icons], see `icons`

Each comes with splits that the nearest training picture does not solve: captions, authors, maps, places or
concepts of which training has nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from diptych.core.errors import DataError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.randomness import keyed_uniforms
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.shards.build import build, open_built
from diptych.data.shards.mark import is_built, words_of
from diptych.data.web.debian import Links, deb_of, debs_folder, files, resolve_links, uids, version_of, working
from diptych.data.web.geography import read_geography
from diptych.data.web.icons import read_icons

HELD_OUT = 0.15
"""Share of the units (captions, authors) of which nothing is in the split "train"."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: the packages of Debian that hold it, if it is in those, and how their files become samples."""

    packages: tuple[str, ...]
    read: Callable[[list[Path]], tuple[list[Sample], list[QuarantineEntry]]]
    about: str


def fetch(name: str, out: Path | str, *, keep_debs: bool = False, progress: bool = True) -> Pool:
    """Download the data set `name` (one of `SOURCES`) and build it into the folder `out`; returns the pool.

    keep_debs  leave the downloaded archives in a folder beside `out` (OUT-debs), where a later call finds them
    A folder that holds this data set already is opened as it is. What cannot be used is in `.quarantine`, with a reason.
    Needs `apt-get` and `dpkg-deb` (Debian, Ubuntu), no root rights; icons need their extra instead.
    """
    name = ALIASES.get(name, name)
    if name not in SOURCES:
        raise UnknownName("data set", name, SOURCES)
    source, out = SOURCES[name], Path(out)
    if is_built(out):
        pool = open_built(out)
        if ALIASES.get(pool.name, pool.name) != name:
            raise DataError(f"already holds the data set '{pool.name}'", file=out, expected="another folder")
        return pool
    with debs_folder(out, keep_debs) as folder:
        debs = [deb_of(package, folder, progress) for package in source.packages]
        with working(f"reading {', '.join(source.packages)}", progress and bool(debs)):
            samples, bad = source.read(debs)
    pool = Pool.from_samples(samples, name=name)
    pool.quarantine += bad
    build(pool, out, progress=progress, command=words_of("diptych", "data", "fetch", name, "--out", str(out)))
    return open_built(out)


def split_by(samples: list[Sample], units: list[str], held_out: str) -> list[Sample]:
    """The samples with their split: a share of the units, and every sample with the same bytes as one of theirs, is held out
    under that name.

    What has no unit ("") is training. Which units are held out depends on their names only.
    """
    drawn = dict(zip(distinct := sorted({*units} - {""}), keyed_uniforms(distinct, "fetch", held_out), strict=True))
    digests = [blake2b(sample.image.read()).digest() if sample.image is not None else b"" for sample in samples]
    apart = {digest for digest, unit in zip(digests, units, strict=True) if drawn.get(unit, 1.0) < HELD_OUT}
    return [
        replace(sample, extras={**sample.extras, "split": held_out if digest in apart else "train"})
        for sample, digest in zip(samples, digests, strict=True)
    ]


# ---------------------------------------------------------------- stamps

STAMPS = "usr/share/tuxpaint/stamps"
_LANGUAGE = re.compile(r"([a-z]{2,3}(?:[_@-][A-Za-z]+)*)\.utf8=(.*)")


def read_stamps(debs: list[Path]) -> tuple[list[Sample], list[QuarantineEntry]]:
    """A sample for each captioned picture. The group is the English caption: two pictures of "A frog." are no negatives."""
    source = version_of(debs[0])
    pictures: dict[PurePosixPath, bytes] = {}
    captions: dict[PurePosixPath, tuple[Text, ...]] = {}
    for path, data in files(debs[0], STAMPS):
        if path.suffix in (".png", ".svg"):
            pictures[path] = data
        elif path.suffix == ".txt":
            captions[path.with_suffix("")] = stamp_texts(data.decode("utf-8", "replace"))
    drawn = sorted(path for path in pictures if path.suffix == ".png" or path.with_suffix(".png") not in pictures)
    samples, bad = [], []
    for path, uid in zip(drawn, uids(drawn), strict=True):
        texts = captions.get(path.with_suffix(""))
        if not texts:
            bad.append(QuarantineEntry(uid, "text", "the picture has no caption file (a mirror image or a part)", str(path)))
        elif path.suffix == ".svg":
            bad.append(QuarantineEntry(uid, "image", "the picture is there as a vector drawing only", str(path)))
        else:
            image = BytesImage(pictures[path], str(path))
            group, extras = texts[0].string.casefold(), {"category": path.parts[0], "folder": str(path.parent)}
            samples.append(Sample(uid, image, texts, group=group, licence="GPL-2.0-only", source=source, extras=extras))
    return split_by(samples, [sample.group for sample in samples], "unseen_caption"), bad


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
    source = version_of(png)
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
    for path, uid in zip(sorted(pictures), uids(sorted(pictures)), strict=True):
        card = about.get(path.with_suffix(".svg"), "there is no SVG of that name")
        if isinstance(card, str) or not card.texts():
            reason = card if isinstance(card, str) else "the SVG has no title, description or keywords"
            bad.append(QuarantineEntry(uid, "text", reason, str(path)))
            continue
        extras = {"category": path.parts[0], "folder": str(path.parent), "author": card.author}
        image = BytesImage(pictures[path], str(path))
        samples.append(Sample(uid, image, card.texts(), licence="public-domain", source=source, extras=extras))
    return split_by(samples, [str(sample.extras["author"]) for sample in samples], "unseen_author"), bad


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
    "openclipart": Source(
        ("openclipart-png", "openclipart-svg"), read_clipart, "clip art with titles, descriptions and keywords"
    ),
    "geography": Source(("kgeography-data",), read_geography, "maps with named regions as masks, and flags"),
    "icons": Source((), lambda _: read_icons(), "icons of four families with names, tags and categories"),
}
ALIASES = {"clipart": "openclipart"}
"""Other names of data sets."""
