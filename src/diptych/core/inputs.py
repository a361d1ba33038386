"""User input to a model: one item or several, in any supported form. Types are recognised here; `data/media/decode.py` decodes.

An image is a path (a string or a `Path`), encoded bytes, a PIL image, uint8 pixels [H, W, 3] or [H, W, 4], an `ImageSource` or a
`Sample`; a text is a string, a `Text` or a `Sample`. Several are a list of them, an array with one axis more, a data set, or any
other iterable.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from diptych.core.errors import DataError
from diptych.core.image import BytesImage, ImageSource, as_image
from diptych.core.sample import Sample, Text

P = ParamSpec("P")
R = TypeVar("R")
AN_IMAGE = "a path, encoded bytes, a PIL image, uint8 pixels [H, W, 3], a Sample, or a list of them"
A_TEXT = "a string, a Text, a Sample with texts, or a list of them"
FOLLOW_IMAGES = ("prompts", "candidates", "regions", "queries")
"""Arguments that go with the images, one each: for one image given alone, they are what goes with it."""
NAMES = ("objects", "relations", "labels")
"""Arguments that are lists of names: a string is one name, or several with commas between them."""


def image_of(given: Any, *, row: int | None = None) -> ImageSource:
    """One image as an image source. Raises DataError for any other value, with its position; ShapeError for an array of the wrong
    shape.
    """
    if isinstance(given, Sample):
        if given.image is None:
            raise DataError(f"sample '{given.uid}' has no image", row=row, field="image", expected="one with a picture")
        return given.image
    if _from_pil(given):
        return _encode_picture(given)
    if isinstance(given, str | Path | bytes | np.ndarray | ImageSource):
        return as_image(given)
    if isinstance(given, bytearray | memoryview):
        return as_image(bytes(given))
    raise DataError(f"a {type(given).__name__} is not an image", row=row, expected=AN_IMAGE)


def text_of(given: Any, *, row: int | None = None) -> str:
    """One text as a string; of a sample the first that describes its image. Raises DataError for any other value, with its
    position.
    """
    if isinstance(given, str):
        return str(given)  # also numpy's
    if isinstance(given, Text):
        return given.string
    if isinstance(given, Sample):
        if not (texts := given.positives()):
            raise DataError(f"sample '{given.uid}' has no text", row=row, field="texts", expected="one that describes its image")
        return texts[0].string
    raise DataError(f"a {type(given).__name__} is not a text", row=row, expected=A_TEXT)


def names_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """A list of names. A string is one name, or several with commas between them.

    >>> names_of("person, dog"), names_of(["person", "dog"])
    (('person', 'dog'), ('person', 'dog'))
    """
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(name.strip() for name in parts if name.strip()) if isinstance(given, str) else tuple(parts)


def images_of(given: Any) -> tuple[Sequence[ImageSource], bool]:
    """Several images, and whether it was one that was given."""
    if isinstance(given, np.ndarray) and given.ndim == 4:
        given = list(given)
    elif isinstance(given, str | Path | bytes | bytearray | memoryview | np.ndarray | Sample | ImageSource) or _from_pil(given):
        return [image_of(given)], True
    if isinstance(given, list | tuple) and all(isinstance(one, ImageSource) for one in given):
        return given, False
    return [image_of(one, row=row) for row, one in enumerate(_as_list(given, AN_IMAGE))], False


def images_or_none_of(given: Any) -> tuple[Sequence[ImageSource | None], bool]:
    """Several images, each of which may be None, and whether it was one that was given: images of prompts, some of text only."""
    if given is None:
        return [None], True
    if isinstance(given, list | tuple) and any(one is None for one in given):
        return [None if one is None else image_of(one, row=row) for row, one in enumerate(given)], False
    return images_of(given)


def texts_of(given: Any) -> tuple[Sequence[str], bool]:
    """Several texts, and whether it was one that was given."""
    if isinstance(given, str | Text | Sample):
        return [text_of(given)], True
    if isinstance(given, list | tuple) and all(type(one) is str for one in given):
        return given, False
    return [text_of(one, row=row) for row, one in enumerate(_as_list(given, A_TEXT))], False


def one_or_many(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a model that takes sequences `images` or `texts`, or both, made to take one of them too, in any form; the answer then
    has no axis for it. What goes with images one by one (`prompts`, ...) is taken alone with an image that is alone."""
    signature = inspect.signature(method)
    names = list(signature.parameters)

    @wraps(method)
    def taking(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        given, alone = bound.arguments, {"images": False, "texts": False}
        for name, read in (("images", images_or_none_of if "prompts" in names else images_of), ("texts", texts_of)):
            if name in given:
                given[name], alone[name] = read(given[name])
        given.update({name: names_of(given[name]) for name in NAMES if name in given})
        if alone["images"]:
            given.update({name: [given[name]] for name in FOLLOW_IMAGES if name in given})
        result: Any = method(*bound.args, **bound.kwargs)
        if alone["texts"] and "images" in given:
            result = result[:, 0]
        elif alone["texts"]:
            result = result[0]
        return result[0] if alone["images"] else result  # type: ignore[no-any-return]

    if not {"images", "texts"} & set(names):
        raise TypeError(f"{method.__qualname__} takes neither images nor texts")
    return taking


def _as_list(given: Any, expected: str) -> Iterable[Any]:
    if not isinstance(given, dict) and hasattr(given, "__iter__"):
        several: Iterable[Any] = given
        return several
    if not isinstance(given, dict) and hasattr(given, "__len__") and hasattr(given, "__getitem__"):
        return (given[row] for row in range(len(given)))  # a data set
    raise DataError(f"a {type(given).__name__} was given", expected=expected)


def _from_pil(given: Any) -> bool:
    """True for a PIL image, checked without importing PIL."""
    return hasattr(given, "getbands") and hasattr(given, "save")


def _encode_picture(image: Any) -> ImageSource:
    """An image of PIL in bytes that are decoded as a file with the same pixels would be: EXIF rotation, transparency and depth stay."""
    file, exif = io.BytesIO(), image.getexif()
    name = str(getattr(image, "filename", "") or "<PIL image>")
    kind = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16") else "TIFF"
    options: dict[str, Any] = {"compress_level": 0} if kind == "PNG" else {}
    image.save(file, kind, exif=exif, **options)
    return BytesImage(file.getvalue(), name)
