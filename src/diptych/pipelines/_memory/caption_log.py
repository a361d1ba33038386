"""Log of timed captions, from a table, or by a captioner from a folder of frames.

A table has the columns `timestamp` (frames) and `caption`, and those that say of which video a row is: `cid` and `vid`, or `q_uid`. Frames
carry their time in seconds as their name (`12.5.jpg`), or in a table `times.csv` beside them with the columns `file` and `seconds`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from diptych.core.contracts import Generator
from diptych.core.disk.line_log import LineLog
from diptych.core.errors import DataError
from diptych.core.image import FileImage

TIMES = "times.csv"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
ESCAPED = str.maketrans({"\t": "\\t", "\r": "\\r", "\n": "\\n"})
AT_ONCE = 8
"""Frames that are captioned between two writes to disk."""


@dataclass(frozen=True, slots=True)
class TimedCaption:
    """Caption of a stretch of video; start and end in frames, the same for a caption of one moment.

    spans  shown as an interval also where it is one moment, as those of a digest without a margin are
    """

    start: int
    end: int
    text: str
    spans: bool = False

    @property
    def shown(self) -> str:
        """Time in the form that the prompt has."""
        return f"[{self.start}, {self.end}]" if self.spans or self.start != self.end else str(self.start)


Memory = tuple[TimedCaption, ...]


def read_captions(path: Path) -> dict[tuple[str, ...], Memory]:
    """The rows of a table by (cid, vid), by (q_uid,), or by () where it has neither, in their order."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="a CSV table with timestamp and caption") from error
    if not rows:
        raise DataError("has no captions", file=path, expected="a header and one row or more")
    columns = {name for name in rows[0] if name}
    if missing := sorted({"timestamp", "caption"} - columns):
        raise DataError(f"there is no column {missing[0]}", file=path, field=missing[0], expected="timestamp and caption")
    key = ("cid", "vid") if {"cid", "vid"} <= columns else ("q_uid",) if "q_uid" in columns else ()
    captions_of: dict[tuple[str, ...], list[TimedCaption]] = {}
    for number, row in enumerate(rows, start=1):
        start, end = _moment(row["timestamp"], path, number)
        spans = (row["timestamp"] or "").lstrip().startswith("[")
        captions_of.setdefault(tuple(row[name] for name in key), []).append(TimedCaption(start, end, row["caption"] or "", spans))
    return {name: tuple(captions) for name, captions in captions_of.items()}


def _moment(text: str | None, file: Path, row: int) -> tuple[int, int]:
    """Start and end in frames, from a number, or "[first, last]" as a digest has them."""
    parts = (text or "").strip().removeprefix("[").removesuffix("]").split(",")
    try:
        numbers = [round(float(part)) for part in parts]
    except (ValueError, OverflowError):
        numbers = []
    if len(numbers) not in (1, 2) or numbers[0] > numbers[-1]:
        raise DataError(f"is {text!r}", file=file, row=row, field="timestamp", expected="a number of frames, or [first, last]")
    return numbers[0], numbers[-1]


def frames_of(folder: Path) -> list[tuple[float, Path]]:
    """File of each frame by seconds, in time. Raises DataError for a name that is no time, and for two frames of one time."""
    if not folder.is_dir():
        raise DataError("is no folder", file=folder, expected="a folder of frames")
    frames = _timed(folder / TIMES) if (folder / TIMES).is_file() else [_named(path) for path in _pictures(folder)]
    if not frames:
        raise DataError("holds no frame", file=folder, expected=f"pictures named by their second (12.5.jpg), or {TIMES}")
    frames.sort()
    for (time, first), (other, second) in pairwise(frames):
        if time == other:
            raise DataError(
                f"{first.name} and {second.name} are both of second {time:g}", file=folder, expected="one frame a time"
            )
    return frames


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def _named(path: Path) -> tuple[float, Path]:
    try:
        return float(path.stem), path
    except ValueError as error:
        raise DataError("is not named by its second", file=path, expected=f"12.5.jpg, or a table {TIMES} beside it") from error


def _timed(table: Path) -> list[tuple[float, Path]]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    frames = []
    for number, row in enumerate(rows, start=1):
        try:
            seconds, path = float(row["seconds"]), table.parent / row["file"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"is {row}", file=table, row=number, expected="file and seconds") from error
        if not path.is_file():
            raise DataError(
                f"there is no frame {row['file']}", file=table, row=number, field="file", expected="a picture beside the table"
            )
        frames.append((seconds, path))
    return frames


def caption_frames(
    captioner: Generator, folder: Path, *, prompt: str, fps: float, max_tokens: int, log: Path | None
) -> tuple[Memory, int]:
    """Caption of each frame, and how many were generated now; frames in the log are not captioned again.

    fps  frames per second of the video that the frames were taken from: times of the log count in them
    """
    frames = frames_of(folder)
    about: dict[str, Any] = {
        "captions of": str(folder),
        "captioner": f"{getattr(captioner, 'name', type(captioner).__name__)} {getattr(captioner, 'fingerprint', '')}".strip(),
        "prompt": prompt,
        "max_tokens": max_tokens,
    }
    with LineLog(log, about) as cache:
        missing = [(time, path) for time, path in frames if f"{time:g}" not in cache]
        for some in (missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)):
            texts = captioner.generate([FileImage(path) for _, path in some], [prompt] * len(some), max_tokens=max_tokens)
            for (time, path), text in zip(some, texts, strict=True):
                cache.write({"id": f"{time:g}", "file": path.name, "caption": text})
        texts = [str(cache.rows[f"{time:g}"]["caption"]) for time, _ in frames]
    captions = [TimedCaption(round(time * fps), round(time * fps), text) for (time, _), text in zip(frames, texts, strict=True)]
    return tuple(captions), len(missing)


def table_of(memory: Sequence[TimedCaption]) -> str:
    """Table of timestamp and caption, both set to the right as pandas prints them: a line each, with breaks as \n.

    >>> print(table_of([TimedCaption(30, 30, "C opens a door"), TimedCaption(90, 90, "C sits")]))
     timestamp        caption
            30 C opens a door
            90         C sits
    """
    plain = all(caption.shown.lstrip("-").isdigit() for caption in memory)
    times = [" timestamp" if plain else "timestamp", *(caption.shown for caption in memory)]
    texts = ["caption", *(caption.text.translate(ESCAPED) for caption in memory)]
    wide, long = max(map(len, times)), max(map(len, texts))
    return "\n".join(f"{time:>{wide}} {text:>{long}}" for time, text in zip(times, texts, strict=True))
