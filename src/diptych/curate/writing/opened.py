"""Backends by address, and what a step has to say about how it writes.

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
from diptych.curate.writing.backends.grammar import Grammar
from diptych.curate.writing.backends.ngram import NGramRewriter
from diptych.curate.writing.requests import Sampling, TextBackend

Corpus = Callable[[], Iterable[str]]
"""The pool's own texts, for a backend that learns from them."""


@dataclass(frozen=True)
class Wanted:
    """What opens a backend.

    rest     of the address, behind the kind
    context  tokens of a prompt at most, for a model whose prompt is counted here; 0: what it has room for
    at_once  prompts that a local model reads together
    calls, tries, timeout   of an endpoint
    terms    of use of what it writes
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


def open_backend(address: str, wanted: Wanted) -> TextBackend:
    """The backend of an address; `wanted.rest` is filled in."""
    kind, _, rest = address.partition(":")
    if kind.removeprefix("chat+") in ("http", "https"):
        kind, rest = "endpoint", address
    opened: TextBackend = TEXT_BACKENDS.load(kind)(Wanted(**{**wanted.__dict__, "rest": rest}))
    return opened


def open_grammar(wanted: Wanted) -> TextBackend:
    """Sentences by rules, without a model: "grammar"."""
    if wanted.rest:
        raise ConfigError(f"the grammar takes nothing behind its name, got {wanted.rest!r}")
    return Grammar(wanted.sampling)


def open_ngram(wanted: Wanted) -> TextBackend:
    """Word chains learned from the data, "ngram", or from a file with a text a line, "ngram:FILE"."""
    if not wanted.rest:
        return NGramRewriter.learned(wanted.corpus(), wanted.sampling)
    path = Path(wanted.rest).expanduser()
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"is no readable file of texts ({error})", file=path, expected="UTF-8, a text a line") from error
    if not texts:
        raise DataError("has no text", file=path, expected="a text a line")
    return NGramRewriter.learned(texts, wanted.sampling)


def open_folder(wanted: Wanted) -> TextBackend:
    """A language model of transformers in a local folder: "folder:PATH"."""
    path = Path(wanted.rest).expanduser()
    if not (path / "config.json").is_file():
        raise DataError(
            "is not a folder of transformers", file=path, expected="folder:PATH with config.json and model.safetensors"
        )
    from diptych.curate.writing.backends.language_folder import LanguageFolder  # brings torch

    return LanguageFolder(
        str(path.resolve()), wanted.sampling, context=wanted.context, at_once=wanted.at_once, terms=wanted.terms
    )


def open_gguf(wanted: Wanted) -> TextBackend:
    """A quantised language model in one file: "gguf:FILE"."""
    path = Path(wanted.rest).expanduser()
    if not path.is_file():
        raise DataError("is not there", file=path, expected="gguf:FILE")
    from diptych.curate.writing.backends.gguf import GGUF  # brings torch

    return GGUF(str(path.resolve()), wanted.sampling, context=wanted.context, at_once=wanted.at_once, terms=wanted.terms)


def open_endpoint(wanted: Wanted) -> TextBackend:
    """A server that completes texts, "http://...#MODEL", or one that answers dialogues, "chat+http://...#MODEL"."""
    address, _, model = wanted.rest.partition("#")
    chat = address.startswith("chat+")
    return Endpoint(
        address.removeprefix("chat+").rstrip("/"),
        model,
        wanted.sampling,
        chat=chat,
        timeout=wanted.timeout,
        tries=wanted.tries,
        calls=wanted.calls,
        terms=wanted.terms,
    )
