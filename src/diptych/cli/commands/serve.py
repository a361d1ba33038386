"""``diptych serve MODEL [INDEX] [--data D]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.flat import flat, select_fields
from diptych.cli.options.output import DEVICE, parse, say
from diptych.core.errors import ConfigError
from diptych.core.terminal.signals import exit_code
from diptych.serve.admission.access import read_access, rules
from diptych.serve.admission.limits import Limits

TOKEN, WRITE_TOKEN = "DIPTYCH_TOKEN", "DIPTYCH_WRITE_TOKEN"


@dataclass(frozen=True)
class ServeArgs:
    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="any model that embeds, detects or generates; 'words' for an index of words")
    ]
    index: Annotated[Positional[Path], arg(metavar="INDEX", help="index built with this model; adds /search and the page")] = (
        Path()
    )
    data: Annotated[
        tuple[str, ...],
        arg(help="the data of the index, for pictures, captions and filters; of several, the first built folder keeps new items"),
    ] = ()
    inside: Annotated[str, arg(help="allow only pictures below this folder; 'own' is the folder of the data; / allows any")] = (
        "own"
    )
    compare: Annotated[str, arg(help="a second model to compare with the first one side by side")] = ""
    compare_index: Annotated[Path, arg(help="index of the same data, built with the second model")] = Path()
    detector: Annotated[str, arg(help="a model that detects objects and relations")] = ""
    writer: Annotated[str, arg(help="a model that generates captions and answers")] = ""
    mcp: Annotated[
        Literal["", "stdio", "http"],
        arg(help="tools for agents: on stdin and stdout instead of HTTP, or at /mcp beside the other routes"),
    ] = ""
    files: Annotated[Path | None, arg(help="with --mcp stdio: a folder whose pictures tools may open")] = None
    engine: Annotated[
        Literal["torch", "onnx"],
        arg(help="inference engine of embeddings: PyTorch, or ONNX Runtime on an export made at the start"),
    ] = "torch"
    host: Annotated[str, arg(help="address to listen on; the default is this machine only")] = "127.0.0.1"
    port: Annotated[int, arg(help="port; 0 chooses a free one")] = 8000
    token_file: Annotated[Path, arg(help=f"file with the bearer token that requests must send; or set {TOKEN}")] = Path()
    write_token_file: Annotated[
        Path, arg(help=f"file with the token of clients that may add, correct and remove items; or set {WRITE_TOKEN}")
    ] = Path()
    access: Annotated[Path, arg(help="JSON list of tokens, each with name, token, write, rate and burst")] = Path()
    watch: Annotated[bool, arg(help="when INDEX is replaced, load the new index with its model")] = False
    cors: Annotated[tuple[str, ...], arg(help="origins whose pages may read answers, such as https://example.org")] = ()
    hosts: Annotated[tuple[str, ...], arg(help="allowed host names; default: any, or on this machine only its own")] = ()
    download: Annotated[bool, arg(help="allow downloading models")] = False
    device: DEVICE = "auto"


def main(argv: Sequence[str]) -> int:
    argv = with_mcp_value(argv)
    every = flat("Options", [(ServeArgs, None), (Limits, Limits())])
    given: Any = parse(every, argv, "serve", "Search, embeddings and more over HTTP, and a page for people.")
    args, limits = ServeArgs(**select_fields(ServeArgs, given)), Limits(**select_fields(Limits, given))
    from diptych.api import load
    from diptych.serve.app import LOOPBACK, check_port, create_app, run

    if args.compare_index != Path() and not args.compare:
        raise ConfigError("--compare-index is the index of a second model: give that model with --compare MODEL")
    if args.files is not None and args.mcp != "stdio":
        raise ConfigError("--files is for an agent on this machine (expected --mcp stdio with it)")
    token, write_token = _token(args.token_file, TOKEN), _token(args.write_token_file, WRITE_TOKEN)
    tokens = read_access(args.access) if args.access != Path() else ()
    if args.watch and (args.index == Path() or not (write_token or any(one.write for one in tokens))):
        raise ConfigError("--watch needs an INDEX to watch, and a write token, without which nothing of a service changes")
    if args.host not in LOOPBACK and rules(token, write_token, tokens).reading_is_open:
        say(f"warning: {args.host} is open to other machines and needs no token (--token-file, or {TOKEN})")
    if args.mcp != "stdio":
        check_port(args.host, args.port)
    parts = [_part(address, args.inside) for address in args.data]  # before the models, which take longer
    app = create_app(
        *_side(args.model, args.index, args),
        compare=[_side(args.compare, args.compare_index, args)] if args.compare else [],
        parts=parts,
        detector=load(args.detector, download=args.download) if args.detector else None,
        writer=load(args.writer, download=args.download) if args.writer else None,
        limits=limits,
        token=token,
        cors=args.cors,
        hosts=args.hosts or (LOOPBACK if args.host in LOOPBACK else ()),
        agents=args.mcp == "http",
        write_token=write_token,
        tokens=tokens,
        load_side=partial(_load_side, args),
        watch=args.index if args.watch else None,
    )
    for name, count in app.state.service.missing.items():
        if count:
            say(
                f"warning: {count:,} items of the index of {name} are not in {', '.join(args.data)}: they are shown without picture"
            )
    if args.mcp == "stdio":
        from diptych.serve.agents import serve_stdio
        from diptych.serve.application import internal_app

        serve_stdio(internal_app(app.state.service), app.state.service, files=args.files)
        return 0
    number = run(app, host=args.host, port=args.port, announce=say)
    return exit_code(number) if number else 0


def with_mcp_value(words: Sequence[str]) -> list[str]:
    """Words of the command line in which --mcp has a value: stdio where none is given.

    >>> with_mcp_value(["words", "--mcp", "--port", "0"])
    ['words', '--mcp', 'stdio', '--port', '0']
    """
    made: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        made.append(word)
        if word == "--mcp" and (not following or following.startswith("-")):
            made.append("stdio")
    return made


def _part(address: str, inside: str) -> Any:
    """One data set of the service, which may name no file outside of the folder `inside`."""
    from diptych.serve.collection.served_data import DataPart

    return DataPart.open(address, inside=inside)


def _side(address: str, index: Path, args: ServeArgs) -> tuple[Any, Any]:
    """A model and its index."""
    from diptych.api import load, open_index
    from diptych.index.lexicon import BM25Encoder

    model = BM25Encoder() if address == "words" else load(address, download=args.download, engine=args.engine)
    return model, open_index(index, model=model) if index != Path() else None


def _load_side(args: ServeArgs, model: str, index: Path | None) -> tuple[Any, Any]:
    """The same for a reload; model: "" for the one that the service was started with."""
    return _side(model or args.model, Path() if index is None else index, args)


def _token(file: Path, variable: str) -> str:
    if file == Path():
        return os.environ.get(variable, "")
    if not file.is_file():
        raise ConfigError(f"{file} does not exist")
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise ConfigError(f"{file} is empty (expected a token)")
    return token
