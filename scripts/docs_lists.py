"""Lists of what exists, written into the pages that show them, between marks: recipes, towers and families of
published models in docs/training.md, steps in docs/curating.md, peers' code that tests run in docs/coming-from.md.

Run as a script it writes them (`make systems` does); with --check it only says which are out of date.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from diptych.core.registry import OPERATORS, RECIPES

ROOT = Path(__file__).resolve().parents[1]


def recipes() -> str:
    """Every trainable system that is there, with its title and presets."""
    lines = ["| recipe | what it is | presets |", "|---|---|---|"]
    for slug, entry in RECIPES.items():
        presets = ", ".join(f"`{name}`" for name in entry.load().presets)
        lines.append(f"| `{slug}` | {entry.about} | {presets} |")
    return "\n".join(lines)


def steps() -> str:
    """Every curation step, and the options that name something that it may need: a model, a table, a list."""
    lines = ["| step | what it is about | may be given |", "|---|---|---|"]
    for slug, entry in OPERATORS.items():
        given = [f"`--{f.name.replace('_', '-')}`" for f in dataclasses.fields(entry.load()) if f.default == ""]
        lines.append(f"| `{slug}` | {entry.about} | {', '.join(given)} |")
    return "\n".join(lines)


def families() -> str:
    """Every family of transformers that opens as an embedder and starts a run."""
    from diptych.models.io.foreign.transformers_layout import FAMILIES

    lines = ["| `model_type` | family | a published model | classes | tokens per text |", "|---|---|---|---|---|"]
    for family in FAMILIES.values():
        classes = ", ".join(f"`{name}`" for name in family.classes)
        length = f"{family.text_length}" if family.text_length else "as many as it has positions"
        lines.append(f"| `{family.model_type}` | {family.about} | `{family.published}` | {classes} | {length} |")
    return "\n".join(lines)


INNER = ("headed_", "hf_", "open_clip_", "learned_tokens_")
"""Towers that are made from published weights and not by name."""


def weights() -> str:
    """Every release of weights that opens by address, and every system without one."""
    from diptych.models.io.releases.families import all_releases

    lines = ["| released by | systems | address | where the authors keep it | licence | opens as | checked against | prompts |"]
    lines.append("|---" * 8 + "|")
    for row in all_releases():
        systems = ", ".join(f"`{slug}`" for slug in row.systems)
        address = f"`{row.address}`" if row.address else ""
        opens = f"`{row.opens}`" if row.opens else ""
        cells = (row.title, systems, address, row.source, row.licence, opens, row.checked, row.prompt)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def peers() -> str:
    """Every entry point of another library that tests/peers runs on our files, or whose files we read, from docs/measured/peers.json."""
    lines = ["| package | version | entry | what agrees |", "|---|---|---|---|"]
    for row in json.loads((ROOT / "docs/measured/peers.json").read_text(encoding="utf-8")):
        way = "reads from Diptych" if row["direction"] == "reads ours" else "is read by Diptych"
        lines.append(f"| {row['package']} | {row['version']} | `{row['entry']}` {way} | {row['what']} |")
    return "\n".join(lines)


def image_towers() -> str:
    """Every image tower that a recipe takes by name."""
    from diptych.models.towers.towers import IMAGE

    return _towers(IMAGE, ("image_size", "patch", "width", "layers", "heads", "depths"))


def text_towers() -> str:
    """The same for texts."""
    from diptych.models.towers.towers import TEXT

    return _towers(TEXT, ("length", "width", "layers", "heads", "pooling"))


def _towers(presets: Mapping[str, tuple[Callable[..., object], Mapping[str, object]]], shown: tuple[str, ...]) -> str:
    lines = [f"| tower | {' | '.join(name.replace('_', ' ') for name in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, (_, options) in presets.items():
        if options and not name.startswith(INNER):
            lines.append(f"| `{name}` | {' | '.join(_cell(options.get(key, '')) for key in shown)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


LISTS: dict[str, tuple[str, Callable[[], str]]] = {
    "recipes": ("docs/training.md", recipes),
    "steps": ("docs/curating.md", steps),
    "families": ("docs/training.md", families),
    "weights": ("docs/weights.md", weights),
    "peers": ("docs/coming-from.md", peers),
    "image towers": ("docs/training.md", image_towers),
    "text towers": ("docs/training.md", text_towers),
}
"""The name in the marks -> page and what makes the list."""


def written(name: str) -> tuple[Path, str]:
    """The page and its text with that list as it should be now. Raises ValueError for a page without the marks."""
    page, make = LISTS[name]
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    path = ROOT / page
    marked = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    text, count = marked.subn(lambda _: f"\n{make()}\n\n", path.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page} has {count} places marked '{name}' (expected 1)")
    return path, text


def main() -> int:
    old = 0
    for name in LISTS:
        path, text = written(name)
        if path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        if "--check" in sys.argv:
            print(f"the list '{name}' of {path.relative_to(ROOT)} is out of date: run `make systems`")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if old and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
