"""In-context prompts for rewriting captions (LaCLIP, Fan et al., 2023, 2305.20088): an instruction, three example pairs, the caption.

Examples come in styles. Ours are written for this purpose; the published lists (16 pairs each from ChatGPT, Bard and people, and 18
images of COCO with five captions each) are the authors' and can be given as a file:

    {"chatgpt": {"pairs": [["source", "target"], ...]}, "coco": {"groups": [["caption", "caption", ...], ...]}}

From each group an ordered pair of two captions of the same image is drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from diptych.core.errors import DataError, UnknownName

INSTRUCTION = "write image captions differently,"
ARROW = "=>"
INDENT = " " * 12
"""The published prompt is indented in its source file, so the model reads it indented."""
SHOWN = 3
"""Example pairs in a prompt."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Style:
    """Rewriting style: example pairs, or groups of captions of one image each."""

    pairs: Pairs = ()
    groups: tuple[tuple[str, ...], ...] = ()

    def draw(self, rng: np.random.Generator, count: int = SHOWN) -> Pairs:
        """Samples `count` distinct example pairs, or one pair from each of `count` distinct groups."""
        if self.pairs:
            return tuple(self.pairs[index] for index in rng.permutation(len(self.pairs))[:count].tolist())
        chosen = [self.groups[index] for index in rng.permutation(len(self.groups))[:count].tolist()]
        return tuple(
            (group[first], group[second]) for group in chosen for first, second in [rng.permutation(len(group))[:2].tolist()]
        )


def prompt(pairs: Pairs, caption: str) -> str:
    """In-context prompt in the published form. A caption of several lines is joined to one: the answer is read from the last line."""
    shown = [f"{INDENT}{source} {ARROW} {target}\n\n" for source, target in pairs]
    return f"{INSTRUCTION}\n\n{''.join(shown)}{INDENT}{' '.join(caption.splitlines())} {ARROW}"


def instruction(pairs: Pairs, caption: str) -> str:
    """Instruction prompt for a model that follows instructions: asks for the new caption and nothing else."""
    shown = "\n".join(f"Caption: {source}\nRewritten: {target}\n" for source, target in pairs)
    return (
        "Rewrite the last image caption in other words. Keep every number, name and negation, add nothing, and answer with the "
        f"rewritten caption alone, on one line.\n\n{shown}\nCaption: {' '.join(caption.splitlines())}\nRewritten:"
    )


def caption_of_reply(text: str) -> str:
    """Caption after the arrow of a reply: the rest of that line, up to the next arrow."""
    return text.split("\n", 1)[0].split(ARROW, 1)[0].strip()


@lru_cache(maxsize=4)
def styles(path: str = "") -> dict[str, Style]:
    """Styles of a file, or the built-in ones."""
    file = Path(path).expanduser() if path else None
    try:
        text = file.read_text(encoding="utf-8") if file else (resources.files(__package__) / "examples.json").read_text("utf-8")
        plain = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"is not a readable file of examples ({error})", file=file, expected="JSON, see `in_context`") from error
    if not isinstance(plain, dict) or not plain:
        raise DataError(f"is a {type(plain).__name__}", file=file, expected='{"STYLE": {"pairs": [["source", "target"], ...]}}')
    return {str(name): _style(str(name), given, file) for name, given in plain.items()}


def style(name: str, path: str = "") -> Style:
    """Style of a name; a wrong name gets a near match."""
    by_name = styles(path)
    if name not in by_name:
        raise UnknownName("style", name, by_name, hint=f"styles: {', '.join(by_name)}")
    return by_name[name]


def _style(name: str, given: object, file: Path | None) -> Style:
    if isinstance(given, dict):
        for kind, least in (("pairs", 2), ("groups", 2)):
            rows = given.get(kind)
            good = isinstance(rows, list) and len(rows) >= SHOWN and all(_row(row, least, exact=kind == "pairs") for row in rows)
            if good:
                texts = tuple(tuple(row) for row in rows or [])
                return Style(pairs=texts) if kind == "pairs" else Style(groups=texts)
    raise DataError(
        "has no examples",
        file=file,
        field=name,
        expected=f'"pairs": {SHOWN} or more [source, target], or "groups" of two captions or more',
    )


def _row(row: object, least: int, *, exact: bool) -> bool:
    if not isinstance(row, list) or len(row) < least or (exact and len(row) != least):
        return False
    return all(isinstance(text, str) and text.strip() for text in row)
