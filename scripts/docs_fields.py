"""Shows the documented fields of a docstring ("name   what it is", aligned) as a list, in running text they would flow together, and its
examples as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^ {0,4}([\w/]+(?:\.\.\.)?(?:, \w+)*)  +(\S.*)$")
FENCE = re.compile(r"^( {4,}|```|>>>|\||- )")


def with_fields(text: str) -> str:
    """The docstring with every field as a list item; code, tables and lists stay as they are.

    >>> print(with_fields("Trains.\\n\\nsteps  how many\\n         in all"))
    Trains.
    <BLANKLINE>
    - `steps`: how many in all
    >>> print(with_fields("weight_...  of the terms"))
    - `weight_...`: of the terms
    """
    lines: list[str] = []
    inside = fenced = False
    for line in with_examples(text).splitlines():
        fenced ^= line.startswith("```")
        match = None if fenced or FENCE.match(line) else ENTRY.match(line)
        if match:
            lines += [""] if lines and lines[-1] and not inside else []
            lines.append(f"- {', '.join(f'`{name}`' for name in match[1].split(', '))}: {match[2].strip()}")
            inside = True
        elif inside and line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            lines += ["", line] if inside and line else [line]
            inside = False
    return "\n".join(lines)


def with_examples(text: str) -> str:
    """The docstring with its examples fenced, from ">>>" to the next blank line: as running text a list of results would read as a link."""
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if line.startswith(">>>") and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines[:-1])


class Fields(griffe.Extension):
    """Called by mkdocstrings for every documented object."""

    def on_instance(self, *, obj: griffe.Object, **rest: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_fields(obj.docstring.value)
