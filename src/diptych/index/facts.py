"""Metadata of an index, `index.json`, written so that a kill leaves the old version or the new one. Older formats are upgraded when an
index is opened; newer ones are refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diptych.core.config import config_hash, from_plain
from diptych.core.disk.files import restore, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import escapes_folder, is_file
from diptych.core.errors import ConfigError, RunError
from diptych.index.embed import UnreadableSample
from diptych.index.filters import Kind

FORMAT = 2
SERVER = "QDRANT_URL"
"""The environment variable with the address of the Qdrant server that may be asked."""
WIDEST = 1 << 16
"""Numbers of a vector: as many as the engine takes."""
FILE, SUM = "index.json", "checksum"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """Description of the current content of an index.

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
    unreadable: tuple[UnreadableSample, ...] = ()

    def described(self) -> dict[str, str]:
        """The facts in words, for a table."""
        return {
            "items": f"{self.count:,}",
            "kind": self.kind,
            "dimensions": f"{self.dim}" if self.dim else "",
            "embeds": self.what,
            "model": self.model.get("name", ""),
            "data": self.data.get("name", ""),
            "columns": ", ".join(self.columns),
            "on disk": f"{self.bytes / 2**20:,.1f} MiB",
        }


@dataclass(slots=True)
class Facts:
    """Content of `index.json`.

    dims   dimensions of each dense space by its name
    indexed  columns that the engine has an index of, with their kinds
    shard  folder of the embedded engine's files inside the index
    url, collection  address of the vectors when they are on a server
    added  addresses of data that were added after the build
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
    added: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        stored = {"format": FORMAT, **asdict(self)}
        write_json(folder / FILE, {**stored, SUM: config_hash(stored)})

    def info(self, *, count: int, dim: int, size: int) -> IndexInfo:
        """Description of the index, with numbers from the engine: items, dimensions of the main space, bytes."""
        same = ("kind", "what", "model", "data", "columns", "options", "source", "url")
        unreadable = tuple(UnreadableSample(**one) for one in self.unreadable)
        return IndexInfo(count=count, dim=dim, bytes=size, unreadable=unreadable, **{name: getattr(self, name) for name in same})

    def width(self, space: str) -> int:
        """Dimensions of a vector in that space. Raises RunError if the file does not give them."""
        if space not in self.dims:
            raise RunError(f"{FILE} has no width of the space '{space}', which a {self.kind} index has: build the index again")
        return self.dims[space]

    def option(self, name: str, kind: type[T]) -> T:
        """Option that the index was built with. Raises RunError if the file lacks it or has a value that no build writes."""
        value = self.options.get(name)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < float("inf")):
            raise RunError(f"{FILE} has {str(value)[:60]!r} as option {name} of a {self.kind} index: build the index again")
        return value

    def names_server(self, url: str = "") -> bool:
        """True if the user named the server themselves, and not only the folder, which may come from anybody."""
        return not self.url or self.url in (url, os.environ.get(SERVER, ""))

    def refuse_unconfirmed_server(self, folder: Path, url: str = "") -> None:
        """Raise RunError for a server that only the folder names: a search would send it the query and the key."""
        if not self.names_server(url):
            raise RunError(
                f"{folder} names the server {self.url}, and nothing is sent there unless you name it too: set {SERVER}={self.url}"
            )

    def refuse_other_model(self, folder: Path, model: NamedModel) -> None:
        """Raise RunError unless the vectors are this model's."""
        if self.model["fingerprint"] != model.fingerprint:
            raise RunError(
                f"{folder} holds vectors of model '{self.model['name']}' ({self.model['fingerprint'][:12]}); "
                f"'{model.name}' ({model.fingerprint[:12]}) cannot search them: open it with that model or build it again"
            )

    def same_build(self, other: Facts) -> bool:
        """True if an interrupted build would go on to become the same index."""
        same = ("kind", "what", "model", "data", "options", "url")
        return all(getattr(self, name) == getattr(other, name) for name in same)


class NamedModel(Protocol):
    """Common interface of an index's models: a name to show, and a fingerprint that changes with what it computes."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def read_facts(folder: Path) -> Facts:
    """Metadata of a stored index. Raises RunError: not an index, of another format, damaged."""
    restore(folder)  # where a replacement was killed between its two steps
    file = folder / FILE
    if not is_file(file):
        state = f"has no {FILE}" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} is not an index: it {state}")
    try:
        stored = read_object(file)
    except ValueError as error:
        raise RunError(f"{file} cannot be read (it {error}): build the index again") from error
    version = stored.get("format")
    if version == 1:
        return _from_format_1(folder, stored)
    if version != FORMAT:
        raise RunError(
            f"{folder} is an index of format {version}, and this version of Diptych reads 1 to {FORMAT}: update Diptych"
        )
    names = {f.name for f in fields(Facts)}
    return _check_facts(folder, {name: value for name, value in stored.items() if name in names})


def facts_problem(folder: Path) -> str:
    """Reason why the metadata are not what was written, or "". Those of earlier versions have no checksum."""
    try:
        stored = read_object(folder / FILE)
    except ValueError as error:
        return str(error)
    recorded = stored.pop(SUM, None)
    return "is not what was written: its checksum is another" if recorded not in (None, config_hash(stored)) else ""


def _check_facts(folder: Path, stored: dict[str, Any]) -> Facts:
    """The facts, once each is of its kind. The folder of the engine's files is one of the index's own: beside it, others are removed."""
    try:
        facts = from_plain(Facts, stored)
        for one in facts.unreadable:
            from_plain(UnreadableSample, one)
    except ConfigError as error:
        raise RunError(f"{folder / FILE} cannot be read ({error}): build the index again") from error
    where = f"{folder / FILE}"
    if not {"name", "fingerprint"} <= set(facts.model):
        raise RunError(f"{where} has no record of its model: build the index again")
    if not re.fullmatch(r"shard(-[0-9]{1,9})?", facts.shard):
        raise RunError(f"{where} names the folder {facts.shard[:60]!r} (expected shard or shard-NUMBER inside of the index)")
    if not all(0 < dim <= WIDEST for dim in facts.dims.values()):
        raise RunError(f"{where} has vectors of width {max(facts.dims.values())} (expected 1 to {WIDEST:,})")
    if facts.url and not facts.url.startswith(("http://", "https://")):
        raise RunError(f"{where} names the server {facts.url[:60]!r} (expected http://... or https://...)")
    if escapes_folder(folder / facts.shard, folder):
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
