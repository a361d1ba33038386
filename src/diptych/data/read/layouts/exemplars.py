"""Exemplars of a relation, as ReVersion's benchmark keeps them: a folder of pictures with text.json,

{"0.jpg": ["white cat {} stone wall", "cat {} wall"], "1.jpg": [...]}

in which "{}" stands for the relation. Each picture becomes a sample with its descriptions as texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import escapes_folder
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

FILE = "text.json"
PLACE = "{}"
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")


def holds(path: Path) -> bool:
    """True for a folder with a text.json whose names are those of pictures."""
    if not (path / FILE).is_file():
        return False
    try:
        named = read_object(path / FILE)
    except ValueError:
        return False
    return bool(named) and all(name.lower().endswith(ENDINGS) and isinstance(texts, list) for name, texts in named.items())


def read_exemplars(path: Path, *, name: str = "", within: str | None = None) -> Pool:
    """Pictures of one relation. Raises DataError for a description without "{}", and for a picture that is not there."""
    file = path / FILE
    named: dict[str, Any] = read_object(file)
    samples = []
    for picture, texts in sorted(named.items()):
        where = path / picture
        if not where.is_file():
            raise DataError("does not exist", file=where, expected=f"every picture of {file}")
        if Path(picture).is_absolute() or (within is not None and escapes_folder(where, within)):
            raise DataError(f"lies outside of {path}", file=where, expected="pictures of the folder")
        if not texts or not all(isinstance(text, str) and text.count(PLACE) == 1 for text in texts):
            bad = next((text for text in texts if not isinstance(text, str) or text.count(PLACE) != 1), "no description")
            expected = "words with one {} for the relation"
            raise DataError(f"describes {picture} by {bad!r}", file=file, field=picture, expected=expected)
        uid = picture.replace(".", "_").replace("/", "_")
        samples.append(Sample(uid, FileImage(where, within), tuple(Text(text, "en") for text in texts), group=uid))
    return Pool.from_samples(samples, name=name or path.resolve().name)
