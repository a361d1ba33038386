"""Icons of four open families, drawn from the SVG files of their Python packages; the extra `icons` installs them.

    tabler       outline and filled, with tags and categories      pytablericons, MIT
    fontawesome  solid and regular, with search terms              fontawesomefree, CC-BY-4.0
    lucide       outline                                           lucide, ISC
    heroicons    outline and solid                                 heroicons, MIT

Logos are left out: their names do not say what is drawn. resvg draws each icon black on a white square of `SIDE` pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from PIL import Image, ImageOps

from diptych.core.errors import MissingExtra
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.terminal.progress import with_bar
from diptych.data.dataset import Pool
from diptych.data.hold_out import hold_out
from diptych.data.quarantine import QuarantineEntry

SIDE = 96
HELD_OUT_FAMILY = "heroicons"
NEEDED_FOR = "the data set icons"
_ABOUT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_VIEW_BOX = re.compile(r'viewBox="\s*[-\d.]+[ ,]+[-\d.]+[ ,]+([\d.]+)[ ,]+([\d.]+)\s*"')


@dataclass(frozen=True, slots=True)
class Icon:
    """A drawing of a family: its key there, its SVG, its name in words, and tags and category where the family has them."""

    family: str
    style: str
    key: str
    svg: str
    name: str
    tags: tuple[str, ...] = ()
    category: str = ""


def read_icons() -> tuple[list[Sample], list[QuarantineEntry]]:
    """A sample for each icon; drawings of one name are one group.

    Splits: "train", "unseen_family" (heroicons), "unseen_concept" (a share of the first words of names, such as "home" with "home check",
    by the other families) and "unseen_both". Raises MissingExtra if a package is not installed.
    """
    samples, bad = [], []
    families = [(_package(package), licence, read) for package, licence, read in FAMILIES]
    for package, licence, read in families:
        source = f"pypi:{package.metadata['Name']} {package.version}"
        icons = sorted(read(package), key=lambda icon: (icon.style, icon.key))
        for icon in with_bar(icons, len(icons), f"drawing {icons[0].family}"):
            uid = f"{icon.family}-{icon.style}-{icon.key}"
            try:
                image = BytesImage(draw(icon.svg), uid)
            except ValueError as error:
                bad.append(QuarantineEntry(uid, "image", f"the SVG cannot be drawn: {error}", uid))
                continue
            texts = (Text(icon.name, "en", "label"), *([Text(", ".join(icon.tags), "en", "tags")] if icon.tags else []))
            extras = {"family": icon.family, "style": icon.style, "category": icon.category}
            samples.append(Sample(uid, image, texts, group=icon.name, licence=licence, source=source, extras=extras))
    return [
        replace(one, extras={**one.extras, "split": split}) for one, split in zip(samples, _splits(samples), strict=True)
    ], bad


def _splits(samples: list[Sample]) -> list[str]:
    """Split of each icon; equal drawings get the same split, regardless of their names."""
    concepts = Pool.from_samples([replace(one, group=one.group.partition(" ")[0]) for one in samples], name="icons")
    digests = [hashlib.sha256(one.image.read()).hexdigest() if one.image is not None else "" for one in samples]
    splits = hold_out(concepts.with_columns({"sha256": digests}), {"family": [HELD_OUT_FAMILY]}).column("split")
    return list(map(str, splits))


def draw(svg: str, side: int = SIDE) -> bytes:
    """PNG of an SVG, black on a white square of `side` pixels that it fills in one direction. Raises ValueError if it is not a
    valid SVG."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtra("resvg-py", "icons", needed_for=NEEDED_FOR) from error
    sides = _VIEW_BOX.search(svg)
    tall = sides is not None and float(sides[2]) > float(sides[1])
    width, height = (None, side) if tall else (side, None)
    # No fonts: icons are outlines, and a system's own fonts would make the same icon differ between machines.
    png = svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True, width=width, height=height)
    drawn = Image.open(io.BytesIO(png)).convert("L")
    made = io.BytesIO()
    ImageOps.pad(drawn, (side, side), color=255).save(made, "png")
    return made.getvalue()


def _package(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise MissingExtra(name, "icons", needed_for=NEEDED_FOR) from error


def _words(name: str) -> str:
    return name.replace("-", " ").casefold()


def _tabler(package: Distribution) -> Iterator[Icon]:
    for path in sorted(Path(str(package.locate_file("pytablericons/icons"))).glob("*/*.svg")):
        svg = path.read_text(encoding="utf-8")
        match = _ABOUT.search(svg)
        about = dict(line.split(":", 1) for line in match[1].strip().splitlines() if ":" in line) if match else {}
        category = about.get("category", "").strip()
        if category != "Brand":
            tags = [tag.strip().strip("\"'") for tag in about.get("tags", "").strip().strip("[]").split(",")]
            yield Icon("tabler", path.parent.name, path.stem, svg, _words(path.stem), tuple(filter(None, tags)), category)


def _fontawesome(package: Distribution) -> Iterator[Icon]:
    file = Path(str(package.locate_file("fontawesomefree/static/fontawesomefree/metadata/icons.json")))
    for key, about in json.loads(file.read_text(encoding="utf-8")).items():
        tags = tuple(str(term).casefold() for term in about["search"]["terms"])
        for style, drawing in about["svg"].items():
            if style != "brands":
                yield Icon("fontawesome", style, key, drawing["raw"], str(about["label"]).casefold(), tags)


def _zipped(family: str, file: str, package: Distribution) -> Iterator[Icon]:
    """Icons of a zip file of STYLE/NAME.svg, or of NAME.svg for outlines. Sizes below 24 pixels are smaller drawings of the same."""
    with zipfile.ZipFile(str(package.locate_file(file))) as archive:
        for member in archive.namelist():
            style, _, name = member.rpartition("/")
            if name.endswith(".svg") and style in ("", "outline", "solid"):
                key = name.removesuffix(".svg")
                yield Icon(family, style or "outline", key, archive.read(member).decode("utf-8"), _words(key))


def _lucide(package: Distribution) -> Iterator[Icon]:
    return _zipped("lucide", "lucide/lucide.zip", package)


def _heroicons(package: Distribution) -> Iterator[Icon]:
    return _zipped("heroicons", "heroicons/heroicons.zip", package)


FAMILIES = (
    ("pytablericons", "MIT", _tabler),
    ("fontawesomefree", "CC-BY-4.0", _fontawesome),
    ("lucide", "ISC", _lucide),
    ("heroicons", "MIT", _heroicons),
)
"""Python package, licence of its icons, and how they are read."""
