"""Packages of PubMed Central: one .tar.gz per article with XML and pictures. Members are read in place; nothing is unpacked."""

from __future__ import annotations

import errno
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError
from diptych.core.image import DisplayMixin

ENDINGS = (".tar.gz", ".tgz")
LARGEST_MEMBER, LARGEST, MOST = 256 * 2**20, 4 * 2**30, 20_000
"""Bytes of a member, of all members, and members."""


@dataclass(frozen=True, slots=True)
class PackageImage(DisplayMixin):
    """A picture inside a package. The package is read up to it each time: `diptych data build` does so once."""

    path: Path
    member: str
    within: str | None = None

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member}"

    def read(self) -> bytes:
        try:
            for name, data in _members(self.path, self.within, {self.member}):
                if name == self.member:
                    return data
        except DataError as error:
            raise OSError(errno.EIO, str(error)) from error
        raise OSError(errno.ENOENT, f"is no longer in {self.path}")


def package_files(path: Path, within: str | None, read: tuple[str, ...]) -> tuple[list[str], dict[str, bytes]]:
    """Names of all files of a package, and the bytes of those whose names end in one of `read`.

    Raises DataError for a package that is damaged or too large, and for one in which a name climbs out of it or a link stands.
    """
    names, content = list[str](), dict[str, bytes]()
    for name, data in _members(path, within, None, read):
        names.append(name)
        if name.lower().endswith(read):
            content[name] = data
    return names, content


def _members(
    path: Path, within: str | None, wanted: set[str] | None, endings: tuple[str, ...] = ()
) -> Iterator[tuple[str, bytes]]:
    """Names in order; bytes of `wanted` names, or of names with one of the endings, b"" for others."""
    total = count = 0
    try:
        with open_file(path, within) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for member in tar:
                name = member.name
                if member.isdir():
                    continue
                fault = "climbs out of the archive" if _climbs(name) else "" if member.isfile() else "is a link or a device"
                if fault:
                    raise DataError(f"{name[:100]!r} {fault}", file=path, expected="files below the archive's own folder")
                total, count = total + member.size, count + 1
                if member.size > LARGEST_MEMBER or total > LARGEST or count > MOST:
                    raise DataError(
                        f"{name[:100]!r} makes it too large", file=path, expected=f"at most {MOST:,} files of an article"
                    )
                read = name in wanted if wanted is not None else name.lower().endswith(endings)
                stream = tar.extractfile(member) if read else None
                yield name, stream.read() if stream else b""
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"is not a complete .tar.gz: {error}", file=path, expected="a package of PubMed Central") from error


def _climbs(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
