"""Which commit the sources are at, and whether they are exactly that: a verdict on changed sources could not be found again."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
WATCHED = ("src", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Tree:
    """`commit` is "" outside a checkout; `changed` names what differs from it, untracked files too."""

    commit: str
    changed: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return bool(self.commit) and not self.changed


def tree(root: Path = ROOT) -> Tree:
    """The state of the sources; the ledger itself may differ, since runs write it."""
    if not (root / ".git").exists():
        return Tree("", ())
    head = _git(root, "rev-parse", "--short", "HEAD").strip()
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *WATCHED)
    return Tree(head, tuple(line[3:] for line in status.splitlines()))


@contextmanager
def sources_of(commit: str, root: Path = ROOT) -> Iterator[Path | None]:
    """A folder with `src` as it was at a commit, for as long as the block lasts; None where the commit cannot be had."""
    # A ledger is a file that came from somewhere: nothing in it is an option of git.
    if not commit.isalnum() or not (root / ".git").exists():
        yield None
        return
    with TemporaryDirectory() as folder:
        archive = Path(folder, "src.tar")
        words = ["git", "-C", str(root), "archive", "--format=tar", f"--output={archive}", commit, "src"]
        if subprocess.run(words, capture_output=True, timeout=60).returncode:
            yield None
            return
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        yield Path(folder)


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True).stdout
