"""Initial weights of a run: opened, adapted to and checked against the recipe."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions


def with_initial_weights(made: Recipe, init: str | Path, options: TrainOptions, asked: Collection[str]) -> tuple[Recipe, Any]:
    """The recipe as the weights of `init` have it, and their model; a recipe without fields of that kind as it is, and None."""
    from diptych.models.io.open_address import is_published, open_address
    from diptych.models.pairs.embedder import Embedding
    from diptych.models.pairs.frozen.locked import LockedEmbedder
    from diptych.models.vilt.vilt_model import ViltModel
    from diptych.recipes._shared.frozen.initial_weights import refuse_conflicts, with_tuning_rate
    from diptych.recipes._shared.frozen.resized import resized

    if not hasattr(made, "started"):
        return made, None
    foreign = is_published(str(init))
    if not foreign and not (Path(options.init).parent / "config.json").is_file():
        return made, None  # tensors only
    model = open_address(str(init) if foreign else Path(options.init).parent, download=options.download)
    if type(model) is LockedEmbedder:
        raise ConfigError(f"{init} holds heads on frozen encoders (expected --init unlocked:{init}, which trains both on)")
    if not foreign and not isinstance(model, Embedding | ViltModel):
        return made, None  # a recipe of another kind of model: tensors of equal name and shape
    adapted = resized(made, made.started(model), asked)
    refuse_conflicts(made, adapted, asked, str(init))
    return (with_tuning_rate(adapted, asked) if foreign and hasattr(adapted, "tuned_lr") else adapted), model


def start_report(made: Recipe, model: Any, init: str | Path, options: TrainOptions) -> list[str]:
    """Report lines on initialisation: tensors that start from the weights, fresh ones with the reason, unused ones; before step 1.

    Raises ConfigError when the weights have next to nothing for the recipe.

    model  the opened model that the weights are of; without it their tensors are read
    """
    import torch

    from diptych.train.tuning.positions import fitted
    from diptych.train.weights import given_tensors, start_lines, start_tensors

    made = next((stage.recipe for stage in made.stages()), made)  # what takes the first step
    try:
        with torch.device("meta"):
            ours = made.model()
    except (RuntimeError, NotImplementedError):  # a part that reads its own weights cannot be built without memory
        with torch.random.fork_rng(devices=[]):
            ours = made.model()
    given = start_tensors(options.init, download=options.download) if model is None else given_tensors(model)
    lines: list[str] = []
    keep = options.tune.over(made.tuning()).keep_positions
    tensors = fitted(made.fitted(given), ours.state_dict(), keep=keep, say=lines.append)
    return [*start_lines(tensors, ours, str(init), getattr(model, "left", ())), *lines]


def initial_weights_path(init: str | Path) -> str:
    """Value of `TrainOptions.init` for a start: the address of published weights, or the weights file of a folder."""
    from diptych.models.io.open_address import is_published

    return str(init) if is_published(str(init)) else str(weights_of(init))


def weights_of(source: str | Path) -> Path:
    """The weights file of a run folder or model folder, or a .safetensors file as it is."""
    folder = Path(source)
    if folder.suffix == ".safetensors" and folder.is_file():
        return folder
    for path in (folder / "model" / "model.safetensors", folder / "model.safetensors"):
        if path.is_file():
            return path
    expected = "a finished run folder, its model/, a .safetensors file, or an address of weights"
    raise RunError(f"{source} has no model.safetensors (expected {expected})")
