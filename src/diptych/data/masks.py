"""Masks of objects: boxes, run-length codes in the COCO layout, and whether two masks touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.scene_graph import Box
from diptych.data.polygons import fill_outlines

Mask = npt.NDArray[np.bool_]
LONGEST = 60
"""Bits of a packed run, at most."""


def box_of(mask_HW: Mask) -> Box | None:
    """The tight half-open xyxy box in pixels; None for an empty mask."""
    rows, columns = np.atleast_1d(mask_HW.any(1)), np.atleast_1d(mask_HW.any(0))
    if not rows.any():
        return None
    height, width = mask_HW.shape
    return (
        float(columns.argmax()),
        float(rows.argmax()),
        float(width - columns[::-1].argmax()),
        float(height - rows[::-1].argmax()),
    )


def touch(a_HW: Mask, b_HW: Mask) -> bool:
    """True if a pixel of one mask is a pixel of the other or one of its eight neighbours."""
    grown = np.pad(a_HW, 1)
    grown = grown[:-2] | grown[1:-1] | grown[2:]
    grown = grown[:, :-2] | grown[:, 1:-1] | grown[:, 2:]
    return bool((grown & b_HW).any())


def encode(mask_HW: Mask) -> dict[str, Any]:
    """COCO compressed run-length code: column-major runs, zeros first, as ``{"size": [h, w], "counts": str}``."""
    flat = np.concatenate(([False], mask_HW.ravel(order="F")))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(edges, prepend=0, append=flat.size - 1).tolist()
    return {"size": list(mask_HW.shape), "counts": _pack(runs)}


def decode(code: dict[str, Any]) -> Mask:
    """Mask of a run-length code of `encode` (or of pycocotools), packed or as a list of runs, as COCO's crowds have it.

    Raises DataError for what is no such code, before anything of the size that it names is made.
    """
    height, width = _size(code.get("size"))
    counts = code.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    runs = _unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int for run in runs):
        raise DataError("runs of a mask are not whole numbers", field="mask", expected="a packed text, or a list of runs")
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise DataError(f"runs of a mask add up to {sum(runs)}", field="mask", expected=f"{height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    mask: Mask = np.repeat(values, runs).reshape((height, width), order="F")
    return mask


def pixels_of(mask: Any, height: int, width: int) -> Mask:
    """The pixels of a region's mask, a code or a list of outlines, in an image of that size.

    Raises DataError for a code of another size, and for anything else.
    """
    if isinstance(mask, list | tuple):
        return fill_outlines(mask, height, width)
    if not isinstance(mask, dict):
        raise DataError(f"a mask is a {type(mask).__name__}", field="mask", expected="a run-length code or a list of outlines")
    if (size := _size(mask.get("size"))) != (height, width):
        raise DataError(f"a mask is {list(size)}", field="mask", expected=f"[{height}, {width}], as its image")
    return decode(mask)


def _size(value: Any) -> tuple[int, int]:
    match value:
        case [int() as height, int() as width] if height >= 0 and width >= 0:
            return height, width
    raise DataError("a mask does not name a size", field="mask", expected="size: [height, width]")


def _pack(runs: list[int]) -> str:
    """Five bits a character from '0' on, low bits first, the sixth says "goes on". From the fourth run on, what is packed is the
    difference to the run two before."""
    out: list[str] = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            out.append(chr(48 + bits + (32 if more else 0)))
            if not more:
                break
    return "".join(out)


def _unpack(text: str) -> list[int]:
    runs: list[int] = []
    shift = value = 0
    for character in text:
        bits = ord(character) - 48
        if shift > LONGEST:
            raise DataError("a run of a mask has no end", field="mask", expected="COCO's packed runs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        shift = value = 0
    return runs
