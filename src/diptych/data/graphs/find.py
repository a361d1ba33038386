"""Files that annotations name: JSON that is whole, and images wherever the usual folders have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import is_file, read_file
from diptych.core.errors import DataError, DecodeError
from diptych.data.media.decode import probe

SUFFIXES = (".jpg", ".png", ".webp", ".jpeg")
DEPTH = 3  # folders below the annotations, or below the folder above them
MOST_FOLDERS = 1000
HEADER = 2**18  # bytes: more than any header that is not hostile


def load_json(path: Path) -> Any:
    """The value in a JSON file; one that was cut off or is no JSON is named with its line."""
    try:
        return parse_json(read_file(path))
    except FileNotFoundError:
        raise DataError("does not exist", file=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start}", file=path) from error
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}", file=path) from error
    except ValueError as error:
        raise DataError(str(error), file=path, expected="annotations") from error


def read_text(path: Path) -> str:
    """Text of a file beside annotations. Raises DataError if it cannot be read or is not UTF-8."""
    try:
        return read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start}", file=path) from error


def load_list(path: Path, of: str = "images") -> list[Any]:
    """The list in a JSON file."""
    value = load_json(path)
    if not isinstance(value, list):
        raise DataError(f"holds a {type(value).__name__}", file=path, expected=f"a list of {of}")
    return value


def files_of(source: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """The file that was given, or those of a folder with the names of the format; none is an error."""
    files = [source] if source.is_file() else matching_files(source, *patterns)
    if not files:
        raise DataError(f"contains no {what}", file=source, expected=" or ".join(patterns))
    return files


def matching_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of the first pattern that fits any, sorted; none if no pattern does."""
    for pattern in patterns:
        if files := sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith(".")):
            return files
    return []


class ImageFinder:
    """Looks for images in the folder that was given, beside the annotation file, in the folder above, and in their folders; or
    below `root` alone.

    Where the last image lay is tried first, so that a set in one or two folders costs one or two looks an image.
    """

    def __init__(self, file: Path, source: Path, root: Path | None = None) -> None:
        here = file.resolve().parent
        given = [source.resolve()] if source.is_dir() else []
        self._tops = [[root]] if root is not None else [list(dict.fromkeys([here, *given])), [here.parent]]
        self._known: list[Path] = []
        self._rest = self._below()

    def find(self, names: Sequence[str]) -> Path | None:
        """The file with one of these names (they may hold folders: ``val2017/1.jpg``), or None."""
        for number, folder in enumerate(self._known):
            if path := _first_file(folder, names):
                if number:
                    self._known.insert(0, self._known.pop(number))
                return path
        for folder in self._rest:
            path = _first_file(folder, names)
            self._known.insert(0 if path else len(self._known), folder)
            if path:
                return path
        return None

    def _below(self) -> Iterator[Path]:
        """The folders of the data to their depth first: neighbours of theirs may be thousands."""
        seen = set[Path]()
        for tops in self._tops:
            level, most = list(tops), len(seen) + MOST_FOLDERS
            for _ in range(DEPTH + 1):
                deeper: list[Path] = []
                for folder in level:
                    if folder in seen or len(seen) >= most:
                        continue
                    seen.add(folder)
                    yield folder
                    if folder.is_dir():
                        deeper += sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
                level = deeper


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an image from its header."""
    with path.open("rb") as file:
        head = file.read(HEADER)
        try:
            info = probe(head, name=str(path))
        except DecodeError:
            try:
                info = probe(head + file.read(), name=str(path))
            except DecodeError as error:  # annotations may name any file: nothing of its content is said
                problem = error.problem.partition(":")[0] if error.problem.startswith("not an image") else "cannot be decoded"
                raise DecodeError(problem, file=error.file, expected=error.expected) from None
    return info.width, info.height


def names_of(number: object) -> list[str]:
    """Candidate file names of an image given by number: ``17.jpg``, ``17.png``, ..."""
    return [f"{number}{suffix}" for suffix in SUFFIXES]


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((path for name in names if is_file(path := folder / name)), None)
