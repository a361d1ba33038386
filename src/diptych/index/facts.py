"""`index.json`: what an index is, written so that a kill leaves the old facts or the new ones. Older formats are brought up to date
when an index is opened; newer ones are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from diptych.core.errors import RunError
from diptych.core.files import write_json
from diptych.index.embed import Unreadable
from diptych.index.filters import Kind

FORMAT = 2
FILE = "index.json"


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
    file = folder / FILE
    if not file.is_file():
        state = f"has no {FILE}" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} is not an index: it {state}")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        known = stored["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{file} cannot be read ({error}): build the index again") from error
    if known == 1:
        return _from_format_1(folder, stored)
    if known != FORMAT:
        raise RunError(f"{folder} is an index of format {known}, and this version of Diptych reads 1 to {FORMAT}: update Diptych")
    names = {f.name for f in fields(Facts)}
    return Facts(**{name: value for name, value in stored.items() if name in names})


def _from_format_1(folder: Path, stored: dict[str, Any]) -> Facts:
    """Format 1 knew dense indexes only, and kept the addresses of model and data in a file of their own."""
    if stored.get("kind") != "dense":
        raise RunError(f"{folder} is an index of format 1 and kind {stored.get('kind')!r} (expected 'dense'): build it again")
    addresses = folder / "source.json"
    facts = Facts(
        kind="dense",
        what=stored["what"],
        model=stored["model"],
        data=stored["data"],
        source=json.loads(addresses.read_text(encoding="utf-8")) if addresses.is_file() else {},
        dims={"": stored["dim"]},
        columns=stored["columns"],
        unreadable=stored["unreadable"],
    )
    facts.write(folder)
    addresses.unlink(missing_ok=True)
    return facts
