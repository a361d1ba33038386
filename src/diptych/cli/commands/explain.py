"""``diptych explain align | caption | tokens | words``: why a model answers so, how captions are read, what image tokens stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from diptych.cli.options.subcommands import dispatch

SUBS = {
    "align": ("diptych.cli.commands.explain_align", "which part of a picture each word of a text goes with"),
    "caption": ("diptych.cli.commands.explain_caption", "how a caption is read, and the wrong captions made of it"),
    "tokens": ("diptych.cli.commands.explain_tokens", "which patches each image token of a language model stands for"),
    "words": ("diptych.cli.commands.explain_words", "which words a lexical model makes of a picture"),
}
"""Name -> module with a `main`, imported when it is used, and a line about it."""


def main(argv: Sequence[str]) -> int:
    return dispatch("explain", {name: (_lazy(module), about) for name, (module, about) in SUBS.items()}, argv)


def _lazy(module: str) -> Callable[[Sequence[str]], int]:
    def call(argv: Sequence[str]) -> int:
        code: int = import_module(module).main(argv)
        return code

    return call
