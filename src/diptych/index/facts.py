"""`index.json`: what an index is, written so that a kill leaves the old facts or the new ones. Older formats are brought up to date
when an index is opened; newer ones are refused."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diptych.core.config import from_plain
from diptych.core.disk.files import restore, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import is_file, leads_out
from diptych.core.errors import ConfigError, RunError
from diptych.index.embed import Unreadable
from diptych.index.filters import Kind

FORMAT = 2
SERVER = "QDRANT_URL"
"""The environment variable with the address of the Qdrant server that may be asked."""
WIDEST = 1 << 16
"""Numbers of a vector: as many as the engine takes."""
FILE = "index.json"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Info:
    """What an index holds now.

    dim       width of its vectors; 0 where they are sparse
    options   what the kind of index was built with (prefix, shortlist, fusion, ...)
    data      name, fingerprint and number of samples that it was built from
    source    addresses of model and data, where they were given as such
    bytes     on this machine's disk
    """

    count: int
    kind: str
    dim: int
    what: str
    model: dict[str, str]
    data: dict[str, Any]
    columns: dict[str, Kind]
    options: dict[str, Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    url: str = ""
    bytes: int = 0
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(slots=True)
class Facts:
    """The content of `index.json`.

    dims   width of each dense space by its name
    indexed  the columns that the engine has an index of, with their kinds
    shard  folder of the embedded engine's files inside the index
    url, collection  where the vectors lie instead, when they lie on a server
    """

    kind: str
    what: str
    model: dict[str, str]
    data: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    columns: dict[str, Kind] = field(default_factory=dict)
    indexed: dict[str, Kind] = field(default_factory=dict)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    shard: str = "shard"
    url: str = ""
    collection: str = ""

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, {"format": FORMAT, **asdict(self)})

    def info(self, *, count: int, dim: int, size: int) -> Info:
        """With what the engine says: items, width of the main space, bytes."""
        same = ("kind", "what", "model", "data", "columns", "options", "source", "url")
        unreadable = tuple(Unreadable(**one) for one in self.unreadable)
        return Info(count=count, dim=dim, bytes=size, unreadable=unreadable, **{name: getattr(self, name) for name in same})

    def width(self, space: str) -> int:
        """Numbers of a vector in that space. Raises RunError where the file says nothing of it."""
        if space not in self.dims:
            raise RunError(f"{FILE} has no width of the space '{space}', which a {self.kind} index has: build the index again")
        return self.dims[space]

    def option(self, name: str, kind: type[T]) -> T:
        """What the index was built with. Raises RunError where the file does not say it, or something that no build writes."""
        value = self.options.get(name)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < float("inf")):
            raise RunError(f"{FILE} has {str(value)[:60]!r} as option {name} of a {self.kind} index: build the index again")
        return value

    def names_server(self, url: str = "") -> bool:
        """Whether somebody here has named the server, and not only the folder, which may come from anybody."""
        return not self.url or self.url in (url, os.environ.get(SERVER, ""))

    def refuse_untold(self, folder: Path, url: str = "") -> None:
        """Raise RunError for a server that only the folder names: a search would send it what is asked, and the key."""
        if not self.names_server(url):
            raise RunError(
                f"{folder} names the server {self.url}, and nothing is sent there unless you name it too: set {SERVER}={self.url}"
            )

    def refuse_other_model(self, folder: Path, model: Named) -> None:
        """Raise RunError unless the vectors are this model's."""
        if self.model["fingerprint"] != model.fingerprint:
            raise RunError(
                f"{folder} holds vectors of model '{self.model['name']}' ({self.model['fingerprint'][:12]}); "
                f"'{model.name}' ({model.fingerprint[:12]}) cannot search them: open it with that model or build it again"
            )

    def same_build(self, other: Facts) -> bool:
        """Whether a build that was interrupted would go on to become the same index."""
        same = ("kind", "what", "model", "data", "options", "url")
        return all(getattr(self, name) == getattr(other, name) for name in same)


class Named(Protocol):
    """What every model of an index has: a name to show, and a fingerprint that changes with what it computes."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def read_facts(folder: Path) -> Facts:
    """The facts of an index that is there. Raises RunError: not an index, of another format, damaged."""
    restore(folder)  # where a replacement was killed between its two steps
    file = folder / FILE
    if not is_file(file):
        state = f"has no {FILE}" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} is not an index: it {state}")
    try:
        stored = read_object(file)
    except ValueError as error:
        raise RunError(f"{file} cannot be read (it {error}): build the index again") from error
    known = stored.get("format")
    if known == 1:
        return _from_format_1(folder, stored)
    if known != FORMAT:
        raise RunError(f"{folder} is an index of format {known}, and this version of Diptych reads 1 to {FORMAT}: update Diptych")
    names = {f.name for f in fields(Facts)}
    return _check_facts(folder, {name: value for name, value in stored.items() if name in names})


def _check_facts(folder: Path, stored: dict[str, Any]) -> Facts:
    """The facts, once each is of its kind. The folder of the engine's files is one of the index's own: beside it, others are removed."""
    try:
        facts = from_plain(Facts, stored)
        for one in facts.unreadable:
            from_plain(Unreadable, one)
    except ConfigError as error:
        raise RunError(f"{folder / FILE} cannot be read ({error}): build the index again") from error
    where = f"{folder / FILE}"
    if not {"name", "fingerprint"} <= set(facts.model):
        raise RunError(f"{where} does not say which model made it: build the index again")
    if not re.fullmatch(r"shard(-[0-9]{1,9})?", facts.shard):
        raise RunError(f"{where} names the folder {facts.shard[:60]!r} (expected shard or shard-NUMBER inside of the index)")
    if not all(0 < dim <= WIDEST for dim in facts.dims.values()):
        raise RunError(f"{where} has vectors of width {max(facts.dims.values())} (expected 1 to {WIDEST:,})")
    if facts.url and not facts.url.startswith(("http://", "https://")):
        raise RunError(f"{where} names the server {facts.url[:60]!r} (expected http://... or https://...)")
    if leads_out(folder / facts.shard, folder):
        raise RunError(f"{folder / facts.shard} is a link that leads out of {folder}: put the folder itself there")
    return facts


def _from_format_1(folder: Path, stored: dict[str, Any]) -> Facts:
    """Format 1 knew dense indexes only, and kept the addresses of model and data in a file of their own."""
    missing = {"what", "model", "data", "dim", "columns", "unreadable"} - stored.keys()
    if missing:
        raise RunError(f"{folder / FILE} has no {min(missing)}: build the index again")
    if stored.get("kind") != "dense":
        raise RunError(f"{folder} is an index of format 1 and kind {stored.get('kind')!r} (expected 'dense'): build it again")
    addresses = folder / "source.json"
    try:
        source = read_object(addresses) if is_file(addresses) else {}
    except ValueError as error:
        raise RunError(f"{addresses} {error}: build the index again") from error
    same = {name: stored[name] for name in ("what", "model", "data", "columns", "unreadable")}
    facts = _check_facts(folder, {"kind": "dense", **same, "source": source, "dims": {"": stored["dim"]}})
    facts.write(folder)
    addresses.unlink(missing_ok=True)
    return facts
