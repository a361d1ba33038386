"""The list of public names in docs/stability.md: functions of `diptych`, contracts, commands, entry-point groups, with their signatures.

Run as a script it writes the list (`make systems` does). A name that is in the page and no longer in the code fails the tests.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import diptych
from diptych.cli import COMMANDS
from diptych.core import contracts
from diptych.core.registry import REGISTRIES

PAGE = Path(__file__).resolve().parents[1] / "docs/stability.md"
BEGIN, END = "<!-- public names:begin -->\n", "<!-- public names:end -->"


def functions() -> list[str]:
    """A line for each function of `diptych`: its signature without types."""
    lines = []
    for name in sorted(diptych.__all__):
        value = getattr(diptych, name)
        lines.append(f"- `{name}`" if not callable(value) else f"- `{name}({', '.join(arguments(value))})`")
    return lines


def arguments(function: object) -> list[str]:
    """Names of arguments; those after "*" go by name alone."""
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names and not any(name.startswith("*") for name in names):
            names.append("*")
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        names.append(star + parameter.name)
    return names


def listing() -> str:
    """The generated part of the page."""
    return "\n".join(
        [
            "**Functions of `diptych`**",
            "",
            *functions(),
            "",
            "**Contracts in `diptych.core.contracts`**",
            "",
            ", ".join(f"`{name}`" for name in sorted(contracts.__all__)),
            "",
            "**Commands**",
            "",
            ", ".join(f"`{name}`" for name in COMMANDS),
            "",
            "**Entry-point groups**",
            "",
            ", ".join(f"`{registry.group}`" for registry in REGISTRIES),
            "",
        ]
    )


def names(text: str) -> set[str]:
    """Every name of a listing, functions with their arguments as "function(argument"."""
    public: set[str] = set()
    for quoted in re.findall(r"`([^`]+)`", text):
        function, _, inner = quoted.partition("(")
        public |= {function, *(f"{function}({argument}" for argument in inner.rstrip(")").split(", ") if inner)}
    return public


def main() -> int:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = before + BEGIN + "\n" + listing() + "\n" + END + rest.partition(END)[2]
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
