"""Panels of compound figures: boxes by white gutters (recursive X-Y cut; Nagy and Seth, 1984), texts by the letters of a caption.

Letters: H W pixels of the figure, N lines of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.cropped import CroppedImage

COLUMN = "panels"
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the figure."""
_LETTER = re.compile(r"(?P<open>\(?)(?P<letter>[A-Za-z])(?P<close>[),:.])(?=\s)")
_TAIL = re.compile(r"[\s,;]+(?:and\s*)?$")
_STARTS = re.compile(r"(?:^|[.;:,]|\band)\s*$")


def panel_boxes(
    figure_HWC: npt.NDArray[np.uint8], *, background: int = 220, gutter: float = 0.005, smallest: float = 0.15
) -> tuple[Box, ...]:
    """Boxes of the panels of a figure, row by row and from left to right; one box, the whole figure, where it is not compound.

    background  level from which on a pixel is background, in every channel: JPEG leaves shadows on white beside a picture
    gutter      width of a white gutter, as a share of the figure's longer side (three pixels at least)
    smallest    side of a panel, as a share of the figure's: what is smaller (letters, titles, axis labels) stays with its neighbour
    """
    if figure_HWC.ndim != 3 or figure_HWC.shape[2] != 3:
        raise DataError(f"a figure is {list(figure_HWC.shape)}", field="figure_HWC", expected="[H, W, 3], uint8")
    ink_HW: npt.NDArray[np.bool_] = np.any(figure_HWC < background, axis=2)
    height, width = ink_HW.shape
    widest = max(3, round(gutter * max(height, width)))
    least = (max(1, round(smallest * height)), max(1, round(smallest * width)))
    boxes = tuple(_cut(ink_HW, (0, 0, width, height), widest, least))
    return boxes if len(boxes) > 1 else ((0, 0, width, height),)


def _cut(ink_HW: npt.NDArray[np.bool_], box: Box, gutter: int, least: tuple[int, int]) -> Iterator[Box]:
    """Panels of a box: cut by rows, else by columns, until neither finds a gutter."""
    left, top, right, bottom = box
    for axis in (0, 1):
        inked_N: npt.NDArray[np.bool_] = np.any(ink_HW[top:bottom, left:right], axis=1 - axis)
        parts = _parts(inked_N, gutter, least[axis])
        if len(parts) > 1:
            for start, stop in parts:
                part = (left, top + start, right, top + stop) if axis == 0 else (left + start, top, left + stop, bottom)
                yield from _cut(ink_HW, part, gutter, least)
            return
    yield _inked(ink_HW, box)


def _parts(inked_N: npt.NDArray[np.bool_], gutter: int, least: int) -> list[tuple[int, int]]:
    """Stretches of inked lines between gutters; one that is too short joins the nearer neighbour."""
    lines = np.flatnonzero(inked_N)
    if not len(lines):
        return []
    breaks = np.flatnonzero(np.diff(lines) > gutter)
    starts, stops = lines[[0, *(breaks + 1)]], lines[[*breaks, len(lines) - 1]] + 1
    parts = [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
    while len(parts) > 1 and (short := next((n for n, (a, b) in enumerate(parts) if b - a < least), None)) is not None:
        before = parts[short][0] - parts[short - 1][1] if short else None
        after = parts[short + 1][0] - parts[short][1] if short + 1 < len(parts) else None
        first = short - 1 if after is None or (before is not None and before <= after) else short
        parts[first : first + 2] = [(parts[first][0], parts[first + 1][1])]
    return parts


def _inked(ink_HW: npt.NDArray[np.bool_], box: Box) -> Box:
    left, top, right, bottom = box
    part_HW = ink_HW[top:bottom, left:right]
    rows, columns = np.flatnonzero(part_HW.any(1)), np.flatnonzero(part_HW.any(0))
    if not len(rows):
        return box
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def panel_texts(caption: str) -> tuple[str, tuple[str, ...]]:
    """(what is said of the whole figure, text of panel A, of B, ...) of a caption whose panels are lettered in order; no texts where the
    letters do not lead their texts or are not A, B, C ... without a gap.

    >>> panel_texts("Lung biopsy. (A) Low power. (B) High power, arrow: nodule.")
    ('Lung biopsy.', ('Low power.', 'High power, arrow: nodule.'))
    >>> panel_texts("Levels of T4 in males (A) and females (B).")
    ('Levels of T4 in males (A) and females (B).', ())
    """
    marks = list[re.Match[str]]()
    for match in _LETTER.finditer(caption):
        bracketed = match["open"] == "(" and match["close"] == ")"
        bare = not match["open"] and match["letter"].isupper()
        expected = chr(ord("a") + len(marks))
        if (bracketed or bare) and match["letter"].lower() == expected and _STARTS.search(caption[: match.start()]):
            marks.append(match)
    if len(marks) < 2:
        return caption, ()
    stops = [*(mark.start() for mark in marks[1:]), len(caption)]
    texts = tuple(_TAIL.sub("", caption[mark.end() : stop]).strip() for mark, stop in zip(marks, stops, strict=True))
    return (caption[: marks[0].start()].strip(), texts) if all(texts) else (caption, ())


def panels_as_rows(data: Pool, *, column: str = COLUMN) -> Pool:
    """Pool with a row a panel in place of each compound figure, by the boxes that `diptych curate pubmed` wrote into `column`.

    A panel's text is the part of the caption about the whole figure followed by the part about the panel, if the caption has as
    many letters as the figure has panels; else the whole caption. The group stays the article's. Nothing is decoded before a panel is.
    """
    return Pool.from_samples(_panels(data, column), name=f"panels of {data.name}")


def _panels(data: Pool, column: str) -> Iterable[Sample]:
    for row in range(len(data)):
        sample = data[row]
        edges = [int(value) for value in sample.extras.get(column) or ()]
        boxes = list(zip(*(edges[at::4] for at in range(4)), strict=True))
        if len(boxes) < 2 or sample.image is None:
            yield sample
            continue
        read = [(text, panel_texts(text.string)) for text in sample.positives()]
        for number, box in enumerate(boxes):
            texts = tuple(
                replace(text, string=f"{whole} {parts[number]}".strip()) if len(parts) == len(boxes) else text
                for text, (whole, parts) in read
            )
            extras = {name: value for name, value in sample.extras.items() if name != column}
            image = CroppedImage(sample.image, (box[0], box[1], box[2], box[3]))
            yield replace(sample, uid=f"{sample.uid}-{number}", image=image, texts=texts, extras=extras)
