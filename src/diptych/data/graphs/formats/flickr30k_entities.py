"""Flickr30k Entities: captions with bracketed phrases, and the boxes of each entity.

    Sentences/1000092795.txt     Two [/EN#1/people young guys] with [/EN#2/bodyparts shaggy hair] look at their [/EN#3/bodyparts hands] ...
    Annotations/1000092795.xml   object: name (ids, one or more), bndbox (xmin, ymin, xmax, ymax); or nobndbox, scene
    train.txt  val.txt  test.txt one id a line, where they lie beside
    flickr30k-images/1000092795.jpg

A phrase without a box (a scene, id 0, nobndbox) keeps its place in the sentence and has no region, and one of several types
("/people/clothing") has all of them in its kind. A sentence without phrases is passed over. Regions of several entities are called by the
first phrase that means them. Coordinates are as in the files, from 0.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, PhraseAnnotation
from diptych.data.graphs.find import SUFFIXES, read_text

PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^/\s\]]+)+) ([^\]]+)\]")
SPLITS = ("train", "val", "test")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """A folder with Sentences and Annotations."""
    sentences, annotations = source / "Sentences", source / "Annotations"
    for folder in (sentences, annotations):
        if not folder.is_dir():
            raise DataError(f"has no folder {folder.name}", file=source, expected="Sentences, Annotations and the images")
    splits = {
        key: split
        for split in SPLITS
        if (source / f"{split}.txt").is_file()
        for key in read_text(source / f"{split}.txt").split()
    }
    files = sorted(sentences.glob("*.txt"))
    if not files:
        raise DataError("contains no sentence", file=sentences, expected="ID.txt for each image")
    collect = Collector(source, files[0], root=root)

    def entry(row: int, file: Path) -> ImageAnnotation:
        key = file.stem
        made = ImageAnnotation(row, key, [f"{key}{suffix}" for suffix in SUFFIXES])
        made.extras = {"split": splits[key]} if key in splits else {}
        boxes_by_entity = _boxes(annotations / f"{key}.xml")
        names: dict[str, str] = {}
        for line in read_text(file).splitlines():
            if not line.strip():
                continue
            text, phrases = plain(line)
            if not phrases:
                continue
            for entity, _, words, _ in phrases:
                names.setdefault(entity, words)
            made.sentences.append(
                (
                    text,
                    [
                        PhraseAnnotation([list(span)], list(boxes_by_entity.get(entity, ())), kind)
                        for entity, span, _, kind in phrases
                    ],
                )
            )
        boxes = {box.key: box for rows in boxes_by_entity.values() for box in rows}
        made.boxes = [
            BoxAnnotation(
                box.key,
                box.xyxy,
                next((names[entity] for entity, rows in boxes_by_entity.items() if box in rows and entity in names), ""),
            )
            for box in boxes.values()
        ]
        made.sentences = [
            (text, [PhraseAnnotation(phrase.spans, [box.key for box in phrase.boxes], phrase.kind) for phrase in phrases])
            for text, phrases in made.sentences
        ]
        return made

    collect.each(enumerate(files), entry)
    return collect.pool(name)


def plain(line: str) -> tuple[str, list[tuple[str, tuple[int, int], str, str]]]:
    """A sentence without its brackets, and (entity, span, words, kind) for each phrase.

    >>> plain("Two [/EN#1/people young guys] look .")
    ('Two young guys look .', [('1', (4, 14), 'young guys', 'people')])
    """
    text, phrases, end = "", [], 0
    for match in PHRASE.finditer(line):
        text += line[end : match.start()]
        entity, kinds, words = match.groups()
        phrases.append((entity, (len(text), len(text) + len(words)), words, kinds.strip("/")))
        text += words
        end = match.end()
    text += line[end:]
    if "[/EN#" in text:
        raise DataError(f"the sentence {line[:60]!r} has a phrase that cannot be read", expected="[/EN#ID/TYPE words]")
    return text, phrases


def _boxes(file: Path) -> dict[str, list[BoxAnnotation]]:
    """The boxes of each entity."""
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("declares its own entities", file=file, expected="the XML of Flickr30k Entities")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"is not XML: {error}", file=file) from error
    boxes_by_entity: dict[str, list[BoxAnnotation]] = {}
    for number, element in enumerate(tree.iter("object")):
        bndbox = element.find("bndbox")
        if bndbox is None:
            continue
        try:
            x0, y0, x1, y1 = (float(bndbox.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise DataError(
                f"object {number} has a bndbox without four numbers", file=file, expected="xmin, ymin, xmax, ymax"
            ) from None
        box = BoxAnnotation(number, (x0, y0, x1, y1), "", where=f"object {number} of {file.name}")
        for name in element.iter("name"):
            boxes_by_entity.setdefault((name.text or "").strip(), []).append(box)
    return boxes_by_entity
