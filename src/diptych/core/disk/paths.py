"""Checks of paths that come from data: invalid file names, paths that leave their folder, and special files.

A path in a manifest, a caption file that is a link to a secret, a pipe with the name of a picture: each is read only if it is what it
seems to be, a regular file inside the folder that it was found in.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

LONGEST, LONGEST_NAME = 4095, 255
"""Bytes of a path and of each name in it, as Linux has them."""

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


PICTURE_SUFFIXES = (
    "jpg",
    "jpeg",
    "jpe",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "avif",
    "heic",
    "heif",
    "ppm",
    "jfif",
    "dcm",
)
"""How the names of picture files end."""


def is_picture_name(name: str | Path) -> bool:
    """True if a file name ends as that of an image file does.

    >>> is_picture_name("a/IMG_1.HEIC"), is_picture_name("a red bus")
    (True, False)
    """
    return Path(name).suffix.lower().removeprefix(".") in PICTURE_SUFFIXES


def path_problem(path: str) -> str:
    """Reason why no file can have this path, or "".

    >>> path_problem("a/b.jpg"), path_problem("a" * 300)
    ('', 'a name of 300 bytes, and no file has one of more than 255')
    """
    if "\0" in path:
        return "a path with a NUL character in it"
    data = os.fsencode(path) if _encodable(path) else path.encode("utf-8", "surrogatepass")
    if len(data) > LONGEST:
        return f"a path of {len(data):,} bytes, and no file has one of more than {LONGEST:,}"
    longest = max(map(len, data.split(b"/")))
    return f"a name of {longest:,} bytes, and no file has one of more than {LONGEST_NAME}" if longest > LONGEST_NAME else ""


def printable(name: str) -> str:
    r"""A file name that can be written down and shown: bytes that are not UTF-8 become escapes.

    >>> printable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace") if _encodable(name) else ascii(name)


def is_utf8(name: str) -> bool:
    """True if a file name is UTF-8 on disk; one that is not cannot be written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_file(path: Path) -> bool:
    """True if the path is a regular file; False, not an error, for a path that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def folder_identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a folder, which a folder that takes its place does not have; None if there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino) if stat.S_ISDIR(facts.st_mode) else None


def escapes_folder(path: Path | str, folder: Path | str) -> bool:
    """True if a path below a folder is a symbolic link, or behind one, that leads out of the folder.

    False for a path that is not below the folder to begin with: the user named it.
    """
    top, full_path = os.path.abspath(folder), os.path.abspath(path)
    if not is_below(full_path, top):
        return False
    return not is_below(os.path.realpath(full_path), os.path.realpath(top))


def refuse_link(path: Path | str, folder: Path | str) -> None:
    """Raise OSError for what leads out of its folder."""
    if escapes_folder(path, folder):
        raise OSError(errno.EPERM, f"is a link that leads out of {folder}; `diptych data build --follow-links` reads its target")


def read_file(path: Path | str, within: Path | str | None = None, *, most: int = 0) -> bytes:
    """The bytes of a regular file. Raises OSError for a pipe, a device or a socket, without waiting for anything to come out of it, for
    a path that no file can have, for a link that leads out of `within`, and for more than `most` bytes (0: as many as there are)."""
    with open_file(path, within) as file:
        facts = os.fstat(file.fileno())
        if most and facts.st_size > most:
            raise OSError(errno.EFBIG, f"has {facts.st_size:,} bytes; the limit for such a file is {most:,}")
        return file.read()


def open_file(path: Path | str, within: Path | str | None = None) -> BinaryIO:
    """A regular file, opened for reading; see `read_file`."""
    if fault := path_problem(str(path)):
        raise OSError(errno.EINVAL, f"is {fault}")
    if within is not None:
        refuse_link(path, within)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        refuse_other(os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def refuse_other(facts: os.stat_result) -> None:
    """Raise OSError for anything but a regular file."""
    if not stat.S_ISREG(facts.st_mode):
        kind = KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise OSError(errno.EISDIR if kind == "a folder" else errno.EINVAL, f"is {kind}, not a file")


def file_problem(path: str, within: str | None) -> str:
    """Reason why something listed in a folder, itself no link, cannot be read as a file, or "". Nothing is opened."""
    try:
        if within is not None and os.path.islink(path):
            refuse_link(path, within)
        refuse_other(os.stat(path))
    except OSError as error:
        return str(error.strerror or error)
    return ""


def is_below(path: str, top: str) -> bool:
    """True if an absolute path is a folder or lies below it, by its letters alone."""
    return path == top or path.startswith(top.rstrip(os.sep) + os.sep)


def _encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def unwritable_reason(path: Path) -> str:
    """Reason why no folder can be made at this path, by making one in the nearest folder above it that exists; "" if one can."""
    above = next((parent for parent in path.absolute().parents if parent.exists()), path.absolute())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".diptych-", dir=above))
    except OSError as error:
        return f"{above}: {(error.strerror or str(error)).lower()}"
    return ""


def near_sibling(path: Path) -> str:
    """Hint "; did you mean 'PATH'?" for a path that is not there, by the names beside it; "" if none is like it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean '{path.parent / near[0]}'?" if near else ""
