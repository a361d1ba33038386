"""``diptych systems [SLUG]``: the table of systems, or one row of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from diptych.cli.options.output import finish, parse
from diptych.core import systems


@dataclass(frozen=True)
class SystemsArgs:
    slug: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="one system; default: all")] = ""
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(SystemsArgs, argv, "systems", f"The {len(systems.SYSTEMS)} systems, the baselines, and which of them work.")
    if args.slug:
        row = systems.find(args.slug)
        lines = [f"{row.slug}: {row.title}", *_about(row), f"  family  {row.family}", f"  entry   {row.entry}"]
        lines += [f"  also    {path}" for path in row.also]
        lines += ["  works   yes" if row.works else "  works   no: " + ", ".join(row.missing)]
        lines += [f"  claim   {row.verdict}"]
        return finish(row.to_json(), lines, args.json)
    rows = [*systems.SYSTEMS, *systems.BASELINES]
    state = {row.slug: "works" if row.works else "built" if row.built else "-" for row in rows}
    lines = [
        f"{row.slug:<18}{state[row.slug]:<7}{row.verdict if row.built else '':<25}{row.family:<12}{row.title}" for row in rows
    ]
    working = sum(row.works for row in systems.SYSTEMS)
    built = sum(row.built for row in systems.SYSTEMS)
    shown = sum(row.shown for row in systems.SYSTEMS)
    lines.append(
        f"{len(systems.SYSTEMS)} systems: {working} work, {built} built, {shown} shown; and {len(systems.BASELINES)} baselines"
    )
    return finish(
        {"systems": [row.to_json() for row in rows], "working": working, "built": built, "shown": shown}, lines, args.json
    )


PAPER = re.compile(r"\b(?:arXiv[: ])?(\d{4}\.\d{5}|\d{4}\.\d{4})\b")


def papers_of(docstring: str) -> list[str]:
    """Addresses of the papers on arXiv that a docstring names, each once.

    >>> papers_of("CLIP (Radford et al., 2021, arXiv 2103.00020); SigLIP (2303.15343)")
    ['https://arxiv.org/abs/2103.00020', 'https://arxiv.org/abs/2303.15343']
    """
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(PAPER.findall(docstring))]


def _about(row: systems.System) -> list[str]:
    """Lines on what a system is for, its paper, its command and its own options; read from the source, which is not imported."""
    module, _, name = row.entry.partition(":")
    if not row.built or (spec := find_spec(module)) is None or spec.origin is None:
        return []
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    purpose = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
    entry = next((node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name), None)
    text = ast.get_docstring(entry) or "" if entry is not None else ""
    lines = [f"  for     {purpose}"]
    lines += [f"  paper   {address}" for address in papers_of(text)[:1] or papers_of(ast.get_docstring(tree) or "")[:1]]
    if ".recipes." in module and isinstance(entry, ast.ClassDef):
        own = [
            node.target.id
            for node in entry.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_option(node)
        ]
        lines += [f"  train   diptych train {row.slug} --data DATA --out runs/{row.slug}"]
        lines += [f"  fields  {', '.join(own)}; with those it inherits: diptych train {row.slug} --help"] if own else []
    return lines


def _is_option(node: ast.AnnAssign) -> bool:
    """A field of a recipe that a user may set: no class variable, and none that the data fill (`prepared`)."""
    prepared = node.value is not None and "'prepared': True" in ast.unparse(node.value)
    return not ast.unparse(node.annotation).startswith("ClassVar") and not prepared
