"""Access control: tokens with their permissions and rates.

A file of tokens is a JSON list: [{"name": "shop", "token": "...", "write": true, "rate": 20, "burst": 40}, ...]
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from diptych.core.disk.paths import read_file
from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """A token and its rights.

    name   for messages; never the token
    token  what `Authorization: Bearer ...` must say
    write  may add, correct and remove items, and reload
    rate   requests a second, on average; 0 sets no limit of its own
    burst  requests at once before `rate` holds
    """

    name: str
    token: str
    write: bool = False
    rate: float = 0.0
    burst: int = 40

    def __post_init__(self) -> None:
        if not self.token.strip():
            raise ConfigError(f"the token '{self.name}' is empty (expected a secret of 16 characters or more)")
        if self.rate < 0 or self.burst < 1:
            raise ConfigError(
                f"the token '{self.name}' has rate {self.rate} and burst {self.burst} (expected 0 or more, 1 or more)"
            )


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Tokens of a service. Reading is open to all where no token reads only."""

    tokens: tuple[Access, ...] = ()

    def __post_init__(self) -> None:
        if len({access.token for access in self.tokens}) < len(self.tokens):
            raise ConfigError("two tokens are the same (expected one for each name, and another one for writing)")

    @property
    def reading_is_open(self) -> bool:
        return all(access.write for access in self.tokens)

    @property
    def takes_changes(self) -> bool:
        return any(access.write for access in self.tokens)

    def of(self, header: bytes) -> Access | None:
        """The token of an Authorization header; all are compared, each in constant time."""
        scheme, _, given = header.partition(b" ")
        same = [access for access in self.tokens if hmac.compare_digest(given.strip(), access.token.encode())]
        return same[0] if same and scheme.lower() == b"bearer" else None


def read_access(file: Path) -> tuple[Access, ...]:
    """Tokens of a file. Raises ConfigError, which names the entry, never its token."""
    try:
        rows = json.loads(read_file(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid JSON (expected a list of objects with name and token)") from error
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{file} is not a list (expected a list of objects with name and token)")
    kinds = {"name": str, "token": str, "write": bool, "rate": int | float, "burst": int}
    made = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"name", "token"} <= row.keys() or row.keys() - {f.name for f in fields(Access)}:
            raise ConfigError(f"{file}, entry {number}: expected an object with name, token, and if wanted write, rate, burst")
        for name, value in row.items():
            if not isinstance(value, kinds[name]) or (name in ("rate", "burst") and isinstance(value, bool)):
                raise ConfigError(f"{file}, entry {number}, field '{name}': holds a {type(value).__name__}")
        made.append(Access(**row))
    return tuple(made)


def rules(token: str = "", write_token: str = "", tokens: Sequence[Access] = ()) -> AccessRules:
    """Rules of single tokens and a list of further ones."""
    single = [Access("token", token)] if token else []
    single += [Access("write token", write_token, write=True)] if write_token else []
    return AccessRules((*single, *tokens))


OPEN_TO_ALL = AccessRules()
"""Without tokens: all may read, nobody may change anything."""
