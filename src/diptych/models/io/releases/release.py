"""A published release of weights as a row of the table (`releases.table`), and which releases a file looks like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DiptychError
from diptych.models.io.tensor_files import is_torchscript, read_content

NONE_KNOWN = "none known"
"""`source` of a system whose authors published no weights."""
LISTED = 3
"""Releases that an error names, at most."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of weights.

    slug      name of the row
    systems   systems of `diptych systems` that it belongs to; empty for models of libraries
    title     what was published
    address   form of the address that opens it; "" if nothing was published
    source    where the authors keep the files
    licence   of the weights, as the authors state it
    opens     class of the model that `diptych.load` gives
    checked   what the opener was compared with
    prompt    prompts of the authors' zero-shot evaluation; "" if there is none
    names     regular expressions: a state dict with a match for each looks like this release
    without   regular expressions of which it has no match
    model_type  in the config.json of its folders, where it comes as a folder
    """

    slug: str
    systems: tuple[str, ...]
    title: str
    address: str
    source: str
    licence: str
    opens: str
    checked: str
    prompt: str = ""
    names: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    model_type: str = ""

    def matches(self, tensors: Sequence[str]) -> bool:
        """True if tensors of these names look like this release."""

        def has(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in tensors)

        return bool(self.names) and all(map(has, self.names)) and not any(map(has, self.without))

    def to_json(self) -> dict[str, Any]:
        shown = asdict(self)
        for internal in ("names", "without", "model_type"):
            del shown[internal]
        return {**shown, "systems": list(self.systems)}


def recognised(path: Path, releases: Iterable[Release]) -> list[Release]:
    """Releases whose files look like this file or folder; [] for one that cannot be read, and of more than one kind."""
    try:
        if (path / "config.json").is_file():
            kind = read_object(path / "config.json").get("model_type")
            return [release for release in releases if release.model_type and release.model_type == kind]
        names = tensor_names(path)
    except (DiptychError, OSError, ValueError):
        return []
    return [release for release in releases if release.matches(names)]


def described(releases: Sequence[Release]) -> str:
    """A few releases with their addresses, for an error.

    >>> described([])
    ''
    """
    if not releases:
        return ""
    shown = " or ".join(f"{release.title} ({release.address})" for release in releases[:LISTED])
    return f"it looks like {shown}" + (f" and {len(releases) - LISTED} more" if len(releases) > LISTED else "")


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a file, without the prefix of a model that was trained in parallel. Raises DataError."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names = list(file.keys())
    elif path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
    elif path.suffix == ".ckpt" and (parameters := _mindspore(path)):
        names = parameters
    elif is_torchscript(path):
        import torch

        names = list(torch.jit.load(path, map_location="cpu").state_dict())
    else:
        names = list(_flat(read_content(path, mapped=_is_zip(path))))
    return [name.removeprefix("module.") for name in names]


def _flat(content: Any) -> Iterable[str]:
    """Names in the state dict of a checkpoint: of the entry that holds it, or of several such entries, then with the entry's name."""
    if not isinstance(content, dict):
        return []
    for within in ("state_dict", "model", "module"):
        if isinstance(content.get(within), dict):
            return map(str, content[within])
    nested = {key: value for key, value in content.items() if isinstance(value, dict) and str(key).endswith("state_dict")}
    return [f"{key}.{name}" for key, value in nested.items() for name in value] or list(map(str, content))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _mindspore(path: Path) -> list[str]:
    from diptych.models.io.releases.mindspore import is_mindspore, parameter_names

    return parameter_names(path) if is_mindspore(path) else []
