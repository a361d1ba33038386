"""Fine-tuning as part of a run: which parameters train, its hooks, the initial weights, and the deployed model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import nn

from diptych.core.contracts import Hook, Recipe, Tuning
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.models.io.adapter_folder import save_adapter
from diptych.models.io.saved_model import open_model
from diptych.models.towers.adapters import MARK, LoRAConfig, has_adapters, merged
from diptych.train.engines import engine_kind
from diptych.train.hooks import WeightAverage
from diptych.train.options import TrainOptions
from diptych.train.tuning.hooks import Adapters, Blend
from diptych.train.tuning.teacher import Teacher

KEY = "tune:"
"""How the keys of these hooks begin among the run's."""


def tuning_of(recipe: Recipe, options: TrainOptions) -> Tuning:
    """The options' way to tune over the recipe's own. Raises ConfigError for a recipe whose engine takes no gradient steps."""
    tuning = options.tune.over(recipe.tuning())
    if tuning != Tuning(keep_positions=tuning.keep_positions) and not engine_kind(recipe).descends:
        raise ConfigError(
            f"the engine '{recipe.engine}' of '{recipe.slug}' takes no gradient steps: adapters, frozen parts, rates and teacher need them"
        )
    return tuning


def tuning_hooks(tuning: Tuning, recipe: Recipe) -> dict[str, Hook]:
    """The hooks of a way to tune, by the keys under which checkpoints hold them."""
    hooks: list[Hook] = []
    if tuning.lora:
        hooks.append(Adapters(tuning, recipe.optimiser()))
    if tuning.average_weights:
        if any(isinstance(hook, WeightAverage) for hook in recipe.hooks()):
            raise ConfigError(f"'{recipe.slug}' averages its weights already (expected average_weights 0)")
        hooks.append(WeightAverage(tuning.average_weights))
    if tuning.blend < 1:
        hooks.append(Blend(tuning.blend))
    if tuning.distill:
        hooks.append(Teacher(tuning, recipe))
    return {f"{KEY}{hook.name}": hook for hook in hooks}


def begin_tuning(hooks: Iterable[Hook], model: nn.Module, taken: Collection[str] | None, say: Callable[[str], None]) -> None:
    """Once a run, when the model has its start weights.

    taken  names of the tensors that the start gave; None: there was none, and what is fresh is what the recipe made
    """
    fresh = set() if taken is None else {name for name, _ in model.named_parameters()} - set(taken)
    for hook in hooks:
        if isinstance(hook, Teacher):
            hook.begin(model)
    for hook in hooks:
        if isinstance(hook, Adapters):
            adapted = hook.begin(model, fresh)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            whole = sum(p.numel() for name, p in model.named_parameters() if MARK not in name)
            say(f"adapters of rank {hook.lora.rank} on {len(adapted)} modules: {trained:,} parameters are trained of {whole:,}")
    for hook in hooks:
        if isinstance(hook, Blend):
            hook.begin(model)


def check_adapters_used(silent: Iterable[str]) -> None:
    """Refuses adapters that no gradient reaches: their modules are read and not called."""
    idle = [name.partition(MARK)[0] for name in silent if MARK in name]
    if idle:
        raise RunError(
            f"--lora: the adapter of {idle[0]} has no effect, since the model does not call that module (leave it out)"
        )


def deployable(recipe: Recipe, model: nn.Module) -> Any:
    """The model for inference, adapters merged into the weights, unless the recipe keeps them apart."""
    return recipe.deploy((model if recipe.keeps_adapters else merged(model)).eval())


def save_adapters(recipe: Recipe, model: nn.Module, tuning: Tuning, folder: RunFolder) -> None:
    """Writes `adapter/`, as `peft` reads it, where what is deployed is one module with adapters."""
    module = getattr(recipe.deploy(model), "model", None)
    if tuning.lora and isinstance(module, nn.Module) and has_adapters(module):
        lora = LoRAConfig.parse(tuning.lora, alpha=tuning.lora_alpha)
        base = open_model(folder.start).model
        save_adapter(module, base, folder.adapter, rank=lora.rank, alpha=lora.alpha or lora.rank, address=str(folder.start))
