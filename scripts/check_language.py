"""Names and prose in the words of the field: what `make lint` refuses, with the better word beside it.

Three rules over `src/diptych`: a class name stands for one class, a docstring opens with what the thing returns or does, and a short list
of words that say nothing to a reader (`found`, `told`, `Wanted`) is not used for classes, variables or in prose. `docs/glossary.md`
explains the terms that are used instead. Counts are printed with --count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src/diptych"
PROSE = ("README.md", "docs/*.md", "docs/data/*.md")

OPENINGS = re.compile(r"(What|How|Whether|Why)\b")

SHARED_NAMES: dict[str, str] = {}
"""Class names that stand for two classes, each with the reason; private helpers of two files may share a name."""

SAVED_NAMES = {("src/diptych/models/blip/codebook_captioner.py", "places"): "a key of the shape in saved model folders"}
"""Parameters of a banned name by file, each with the reason that it cannot change."""

CLASSES = {
    "Look": "ImageHash, FolderProbe, Appearance: what is it?",
    "Seen": "the noun of what is stored: ImageEvaluation, SeenKeys",
    "Wanted": "ReadOptions, GenerationRequest",
    "Written": "GenerationOutput",
    "Found": "Proposals, Matches, SearchResult",
    "Drawn": "SeededRows, Sampled...",
    "Told": "the noun of what is passed",
    "Door": "IndexServer",
    "Manners": "FetchPolicy",
    "Peers": "RankWatchdog",
}
VARIABLES = {
    "found": "what it holds: detections, matches, rows, scores",
    "place": "index, position, path, slot",
    "places": "indices, positions, paths",
    "known": "vocabulary, registry, cached, by_name",
    "told": "given, passed",
    "said": "text, answer, message",
    "wish": "request, option",
    "heard": "received",
}
WORDS = {
    r"\btold\b": "given, passed, configured",
    r"\bwish(es|ed)?\b": "request, option",
    r"\bheard\b": "received",
    r"\baccus\w+": "report, name",
    r"\b(numbers|words|rows|tokens|captions|samples) a (text|vector|picture|row|caption|image|sample|second)\b": "... per ...",
}


def main() -> int:
    problems = [*class_names(), *openings(), *variables(), *prose()]
    if "--count" in sys.argv:
        print(dict(Counter(kind for kind, _ in problems)))
        return 0
    for _, line in problems:
        print(line)
    if problems:
        print(f"{len(problems)} names or sentences to put into plain words; docs/glossary.md has the terms")
    return 1 if problems else 0


def modules() -> Sequence[tuple[Path, ast.Module]]:
    """Paths from the root and syntax trees of the package."""
    return _parsed(ROOT, SOURCES)


@cache
def _parsed(root: Path, sources: Path) -> Sequence[tuple[Path, ast.Module]]:
    return [(path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(sources.rglob("*.py"))]


def class_names() -> Iterator[tuple[str, str]]:
    """Classes that share a name, and classes of a banned name."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(f"{path}:{node.lineno}")
    for name, lines in sorted(homes.items()):
        if name in CLASSES:
            yield "class name", f"{lines[0]}: class {name} (better: {CLASSES[name]})"
        elif len(lines) > 1 and not name.startswith("_") and name not in SHARED_NAMES:
            yield (
                "class name twice",
                f"{lines[1]}: class {name} is also in {lines[0]} (a name of its own, or a reason in SHARED_NAMES)",
            )


def openings() -> Iterator[tuple[str, str]]:
    """Docstrings that open with a question word."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if OPENINGS.match(text):
                    line = getattr(node, "lineno", 1)
                    yield (
                        "docstring",
                        f"{path}:{line}: docstring opens with {text.split()[0]!r} (better: what it returns or does)",
                    )


def variables() -> Iterator[tuple[str, str]]:
    """Local names and parameters from the banned list; fields of classes are what users have written into configurations, and stay."""
    for path, tree in modules():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        fields = {id(item.target) for node in classes for item in node.body if isinstance(item, ast.AnnAssign)}
        for node in ast.walk(tree):
            if id(node) in fields:
                continue
            name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else ""
            stored = isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
            if stored and name in VARIABLES and (path.as_posix(), name) not in SAVED_NAMES:
                assert isinstance(node, ast.arg | ast.Name)
                yield "variable", f"{path}:{node.lineno}: variable {name} (better: {VARIABLES[name]})"


def prose() -> Iterator[tuple[str, str]]:
    """Banned words in docstrings, README and the guide."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                yield from _banned(text, f"{path}:{getattr(node, 'lineno', 1)}")
    for pattern in PROSE:
        for file in sorted(ROOT.glob(pattern)):
            if file.name != "how-fast.md":  # generated
                for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                    yield from _banned(line, f"{file.relative_to(ROOT)}:{number}")


def _banned(text: str, where: str) -> Iterator[tuple[str, str]]:
    for pattern, better in WORDS.items():
        if match := re.search(pattern, text):
            yield "prose", f"{where}: {match.group()!r} (better: {better})"


if __name__ == "__main__":
    sys.exit(main())
