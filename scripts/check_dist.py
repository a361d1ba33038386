"""Try the wheel and the sdist of dist/ in a fresh environment: help, version, a small training, evaluation, search, export.

python scripts/check_dist.py dist              installs the wheel with the extras `weights` and `serve`, and all that they need
python scripts/check_dist.py dist --borrow     installs the wheel alone; its dependencies are those of this environment (seconds)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

TRIED = (
    ("--version",),
    ("--help",),
    ("systems",),
    ("data", "inspect", "emoji"),
    ("train", "clip", "--data", "world:scenes?n=24", "--out", "run", "--steps", "2", "--batch-size", "8", "--no-progress"),
    ("eval", "run", "retrieval", "--data", "world:scenes?n=24"),
    ("index", "build", "run", "world:scenes?n=24", "pictures.index"),
    ("search", "pictures.index", "a red circle", "--model", "run"),
    ("export", "run", "out", "--to", "diptych"),
)
NEEDED = ("diptych/py.typed", "diptych/core/systems.json", "diptych/serve/page/page.html", "diptych/data/emoji/ATTRIBUTION.md")


def one(folder: Path, pattern: str) -> Path:
    """The one file of that pattern. Exits with a line where there is none, or several."""
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        sys.exit(f"{folder} holds {len(files)} files {pattern} (expected 1: `make dist` starts with an empty folder)")
    return files[0]


def check_contents(wheel: Path, sdist: Path) -> None:
    """Exits with a line where a file that the package reads at run time is missing from the wheel, or a source from the sdist."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    if missing := [name for name in NEEDED if name not in packed]:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    if missing := [name for name in ("pyproject.toml", "LICENSE", "src/diptych/__init__.py") if name not in sources]:
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--borrow", action="store_true", help="use the packages of this environment")
    args = parser.parse_args()
    wheel, sdist = one(args.dist, "*.whl"), one(args.dist, "*.tar.gz")
    check_contents(wheel, sdist)
    with tempfile.TemporaryDirectory(prefix="diptych-dist-") as scratch:
        home = Path(scratch)
        venv.create(home / "venv", with_pip=True)
        python = home / "venv/bin/python"
        target = [str(wheel), "--no-deps"] if args.borrow else [f"{wheel.resolve()}[weights,serve]"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *target], check=True)
        if args.borrow:
            inside = subprocess.run(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                check=True,
                capture_output=True,
                text=True,
            )
            # Behind the wheel in the search order: what is installed here must not shadow it.
            Path(inside.stdout.strip(), "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for words in TRIED:
            print("diptych", *words, flush=True)
            done = subprocess.run(
                [home / "venv/bin/diptych", *words], cwd=home, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        where = subprocess.run(
            [python, "-c", "import diptych; print(diptych.__file__)"], cwd=home, env=environment, capture_output=True
        )
        if str(home).encode() not in where.stdout:
            sys.exit(f"another diptych than the wheel's was tried: {where.stdout.decode().strip()}")
    print(f"{wheel.name} and {sdist.name} hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
