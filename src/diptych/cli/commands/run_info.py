"""``diptych run-info RUN``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse

SHOWN = 12
"""Changes that are listed; the rest is counted."""


@dataclass(frozen=True)
class RunInfoArgs:
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a run folder")]
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(RunInfoArgs, argv, "run-info", "What a run was made with, and what is otherwise now.")
    from diptych.api import run_info

    info = run_info(args.run)
    return finish(info, _lines(info), args.json)


def _lines(info: dict[str, Any]) -> list[str]:
    rows = {
        "status": f"{info['status']} after {info['step']} steps" + (f": {info['error']}" if info["error"] else ""),
        "recipe": info["recipe"],
        "command": shlex.join(info["command"]) or "not recorded",
        "seed": info["seed"],
        "data": f"{info['data']}, fingerprint {info['fingerprint']}",
        "commit": (info["commit"] or "no checkout")
        + (f"; now {info['commit_now']}" if info["commit_now"] != info["commit"] else ""),
        "python": info["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in info["packages"].items()),
        "source": ", ".join(info["source"]) or "not kept",
    }
    lines = [f"{name:<10}{value}" for name, value in rows.items()]
    changed = info["changed"]
    lines += [f"changed   {line}" for line in changed[:SHOWN]]
    if len(changed) > SHOWN:
        lines.append(f"changed   {len(changed) - SHOWN} more (--json lists them)")
    return [*lines, *([f"go on     {info['resume']}"] if info["resume"] else [])]
