"""``openai:http://HOST:PORT/v1#MODEL`` with what may follow it: ``?calls=16&price_read=0.15&price_written=0.6``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.endpoint.connection import KEY, ServerConnection

SCHEME = "openai:"
Limit = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Settings of requests to a chat-completions server.

    calls          maximum number of concurrent requests
    timeout        seconds that one try may wait for the next bytes
    longest        seconds that one try may take in all
    patience       seconds for which a request is tried again after its first failure: a server may be away for so long
    temperature    of sampling; 0 is greedy, -1 omits the field, for models that take no temperature
    seed           of the draw
    limit          the field in which the server reads how long an answer may be
    pictures       whether pictures are sent; "off" for a model that reads words only
    cache          whether answers are kept on disk and looked up there
    key            the variable of the environment that holds the key
    price_read     of a million tokens that are read, in whatever currency
    price_written  of a million tokens that are written
    """

    calls: int = 8
    timeout: float = 120.0
    longest: float = 600.0
    patience: float = 300.0
    temperature: float = 0.0
    seed: int = 0
    limit: Limit = "max_tokens"
    pictures: bool = True
    cache: bool = True
    key: str = KEY
    price_read: float = 0.0
    price_written: float = 0.0

    def __post_init__(self) -> None:
        if (
            self.calls < 1
            or min(self.price_read, self.price_written) < 0
            or not (self.temperature >= 0 or self.temperature == -1)
        ):
            raise ConfigError(
                f"calls {self.calls}, prices {self.price_read} and {self.price_written}, temperature {self.temperature} "
                "(expected 1 or more, 0 or more, 0 or more or -1)"
            )
        if self.limit not in get_args(Limit):
            raise ConfigError(f"limit is {self.limit!r} (expected {' | '.join(get_args(Limit))})")


def read_address(given: str) -> tuple[ServerConnection, str, RequestOptions]:
    """Connection, model name and request options.

    >>> line, model, asking = read_address("openai:http://localhost:8000/v1#llava?calls=2&pictures=off")
    >>> line.address, model, asking.calls, asking.pictures
    ('http://localhost:8000/v1', 'llava', 2, False)
    """
    address, _, named = given.removeprefix(SCHEME).partition("#")
    model, _, options = named.partition("?")
    if not model:
        raise ConfigError(f"{given} does not name a model (expected openai:http://HOST:PORT/v1#MODEL)")
    asking = RequestOptions(**dict(_option(part) for part in options.split("&") if part))
    return ServerConnection(address.rstrip("/"), asking.timeout, asking.longest, 1, asking.patience, asking.key), model, asking


def _option(part: str) -> tuple[str, Any]:
    name, _, value = part.partition("=")
    defaults: dict[str, Any] = {field.name: field.default for field in fields(RequestOptions)}
    if name not in defaults:
        raise UnknownName("option of an address", name, defaults)
    usual = defaults[name]
    if isinstance(usual, bool):
        if value not in ("on", "off"):
            raise ConfigError(f"{name} is {value!r} in the address (expected on | off)")
        return name, value == "on"
    try:
        return name, type(usual)(value)
    except ValueError as error:
        raise ConfigError(f"{name} is {value!r} in the address (expected a number)") from error
