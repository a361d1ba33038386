"""Debian packages as sources of data: downloaded and read member by member, never installed.

`apt-get download` checks the signatures. No member is written to a path that it names.
"""

from __future__ import annotations

import posixpath
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from diptych.core.errors import DataError, RunError
from diptych.data.read.naming import uids_of

Files = Iterator[tuple[PurePosixPath, bytes]]
Links = dict[PurePosixPath, PurePosixPath]
Found = TypeVar("Found")


@contextmanager
def debs_folder(out: Path, keep: bool) -> Iterator[Path]:
    """Folder of downloaded archives: beside `out` when they are kept, else a temporary one."""
    if keep:
        folder = out.with_name(f"{out.name}-debs")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="diptych-fetch-") as scratch:
            yield Path(scratch)


def deb_of(package: str, folder: Path, progress: bool) -> Path:
    """The archive of a package in `folder`, downloaded when it is not there."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RunError(f"{tool} is not on this machine: fetch on Debian or Ubuntu, then copy the built folder")
    debs = sorted(folder.glob(f"{package}_*.deb"))
    if not debs:
        with working(f"downloading {package}", progress):
            done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
        debs = sorted(folder.glob(f"{package}_*.deb"))
        if done.returncode or not debs:
            raise RunError(_apt_error(package, done.stderr))
    return debs[-1]


def _apt_error(package: str, stderr: str) -> str:
    """One-line reason of a failed apt command, with a remedy."""
    errors = [line[2:].strip() for line in stderr.splitlines() if line.startswith("E:")]
    if any("Unable to locate" in line or "no candidate" in line or "candidate version" in line for line in errors):
        return f"apt knows no package {package}: run `apt-get update` (as root), then fetch again"
    reason = errors[0] if errors else "no message"
    return f"downloading {package} failed ({reason}): check the network or run `apt-get update`, then fetch again"


def version_of(deb: Path) -> str:
    """Package and version of an archive, as "debian:NAME VERSION"."""
    done = subprocess.run(["dpkg-deb", "--field", str(deb), "Package", "Version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError("is not a Debian package", file=deb, expected="the archive that apt-get downloaded")
    fields = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return f"debian:{fields['Package']} {fields['Version']}"


def files(deb: Path, under: str, links: Links | None = None) -> Files:
    """Regular files of a package below the folder `under`, as (path relative to it, bytes), streamed in archive order.

    Symbolic links that stay in the folder are noted in `links` (see `resolve_links`). Devices and entries outside of the folder
    are passed over.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for info in tar:
                    path = _inside(info.name, under)
                    if path is not None and info.issym() and links is not None:
                        links[path] = PurePosixPath(posixpath.normpath(path.parent / info.linkname))
                    if path is None or not info.isreg():
                        continue
                    handle = tar.extractfile(info)
                    assert handle is not None
                    yield path, handle.read()
        except tarfile.TarError as error:
            raise DataError(f"is not readable as a Debian package: {error}", file=deb, expected="a complete download") from error


def resolve_links(links: Links, content_by_path: dict[PurePosixPath, Found]) -> None:
    """Give every link what its target has. Works on names only; a circle or a target outside leads nowhere."""
    for link in sorted(links):
        target, hops = link, 0
        while target in links and hops < len(links):
            target, hops = links[target], hops + 1
        if target in content_by_path:
            content_by_path[link] = content_by_path[target]


def _inside(name: str, under: str) -> PurePosixPath | None:
    path = PurePosixPath(name)
    parts = tuple(part for part in path.parts if part != ".")
    start = PurePosixPath(under).parts
    if path.is_absolute() or ".." in parts or parts[: len(start)] != start or len(parts) == len(start):
        return None
    return PurePosixPath(*parts[len(start) :])


@contextmanager
def working(what: str, progress: bool) -> Iterator[None]:
    """Progress bar on stderr for work of unknown length."""
    if not progress:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def uids(paths: list[PurePosixPath]) -> list[str]:
    """Uids of files from their paths without the ending."""
    return uids_of([str(path.with_suffix("")) for path in paths], [str(path) for path in paths])
