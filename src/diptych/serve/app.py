"""Start the service: ``create_app`` for any ASGI server, ``run`` to listen at once. Needs the extra ``[serve]``.

GET  /              search page
GET  /healthz       is it up;  /readyz: does it take requests now;  /metrics: counters;  /info: models, columns, limits
POST /v1/embeddings texts or images to vectors, in the shape that OpenAI clients read;  GET /v1/models, /v1/models/ID
POST /v1/chat/completions words about pictures, in the shape that OpenAI clients read, at once or streamed
POST /caption, /ask a caption; an answer, in free words or the most likely of given ones
GET  /search?q=     by text
POST /search        by text, image, both (image + weight * text), good and bad examples
POST /classify      names for pictures, from a list of your own
POST /detect        things and the relations between them, if there is a detector
POST /explain       which part of a picture each word goes with
POST /words         words that describe a picture, and the regions they come from
GET  /items/UID     texts, provenance, columns;  /image/UID: its picture, small
POST /items         an item to add;  PATCH /items/UID: other texts and fields;  DELETE /items/UID (with a write token)
POST /admin/reload  another model or index in the place of the one that is served (with a write token)
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.contracts import Dataset, Detector, Embedder, Generator, LexicalEmbedder, PointEmbedder, Ranker, TokenEmbedder
from diptych.core.errors import ConfigError, MissingExtra
from diptych.index.base import Index
from diptych.serve.admission.access import Access, rules
from diptych.serve.admission.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from diptych.serve.collection.reloading import LoadSide
    from diptych.serve.collection.served_data import DataPart, ServedData
    from diptych.serve.service import ServedModel

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def create_app(
    model: Any,
    index: Index | None = None,
    *,
    pool: Dataset | None = None,
    data: Sequence[str | Path] = (),
    parts: Sequence[DataPart] = (),
    compare: Sequence[tuple[Any, Index | None]] = (),
    detector: Any = None,
    writer: Any = None,
    limits: Limits | None = None,
    token: str = "",
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
    agents: bool = False,
    write_token: str = "",
    tokens: Sequence[Access] = (),
    load_side: LoadSide | None = None,
    watch: Path | None = None,
) -> FastAPI:
    """The service as an ASGI application.

    model     anything that embeds, embeds tokens, detects, or writes
    index     makes /search answer; it must have been built with this model
    pool      makes /items and /image answer, so that the page shows pictures
    data      addresses of data to the same end; folders of `diptych data build` are looked at again when they change
    parts     the same, opened
    compare   further models with their indexes; requests choose by name
    detector  makes /detect answer, where `model` itself does not detect
    writer    makes /v1/chat/completions, /caption and /ask answer, where `model` itself does not write
    token     what `Authorization: Bearer ...` must say; "" asks for none
    cors      origins whose pages may read answers; none by default
    hosts     names under which the service may be asked; empty takes any
    agents    adds /mcp: search, detect, caption and ask as tools for agents; needs the extra `[mcp]`
    write_token  with it clients add, correct and remove items, in the first built folder of `data`
    tokens    further tokens with their rights and rates
    load_side  opens a model and an index by address, for /admin/reload
    watch     folder of the index: another one that takes its place is loaded by itself
    """
    for package in PACKAGES:
        _needs(package)
    from diptych.serve.application import build
    from diptych.serve.collection.item_writer import reconcile
    from diptych.serve.collection.reloading import Reloader
    from diptych.serve.collection.served_data import DataPart
    from diptych.serve.service import ServedModel, Service

    if detector is not None and not isinstance(detector, Detector):
        raise ConfigError(
            f"{getattr(detector, 'name', detector)} does not detect (expected a model trained with rlipv2 or the like)"
        )
    if writer is not None and not isinstance(writer, Generator):
        raise ConfigError(
            f"{getattr(writer, 'name', writer)} does not write (expected the run of limber or the like, or hf:FOLDER of LLaVA)"
        )
    names: list[str] = []
    for one, _ in ((model, index), *compare):
        names.append(_new_name(public_name(str(getattr(one, "name", "model"))), names))
    sides = [ServedModel(name, one, its) for name, (one, its) in zip(names, ((model, index), *compare), strict=True)]
    if detector is None and writer is None and not any(map(_is_asked, sides)):
        raise ConfigError(
            f"{sides[0].name} has nothing that a service answers (expected an INDEX with it, or a model that embeds, detects or writes)"
        )
    apart = None if writer is None else ServedModel(_new_name(public_name(str(getattr(writer, "name", "writer"))), names), writer)
    access = rules(token, write_token, tokens)
    served = _served_data([*([DataPart(pool)] if pool is not None else []), *map(DataPart.open, data), *parts], sides)
    reconcile(served, [side.index for side in sides if side.index is not None])
    service = Service(
        sides,
        detector=detector,
        writer=apart,
        data=served,
        limits=limits or Limits(),
        takes_changes=access.takes_changes,
    )
    served.recorded = service.recorded_addresses
    reloader = None if load_side is None else Reloader(service, load_side, watch)
    app = build(service, access=access, cors=cors, hosts=hosts, agents=agents, reloader=reloader)
    app.state.service = service
    return app


def _is_asked(side: ServedModel) -> bool:
    """True if some route answers with this model or its index."""
    kinds = Embedder | TokenEmbedder | PointEmbedder | LexicalEmbedder | Detector | Generator | Ranker
    return side.index is not None or bool(side.aligns) or isinstance(side.model, kinds)


def _served_data(parts: Sequence[DataPart], sides: Sequence[ServedModel]) -> ServedData:
    """Data sets of a service, and what its indexes name besides."""
    from diptych.api.data import read_recorded
    from diptych.serve.collection.served_data import ServedData
    from diptych.serve.service import recorded_addresses

    if not parts:
        return ServedData([])

    served = ServedData(parts, lambda address: read_recorded(address, "the index", {"captions": False}))
    served.recorded = lambda: recorded_addresses(sides)
    served.refresh()
    return served


def run(
    app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000, announce: Callable[[str], None] = lambda address: None
) -> int:
    """Listen until SIGTERM or Ctrl-C; then take nothing new, finish what is under way, and return the number of that signal.

    host  the default is this machine only; open it wider with a token
    port  0 takes one that is free
    announce  gets the address
    """
    check_port(host, port)
    from diptych.serve.server import listen

    return listen(app, host, port, announce)


def check_port(host: str, port: int) -> None:
    """Check that an address can be listened on, before models are loaded for it. Raises ConfigError, RunError."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port} (expected 0..65535)")
    _needs("uvicorn")
    from diptych.serve.server import bind_port

    bind_port(host, port).close()


def public_name(name: str) -> str:
    """Name of a model without where it lies on this machine: of an address or a path its last part.

    >>> public_name("/home/me/runs/clip"), public_name("hf:models/clip-vit-base"), public_name("openai:http://host/v1#llava")
    ('clip', 'clip-vit-base', 'llava')
    >>> public_name("laion/CLIP-ViT-B-32")
    'laion/CLIP-ViT-B-32'
    """
    scheme, colon, rest = name.partition(":")
    is_address = bool(colon) and scheme.replace("_", "").replace("+", "").isalnum() and "/" in rest
    is_path = name.startswith(("/", "./", "../", "~")) or ("/" in name and Path(name).exists())
    if not (is_address or is_path):
        return name
    return re.split(r"[/#]", name.rstrip("/"))[-1] or "model"


def _new_name(name: str, taken: Sequence[str]) -> str:
    """A unique name for a model: a number is added to a name that is taken."""
    count = 2
    fresh = name
    while fresh in taken:
        fresh, count = f"{name} ({count})", count + 1
    return fresh


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package, "serve", needed_for="the HTTP service")
