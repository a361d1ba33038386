"""Pictures from prompts: generated, written, and shown on a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.api.models import load
from diptych.core.contracts import ImageGenerator, ReferenceImage
from diptych.core.errors import ConfigError
from diptych.core.inputs import image_of

GAP = 2
"""White pixels between the pictures of a sheet."""
NAMED = 60
"""Letters of a prompt in the names of its files, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedPictures:
    """Generated pictures uint8 [N, H, W, 3], n of each prompt in order, their files, and that of the contact sheet; no files
    without `out`."""

    pixels_NHWC: npt.NDArray[np.uint8]
    files: tuple[Path, ...]
    sheet: Path | None


def generate(
    model: Any,
    prompts: str | Sequence[str],
    *,
    n: int = 1,
    out: str | Path | None = None,
    references: Sequence[tuple[Any, str, tuple[float, float, float, float]]] | None = None,
    negative: str = "",
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0,
) -> GeneratedPictures:
    """Pictures from prompts.

    model       an `ImageGenerator` (the run of text_to_image, reversion or relationbooth), or where to load one from
    prompts     one, or several
    n           pictures of each
    out         folder for the pictures as PNG and for sheet.png, a row for each prompt; None writes nothing
    references  things that every picture should show: (image, phrase, box) with the box x0, y0, x1, y1 as shares of the picture's sides
    negative, steps, guidance, seed  of `ImageGenerator.generate_images`
    """
    made = load(model) if isinstance(model, str | Path) else model
    if not isinstance(made, ImageGenerator):
        raise ConfigError(
            f"{getattr(made, 'name', model)} does not generate pictures (expected the run of text_to_image or hf:FOLDER)"
        )
    words = [prompts] if isinstance(prompts, str) else list(prompts)
    if n < 1 or not words:
        raise ConfigError(f"{len(words)} prompts and n is {n} (expected 1 or more)")
    each = [word for word in words for _ in range(n)]
    given = None
    if references is not None:
        one = [ReferenceImage(image_of(image), phrase, inside_picture(box, phrase)) for image, phrase, box in references]
        given = [one] * len(each)
    pixels_NHWC = made.generate_images(each, references=given, negative=negative, steps=steps, guidance=guidance, seed=seed)
    if out is None:
        return GeneratedPictures(pixels_NHWC, (), None)
    from PIL import Image

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for at, (prompt, pixels_HWC) in enumerate(zip(each, pixels_NHWC, strict=True)):
        files.append(folder / f"{at:04d} {file_words(prompt)}.png")
        Image.fromarray(pixels_HWC).save(files[-1])
    sheet = folder / "sheet.png"
    Image.fromarray(picture_grid(pixels_NHWC, n)).save(sheet)
    return GeneratedPictures(pixels_NHWC, tuple(files), sheet)


def inside_picture(box: tuple[float, float, float, float], phrase: str) -> tuple[float, float, float, float]:
    """The box. Raises ConfigError for one that is empty or leaves the picture."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ConfigError(f"the box of {phrase!r} is {list(box)} (expected x0 < x1 and y0 < y1, all within 0..1)")
    return box


def picture_grid(pixels_NHWC: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Pictures in rows of `columns`, with white between: uint8 [H', W', 3]."""
    count, height, width, _ = pixels_NHWC.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for at, pixels_HWC in enumerate(pixels_NHWC):
        top, left = at // columns * (height + GAP), at % columns * (width + GAP)
        grid[top : top + height, left : left + width] = pixels_HWC
    return grid


def file_words(prompt: str) -> str:
    """A prompt as a part of a file name: letters, digits, blanks and dashes.

    >>> file_words("red circle <R> blue/star")
    'red circle R bluestar'
    """
    return "".join(letter for letter in prompt if letter.isalnum() or letter in " -_")[:NAMED].strip() or "picture"
