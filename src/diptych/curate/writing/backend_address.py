"""Text backends by address, and their description in the notes of a step.

grammar                      rules; the default
ngram                        an n-gram model of the pool's own texts; ngram:FILE of another file of texts, one a line
folder:PATH                  a language model that transformers saved
gguf:FILE                    one in a GGUF file
http://HOST:PORT/v1#MODEL    an OpenAI-compatible endpoint (chat+http://... asks with messages)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diptych.core.errors import ConfigError, DataError
from diptych.core.registry import TEXT_BACKENDS
from diptych.curate.writing.backends.endpoint import Endpoint
from diptych.curate.writing.backends.grammar import GrammarRewriter
from diptych.curate.writing.backends.ngram import NGramRewriter
from diptych.curate.writing.requests import Sampling, TextBackend

Corpus = Callable[[], Iterable[str]]
"""The pool's own texts, for a backend that learns from them."""


@dataclass(frozen=True)
class BackendOptions:
    """Arguments from which a text backend is opened.

    rest     the address after the kind
    context  maximum number of tokens of a prompt, for a model whose prompt is tokenised here; 0: the model's limit
    at_once  batch size of a local model
    calls, tries, timeout   options of an endpoint
    terms    terms of use of the generated texts
    """

    rest: str
    sampling: Sampling
    corpus: Corpus
    context: int = 0
    at_once: int = 16
    calls: int = 8
    tries: int = 4
    timeout: float = 60.0
    terms: str = ""


def open_backend(address: str, options: BackendOptions) -> TextBackend:
    """Backend of an address; `options.rest` is filled in."""
    kind, _, rest = address.partition(":")
    if kind.removeprefix("chat+") in ("http", "https"):
        kind, rest = "endpoint", address
    opened: TextBackend = TEXT_BACKENDS.load(kind)(BackendOptions(**{**options.__dict__, "rest": rest}))
    return opened


def open_grammar(options: BackendOptions) -> TextBackend:
    """Rule-based backend, without a model: "grammar"."""
    if options.rest:
        raise ConfigError(f"the grammar takes nothing behind its name, got {options.rest!r}")
    return GrammarRewriter(options.sampling)


def open_ngram(options: BackendOptions) -> TextBackend:
    """N-gram backend trained on the data ("ngram") or on a file with one text per line ("ngram:FILE")."""
    if not options.rest:
        return NGramRewriter.learned(options.corpus(), options.sampling)
    path = Path(options.rest).expanduser()
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"is not a readable file of texts ({error})", file=path, expected="UTF-8, one text per line") from error
    if not texts:
        raise DataError("has no text", file=path, expected="one text per line")
    return NGramRewriter.learned(texts, options.sampling)


def open_folder(options: BackendOptions) -> TextBackend:
    """Backend of a transformers language model in a local folder: "folder:PATH"."""
    path = Path(options.rest).expanduser()
    if not (path / "config.json").is_file():
        raise DataError(
            "is not a folder of transformers", file=path, expected="folder:PATH with config.json and model.safetensors"
        )
    from diptych.curate.writing.backends.language_folder import LanguageFolder  # brings torch

    return LanguageFolder(
        str(path.resolve()), options.sampling, context=options.context, at_once=options.at_once, terms=options.terms
    )


def open_gguf(options: BackendOptions) -> TextBackend:
    """Backend of a quantised language model in one file: "gguf:FILE"."""
    path = Path(options.rest).expanduser()
    if not path.is_file():
        raise DataError("does not exist", file=path, expected="gguf:FILE")
    from diptych.curate.writing.backends.gguf import GGUF  # brings torch

    return GGUF(str(path.resolve()), options.sampling, context=options.context, at_once=options.at_once, terms=options.terms)


def open_endpoint(options: BackendOptions) -> TextBackend:
    """Backend of a server that completes texts, "http://...#MODEL", or one that answers dialogues, "chat+http://...#MODEL"."""
    address, _, model = options.rest.partition("#")
    chat = address.startswith("chat+")
    return Endpoint(
        address.removeprefix("chat+").rstrip("/"),
        model,
        options.sampling,
        chat=chat,
        timeout=options.timeout,
        tries=options.tries,
        calls=options.calls,
        terms=options.terms,
    )
