"""``diptych new system|operator|task NAME``: a package with tests, ready to be installed beside Diptych."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse


@dataclass(frozen=True)
class NewArgs:
    kind: Annotated[Positional[Literal["system", "operator", "task"]], arg(metavar="KIND", help="system | operator | task")]
    name: Annotated[Positional[str], arg(metavar="NAME", help="lower case with underscores, such as word_order")]
    out: Annotated[Path | None, arg(help="folder of the package (NAME in this one)")] = None
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(NewArgs, argv, "new", "A package with one system, operator or task of your own, and tests that pass.")
    from diptych.api.scaffold import TEMPLATES, new_package

    folder = new_package(args.kind, args.name, args.out or Path(args.name))
    module = folder / "src" / args.name / f"{TEMPLATES[args.kind].module}.py"
    use = {
        "system": f"diptych train {args.name}",
        "operator": f"diptych curate {args.name}",
        "task": f"diptych eval RUN {args.name}",
    }
    lines = [
        f"wrote {folder}; edit {module}, then:",
        f"  pip install -e {folder}",
        f"  python -m pytest {folder}",
        f"  {use[args.kind]} --help",
    ]
    return finish({"folder": str(folder), "module": str(module)}, lines, args.json)
