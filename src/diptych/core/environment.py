"""Environment of a measurement: machine, processor flags, versions, commit. Goes into run folders, reports and the ledger."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from diptych.core.machine import processor_flags, usable_cores

PACKAGES = (
    "diptych",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "numpy",
    "pillow",
    "simplejpeg",
    "pyarrow",
)

COMMAND: list[str] = []
"""Words of the command line that is carried out; empty in a session of Python."""


def environment() -> dict[str, Any]:
    """Plain values only. Never the host's name, the user's name or a path."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "processor_flags": processor_flags(),
        "commit": commit(),
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
    }


@cache
def commit() -> str:
    """Short hash of the source tree's commit, with "+" when files differ from it; "" outside a checkout. A process keeps what it finds at
    first: so is the code that it has loaded."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


@cache
def installed_version(name: str) -> str:
    """Version of an installed distribution, which a process reads once; "" where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return 0.0
