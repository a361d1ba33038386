"""The command line: ``diptych COMMAND ...``. Thin: parse, call `diptych.api`, print.

Contract: with ``--json`` stdout holds exactly one line with one JSON object; everything else goes to stderr. Exit codes: 0 done,
1 the work failed (bad data, a run that cannot go on), 2 the command was wrong (unknown name or option), 130 ended by Ctrl-C, 143 ended
by SIGTERM; the last two also where everything was saved before, so that ``diptych train ... && diptych eval ...`` stops.
Modules of commands are imported only when their command is used, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from diptych import __version__
from diptych.core.environment import COMMAND
from diptych.core.errors import ConfigError, DiptychError, UnknownName
from diptych.core.machine import DEVICE_VARIABLE, limit_threads_to_quota
from diptych.core.terminal.signals import GRACE, SignalWatch, Terminated, exit_code, raise_interrupt

COMMANDS = {
    "demo": "curate, train, evaluate and search real data; ends in a report",
    "data": "build | inspect | verify | split | fetch: image-text data in and out",
    "curate": "run a curation operator over a pool, with a reason for every dropped row",
    "embed": "image embeddings in a folder, computed once, that curation and indexes read",
    "tag-rounds": "a relation tagger that learns from what it tagged, with counts and drift",
    "train": "train a recipe on your data",
    "lr-range": "a learning-rate range test: the loss while the rate grows",
    "blend": "the mean of models' weights: of two by shares, of several uniformly or chosen on val",
    "tune-report": "did tuning help, and what was forgotten",
    "eval": "evaluate a model on a task, with intervals",
    "compare": "several recipes or models, one budget: intervals, verdicts, cost, a report",
    "sweep": "values of a recipe's fields by Optuna, pruned and gone on with after a kill",
    "table": "a comparison or runs as a table for a paper: Markdown, LaTeX, CSV",
    "plot": "plots of a comparison or of runs for a paper: SVG, PDF, data as CSV",
    "leaderboard": "models that were asked the same questions: intervals, paired tests, where they part",
    "index": "build | add | remove | info: a search index",
    "search": "search an index by text or by image",
    "try": "how well texts fit a picture, at once, with a heat map",
    "classify": "name what is in an image, from your own list",
    "caption": "write about images, with a model that writes",
    "generate": "pictures from prompts, with a contact sheet",
    "ask": "a question about an image, in free words or by choices",
    "detect": "find things and the relations between them, named by your own words",
    "named-after": "a detector whose finds are named after crops that you have",
    "locate": "where in a large scene a text is true: a map, and hits with coordinates",
    "segment": "the class of every pixel, as a picture",
    "explain": "align | caption | words: what each word goes with, how a text is read, which words a picture becomes",
    "run": "start a pipeline that works at inference time",
    "config": "a configuration file of a recipe or command, with comments; its schema for editors",
    "run-info": "what a run was made with, and what is otherwise now",
    "export": "to transformers, open_clip, sentence-transformers, peft or ONNX",
    "report": "write the HTML report of a run again",
    "slides": "embed | cut: whole slides, tile by tile",
    "serve": "an HTTP API and a search page",
    "doctor": "what is installed, which device, what is missing for which command",
    "new": "a package of your own with a system, an operator or a task, and its tests",
    "systems": "the published systems and which of them work",
    "weights": "published weights that open by address, and which ones a file looks like",
    "claims": "method against baseline, on record",
}

MODULES = {"try": "try_texts"}
"""Modules of commands whose names no module can have."""

SLOW = ("eval", "run", "train")
"""Commands whose help is that of a recipe, a task or a pipeline, which imports torch; it is kept."""


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diptych COMMAND [options]        (diptych COMMAND --help says more)",
            "",
            "The workbench for language-image pre-training.",
            "",
            *lines,
            "",
            "Start with: diptych demo",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    COMMAND[:] = ["diptych", *words]
    device = os.environ.get(DEVICE_VARIABLE)  # --device is for one command
    try:
        with SignalWatch(raise_interrupt, grace=GRACE):
            return _run(words)
    except (UnknownName, ConfigError) as error:
        return _fail(str(error), type(error).__name__, 2, as_json)
    except DiptychError as error:
        return _fail(str(error), type(error).__name__, 1, as_json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away: nothing is left to say
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"the disk is full{where}: make room and run the same again", "RunError", 1, as_json)
    except Terminated:
        return _fail("ended by SIGTERM", "Terminated", exit_code(signal.SIGTERM), as_json)
    except KeyboardInterrupt:
        return _fail("interrupted", "KeyboardInterrupt", exit_code(signal.SIGINT), as_json)
    finally:
        if device is None:
            os.environ.pop(DEVICE_VARIABLE, None)
        else:
            os.environ[DEVICE_VARIABLE] = device


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"diptych {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise UnknownName("command", words[0], COMMANDS)
    limit_threads_to_quota(os.environ)
    command = import_module(f"diptych.cli.commands.{MODULES.get(words[0], words[0].replace('-', '_'))}")
    if words[0] in SLOW and len(words) > 2 and {"-h", "--help"} & set(words) and ".py:" not in words[1]:
        from diptych.cli.options.cached_help import print_help

        return print_help(words, lambda: int(command.main(words[1:])))
    code: int = command.main(words[1:])
    return code


def _fail(problem: str, kind: str, code: int, as_json: bool) -> int:
    from diptych.cli.options.output import as_options, emit, say

    problem = as_options(problem)
    say(f"error: {problem}" if code < exit_code(0) else problem)
    if as_json:
        emit({"error": problem, "kind": kind})
    return code
