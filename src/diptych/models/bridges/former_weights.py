"""A Q-Former that was trained before: out of a folder of BLIP-2 as transformers saves it, or out of another bridge's run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.models.bridges.connectors import QueryConnector

INDEX = "model.safetensors.index.json"
NAMES = {"qformer.": "former.", "vision_model.post_layernorm.": "norm."}
"""Of BLIP-2 in transformers -> of the connector; `query_tokens` beside them."""
OWN = "connector."
"""How the names begin in a bridge of ours."""


@torch.no_grad()
def take_former_(connector: QueryConnector, folder: Path) -> None:
    """Copies Q-Former, queries and the norm before it into the connector; the linear map behind it stays as it is. Raises DataError where
    the folder holds none, or one of another shape.

    folder  of transformers, a run folder of ours, or its model folder
    """
    if (folder / "run.json").is_file():
        folder = folder / "model"
    found: dict[str, Tensor] = {}
    for file in _files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118, a handle is no mapping
                own = name.removeprefix("model.")
                if own.startswith(OWN):
                    found[own.removeprefix(OWN)] = opened.get_tensor(name)
                if own == "query_tokens":
                    found["query_QD"] = opened.get_tensor(name)[0]
                for theirs, ours in NAMES.items():
                    if own.startswith(theirs):
                        found[ours + own.removeprefix(theirs)] = opened.get_tensor(name)
    wanted = {name: tensor for name, tensor in connector.state_dict().items() if not name.startswith("map.")}
    for name, tensor in wanted.items():
        if name not in found:
            raise DataError(
                f"holds no {name} of a Q-Former", file=folder, expected="BLIP-2 as transformers saves it, or a bridge"
            )
        if found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)}, the recipe {list(tensor.shape)}"
            raise DataError(f"{name} is {shapes}", file=folder, expected="the same sizes")
        tensor.copy_(found[name])


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        parts = read_object(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict):
            raise DataError("has no weight_map", file=folder / INDEX, expected="the index that transformers writes")
        return [folder / name for name in sorted({Path(str(part)).name for part in parts.values()})]
    if not (folder / "model.safetensors").is_file():
        raise DataError("holds no weights", file=folder, expected="model.safetensors of BLIP-2 as transformers saves it")
    return [folder / "model.safetensors"]
