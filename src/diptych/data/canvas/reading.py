"""Text of a canvas read back by the shapes of its letters: what a perfect reader of that font would see.

Lines are found by rows of grey on white with nothing left of the indent; each is read from left to right, by the letters
whose drawings differ least. No recogniser for photographs: it measures whether a canvas can still be read.

Letters: H W pixels, A letters of the alphabet.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from diptych.data.canvas.compose import Lettering
from diptych.data.canvas.font import open_font
from diptych.data.media.decode import Pixels

Ink = npt.NDArray[np.int16]
ALPHABET = string.ascii_letters + string.digits + " .,:;?!'()-"
BEAM = 6
SEEN, INKED = 48, 0.6
"""Darkness from which a pixel is ink, of 255; share of ink up to which a row is one of text."""


def read_lines(canvas_HWC: Pixels, lettering: Lettering, *, alphabet: str = ALPHABET, area: float = 1.0) -> list[tuple[int, str]]:
    """The lines of text on a canvas from the top, each with the y of its first row of ink.

    alphabet  letters that may stand there
    area      the canvas was resized to this many times its area: it is taken back to its size first
    """
    if area != 1.0:
        size = round(canvas_HWC.shape[1] / area**0.5), round(canvas_HWC.shape[0] / area**0.5)
        canvas_HWC = np.asarray(Image.fromarray(canvas_HWC).resize(size))
    lines = []
    for top, bottom in _bands(canvas_HWC, lettering.indent, 12 if area == 1.0 else 40):
        ink_HW = 255 - canvas_HWC[top:bottom].min(axis=2).astype(np.int16)
        lines.append((top, _read(ink_HW.tobytes(), ink_HW.shape, lettering, alphabet)))
    return lines


def _bands(canvas_HWC: Pixels, indent: int, colour: int) -> list[tuple[int, int]]:
    """Rows that contain text, as half-open spans (first, end)."""
    spread_HW = canvas_HWC.max(axis=2).astype(np.int16) - canvas_HWC.min(axis=2)
    dark_HW = 255 - canvas_HWC.min(axis=2) >= SEEN
    paper_H = dark_HW.mean(axis=1) <= INKED
    text_H = (spread_HW.max(axis=1) <= colour) & ~dark_HW[:, : indent - 1].any(axis=1) & dark_HW.any(axis=1) & paper_H
    edges = np.flatnonzero(np.diff(np.concatenate([[0], text_H.astype(np.int8), [0]])))
    bands = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    merged: list[tuple[int, int]] = []
    for top, bottom in bands:  # the dot of an i is a band of its own
        if merged and top - merged[-1][1] <= 2 and bottom - merged[-1][0] <= 2 * indent:
            merged[-1] = (merged[-1][0], bottom)
        else:
            merged.append((top, bottom))
    return merged


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """The letters of an alphabet as they are drawn.

    ink_AHW    darkness, from the pen's place to the right, with the line's top in row 0
    step_A     how far each moves the pen
    kern_AA    by how much the second of two letters moves towards the first
    """

    letters: str
    ink_AHW: Ink
    step_A: npt.NDArray[np.int64]
    kern_AA: npt.NDArray[np.int64]


@lru_cache(maxsize=8)
def _shapes(lettering: Lettering, alphabet: str) -> _Shapes:
    font = open_font(lettering.font, lettering.text_size, bold=lettering.bold)
    step_A = np.array([round(font.getlength(letter)) for letter in alphabet])
    drawn = []
    for letter in alphabet:
        canvas = Image.new("L", (int(step_A.max()), 2 * lettering.text_size), 0)
        ImageDraw.Draw(canvas).text((0, 0), letter, fill=255, font=font)
        drawn.append(np.asarray(canvas).astype(np.int16))
    kern = [
        [round(font.getlength(a + b)) - step_A[i] - step_A[j] for j, b in enumerate(alphabet)] for i, a in enumerate(alphabet)
    ]
    return _Shapes(alphabet, np.stack(drawn), step_A, np.array(kern))


@lru_cache(maxsize=4096)
def _read(ink: bytes, shape: tuple[int, int], lettering: Lettering, alphabet: str) -> str:
    ink_HW = np.frombuffer(ink, np.int16).reshape(shape)
    shapes = _shapes(lettering, alphabet)
    tops = sorted({int(np.flatnonzero(one_HW.any(axis=1))[0]) for one_HW in shapes.ink_AHW if one_HW.any()})
    best = (float("inf"), "")
    for top in range(tops[0], tops[-1] + 2):
        best = min(best, _nearest_text(ink_HW, top, lettering.indent, shapes, best))
    return best[1].rstrip()


def _nearest_text(ink_HW: Ink, top: int, indent: int, shapes: _Shapes, finished: tuple[float, str]) -> tuple[float, str]:
    """Nearest text to a band whose first row lies `top` below the line's top, as (distance, text); `finished` if that is
    nearer.
    """
    height, wide = shapes.ink_AHW.shape[1:]
    end = int(np.flatnonzero((ink_HW >= SEEN).any(axis=0))[-1]) + 1
    line_HW = np.zeros((height, ink_HW.shape[1] + 2 * wide), np.int16)
    rows = min(height - top, ink_HW.shape[0])
    line_HW[top : top + rows, : ink_HW.shape[1]] = ink_HW[:rows]
    lost = float(ink_HW[rows:].sum())
    column_W = np.arange(wide)
    beam = [(lost, indent, "")]
    while beam:
        grown = []
        for gap, pen, text in beam:
            moved_A = shapes.kern_AA[shapes.letters.index(text[-1])] if text else np.zeros_like(shapes.step_A)
            for move in np.unique(moved_A).tolist():
                start = max(0, pen + move)
                gap_AW = np.abs(shapes.ink_AHW - line_HW[:, start : start + wide]).sum(axis=1)
                gap_A = np.where(column_W < shapes.step_A[:, None], gap_AW, 0).sum(axis=1)
                for position in np.flatnonzero(moved_A == move).tolist():
                    letter = shapes.letters[position]
                    if letter == " " and (not text or text[-1] == " "):
                        continue
                    behind = start + int(shapes.step_A[position])
                    grown.append((gap + float(gap_A[position]), behind, text + letter))
        grown.sort(key=lambda one: one[0] / (one[1] - indent + 1))
        beam = []
        for gap, pen, text in grown[:BEAM]:
            if pen >= end:
                finished = min(finished, (gap, text))
            elif gap < finished[0]:
                beam.append((gap, pen, text))
    return finished
