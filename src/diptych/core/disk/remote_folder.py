"""Folders in object storage (``s3://``, ``gs://``, ``hf://``, ``https://``) as local folders whose shards are fetched when they are read.

    CACHE/remote-data/KEY/remote.json    the address, and size and version of each file as they were listed
    CACHE/remote-data/KEY/data/          the files: small ones are copied at the first open; a shard (.tar) has its size and no content
                                         (a sparse file, which takes no room) until it is read
    CACHE/remote-data/KEY/fetched/       a mark for each shard that has its content; its time is that of the last use

Shards of all folders together take as much as `DIPTYCH_REMOTE_CACHE_GIB` says, or half of what is free; those that were not used for
longest make room. Processes of a machine share them. What fails is tried again; then the run ends in one line, and can be resumed.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import parse_json, read_object
from diptych.core.disk.lock import Lock
from diptych.core.errors import ConfigError, DataError, DiptychError, RunError

PART = "remote-data"
LISTING = "files.json"
"""Beside the shards: {"files": {name: {"size": bytes, "version": text}}}. Without one the storage is asked for its list."""
LIMIT = "DIPTYCH_REMOTE_CACHE_GIB"
TRIES = 6
FIRST_PAUSE = 0.5
"""Seconds before the second try; each pause is about twice the one before."""
GIB = 2**30
LONGEST_LISTING = 2**28
"""Bytes of LISTING: some millions of files."""
LARGEST_FILE = 2**43
LOCAL = re.compile(
    rf"(.*?{re.escape(os.sep)}{PART}{re.escape(os.sep)}[0-9a-f]{{24}}){re.escape(os.sep)}data{re.escape(os.sep)}(.+)", re.DOTALL
)
"""Path of a local file: folder of the remote one, and name there. A user's own folder may be called remote-data, too."""
_ahead: set[str] = set()


def filesystem_of(address: str) -> tuple[Any, str]:
    """The file system of an fsspec address, and the path there. Raises DataError for one whose package is missing."""
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(address)
    except ImportError as error:  # of the package that reads this kind of address
        reason = next(iter(str(error).splitlines()), "a package is missing")
        raise DataError(
            f"cannot be reached: {reason}", file=address, expected="that package installed, or a local copy"
        ) from error
    except ValueError as error:
        raise DataError(str(error), file=address, expected="an address that fsspec reads, or a local copy") from error
    return filesystem, str(path)


def open_remote(address: str) -> Path:
    """The local folder of a remote one. Lists it, copies small files that are new or changed, and makes room for its shards.

    Raises DataError for a folder that is not there, is empty or may not be read, ConfigError for a limit that the disk does not have.
    """
    root = cache_folder() / PART / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:24]
    limit_bytes(root)
    files = _listed(address)
    before = read_object(root / "remote.json")["files"] if (root / "remote.json").is_file() else {}
    with _locked(root / "open.lock"):
        new = {name: of for name, of in files.items() if before.get(name) != of or not (root / "data" / name).is_file()}
        small, free = sum(of["size"] for name, of in new.items() if not name.endswith(".tar")), shutil.disk_usage(root).free
        if small > free:
            raise DataError(
                f"has {small / GIB:.1f} GiB beside its shards, and {root} has room for {free / GIB:.1f}", file=address
            )
        for name, facts in new.items():
            local = root / "data" / name
            local.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".tar"):
                _forget(root, name)
                _make_sparse(local, facts["size"])
            else:
                _download(address, name, facts["size"], local)
        for name in set(before) - set(files):
            _forget(root, name)
            (root / "data" / name).unlink(missing_ok=True)
        write_json(root / "remote.json", {"address": address.rstrip("/"), "files": files})
    return root / "data"


def is_remote(path: str | os.PathLike[str]) -> bool:
    """True for a file that `open_remote` made."""
    return LOCAL.fullmatch(os.fspath(path)) is not None


def open_fetched(path: Path, flags: int) -> int:
    """Handle of a file (`os.open`), of a remote shard once it has its content."""
    if not is_remote(path):
        return os.open(path, flags)
    while True:
        token = _fetch(path)
        handle = os.open(path, flags)
        if token is None or _token(_mark(*_place(path))) == token:
            return handle
        os.close(handle)  # it made room for another between the two calls


def fetch_ahead(paths: Iterable[Path]) -> None:
    """Fetches shards in the background, in this order; each is asked for once at a time. What fails is left to the one who reads it."""
    waiting = [path for path in dict.fromkeys(paths) if is_remote(path) and os.fspath(path) not in _ahead]
    if not waiting:
        return
    _ahead.update(map(os.fspath, waiting))

    def work() -> None:
        try:
            for path in waiting:
                _fetch(path)
                _ahead.discard(os.fspath(path))
        except (OSError, DiptychError):
            return
        finally:  # those after a failure may be asked for again
            _ahead.difference_update(map(os.fspath, waiting))

    threading.Thread(target=work, daemon=True, name="fetch ahead").start()


def limit_bytes(root: Path) -> int:
    """Bytes that fetched shards may take. Raises ConfigError for a limit that is no number, or that the disk does not have."""
    limit, most = _limit_and_most(root)
    if limit > most:
        given = os.environ.get(LIMIT, "")
        raise ConfigError(f"{LIMIT} is {given}, and the disk of {root.parent} has room for {most / GIB:.1f} GiB (expected less)")
    return limit


def _limit_and_most(root: Path) -> tuple[int, int]:
    """The limit in bytes, and what shards could take on this disk as it is now."""
    root.mkdir(parents=True, exist_ok=True)
    held = sum(size for _, _, size in _held(root.parent))
    free = shutil.disk_usage(root).free
    given = os.environ.get(LIMIT, "")
    if not given:
        return held + free // 2, held + free
    try:
        limit = int(float(given) * GIB)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise ConfigError(f"{LIMIT} is {given!r} (expected a number of GiB above 0)")
    return limit, held + free


# ---------------------------------------------------------------- shards


def _fetch(path: Path) -> str | None:
    """Makes sure that a shard has its content; the token of its mark, None for a file that is no shard."""
    root, name = _place(path)
    if not name.endswith(".tar"):
        return None
    mark = _mark(root, name)
    if token := _token(mark):
        if time.time() - mark.stat().st_mtime > 60:
            os.utime(mark)
        return token
    facts = read_object(root / "remote.json")
    size = int(facts["files"][name]["size"])
    with _locked(mark.with_suffix(".lock")):
        if token := _token(mark):  # another process fetched it meanwhile
            return token
        coming = mark.with_suffix(".coming")
        with _locked(root.parent / "room.lock"):
            _make_room(root, size)
            coming.write_text(f"- {size}")
        try:
            _download(facts["address"], name, size, path)
            token = secrets.token_hex(8)
            mark.write_text(f"{token} {size}")
        finally:
            coming.unlink(missing_ok=True)
        return token


def _make_room(root: Path, size: int) -> None:
    """Takes the content of shards that were not used for longest, until one of this size has room."""
    limit = min(_limit_and_most(root))  # checkpoints of the run may have taken some of the disk since
    if size > limit:
        raise RunError(f"a shard of {size / GIB:.2f} GiB does not fit into {limit / GIB:.2f} GiB: raise {LIMIT}")
    held = _held(root.parent)
    total = sum(each for _, _, each in held)
    for _, mark, each in sorted(held):
        if total + size <= limit:
            return
        if mark.suffix == ".coming":
            continue
        owner, name = mark.parent.parent, _name_of(mark)
        mark.unlink(missing_ok=True)
        _make_sparse(owner / "data" / name, each)
        total -= each


def _held(folder: Path) -> list[tuple[float, Path, int]]:
    """Time of the last use, mark and size of each shard that is there or on its way."""
    held = []
    for mark in [*folder.glob("*/fetched/*.mark"), *folder.glob("*/fetched/*.coming")]:
        try:
            held.append((mark.stat().st_mtime, mark, int(mark.read_text().partition(" ")[2] or 0)))
        except (FileNotFoundError, ValueError):
            continue
    return held


def _forget(root: Path, name: str) -> None:
    _mark(root, name).unlink(missing_ok=True)


def _make_sparse(path: Path, size: int) -> None:
    """A file of that size without content, in place of what is there: who has that open still reads it."""
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with work.open("wb") as file:
        file.truncate(size)
    work.replace(path)


def _place(path: Path) -> tuple[Path, str]:
    """Folder of the remote one, and the name of a file there."""
    parts = LOCAL.fullmatch(os.fspath(path))
    assert parts is not None
    return Path(parts[1]), parts[2].replace(os.sep, "/")


def _mark(root: Path, name: str) -> Path:
    folder = root / "fetched"
    folder.mkdir(exist_ok=True)
    return folder / f"{name.replace('%', '%25').replace('/', '%2F')}.mark"


def _name_of(mark: Path) -> str:
    """Name of the shard; a "%2F" that the storage has in a name stays one, and leads to no other folder."""
    return mark.name.removesuffix(".mark").replace("%2F", "/").replace("%25", "%")


def _token(mark: Path) -> str:
    try:
        return mark.read_text().partition(" ")[0]
    except FileNotFoundError:
        return ""


# ---------------------------------------------------------------- storage


def _listed(address: str) -> dict[str, dict[str, Any]]:
    """Name -> size and version of the files of a remote folder."""
    filesystem, base = filesystem_of(address)
    base, files = base.rstrip("/"), dict[str, dict[str, Any]]()
    try:
        if filesystem.exists(f"{base}/{LISTING}"):
            text = filesystem.cat_file(f"{base}/{LISTING}", start=0, end=LONGEST_LISTING + 1)
            if len(text) > LONGEST_LISTING:
                raise ValueError(f"{LISTING} has more than {LONGEST_LISTING / GIB:g} GiB")
            given: dict[str, dict[str, Any]] = parse_json(text)["files"]
            files = {str(name): {"size": int(of["size"]), "version": str(of.get("version", ""))} for name, of in given.items()}
        else:
            listed = filesystem.find(base, detail=True)
            files = {path.removeprefix(base).lstrip("/"): _facts(info) for path, info in listed.items()}
    except PermissionError as error:
        raise DataError("may not be read", file=address, expected="credentials with a right to list and read it") from error
    except FileNotFoundError as error:
        raise DataError("does not exist", file=address, expected="a folder") from error
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be listed: {next(iter(str(error).splitlines()), '')[:200]}", file=address) from error
    files = {name: of for name, of in files.items() if of["size"] or (name and not name.endswith("/"))}  # no marks of folders
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    for name, of in files.items():
        pure = PurePosixPath(name)
        if str(pure) != name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or name in folders:
            raise DataError(f"lists the file {name[:80]!r}", file=address, expected="files of its own")
        if not 0 <= of["size"] <= LARGEST_FILE:
            raise DataError(f"lists {name[:80]!r} with {of['size']:,} bytes", file=address, expected=f"0 to {LARGEST_FILE:,}")
    if not files:
        raise DataError("does not exist, or is empty", file=address, expected="a folder with data")
    return files


def _facts(info: dict[str, Any]) -> dict[str, Any]:
    version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
    return {"size": int(info.get("size") or 0), "version": str(version)}


def _download(address: str, name: str, size: int, local: Path) -> None:
    """Copies a file, checked by its size; tried again after a pause where that fails."""
    work = local.with_name(f".{local.name}.{secrets.token_hex(4)}")
    pause, problem = FIRST_PAUSE, ""
    try:
        for number in range(TRIES):
            if number:
                time.sleep(pause * (0.5 + random.random()))
                pause *= 2
            try:
                filesystem, base = filesystem_of(address)
                filesystem.get_file(f"{base.rstrip('/')}/{name}", str(work), callback=_at_most(size))
                if (there := work.stat().st_size) != size:
                    raise OSError(f"{there:,} of {size:,} bytes came")
                work.replace(local)
                return
            except PermissionError as error:
                raise DataError("may not be read", file=f"{address}/{name}", expected="credentials with a right to it") from error
            except Exception as error:  # each storage has errors of its own
                problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:160]}"
    finally:
        work.unlink(missing_ok=True)
    raise RunError(f"{address}/{name} could not be fetched in {TRIES} tries ({problem}): resume when the storage answers")


def _at_most(size: int) -> Any:
    """A callback of fsspec that ends a download of more bytes: an answer without end would fill the disk."""
    from fsspec.callbacks import Callback

    class AtMost(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > size:
                raise OSError(f"more than {size:,} bytes came")

    return AtMost()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock that other processes take as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := Lock.take(path)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.close()
