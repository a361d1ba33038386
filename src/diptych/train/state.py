"""A run in progress: model, optimiser, data position and hooks of the phase it is in. `fit.py` advances it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diptych.core.contracts import Batch, Dataset, Engine, Hook, Order, Recipe, StepOutput
from diptych.core.errors import ConfigError, RunError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import check_rows
from diptych.core.run_folder import RunFolder
from diptych.data.load.computed_order import computed_order, default_order
from diptych.data.load.order import order
from diptych.data.load.shard_order import remote_order
from diptych.data.load.stream import Step, batches, check_bad_limit
from diptych.train import gradient_cache, parallel
from diptych.train.checkpoint import Checkpoint
from diptych.train.devices.blocks import with_block_options
from diptych.train.devices.flops import with_flops
from diptych.train.devices.late import LateNorm, LateValues
from diptych.train.devices.memory import with_smaller_chunks
from diptych.train.devices.saving import save_run
from diptych.train.devices.shared_save import SharedSave
from diptych.train.engines import engine_kind
from diptych.train.log import Log, quarantined
from diptych.train.optimise import (
    build_optimiser,
    clip,
    clip_on_device,
    freeze,
    load_optimiser_state,
    parameters_without_gradient,
    schedule,
    state_by_name,
)
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext, barrier, unsynced, wrap
from diptych.train.part_norms import PartNorms
from diptych.train.precision import autocast, choose_precision, loader_workers, wants_uint8_images
from diptych.train.stages import Phase, plan, stage_data
from diptych.train.step_log import StepLog
from diptych.train.tuning.fine_tuning import KEY, begin_tuning, check_adapters_used, deployable, tuning_hooks, tuning_of
from diptych.train.tuning.positions import start_from
from diptych.train.tuning.rates import freeze_batch_norm, tuned_optimiser
from diptych.train.tuning.teacher import Teacher
from diptych.train.weights import copy_matching, load_weights, whole_copy, zero_pad

ENGINE = "engine"
"""The key of what the engine remembers, among that of the hooks, whose keys hold a colon."""


class Training:
    """State of a training loop: what `fit` and `estimate` step through, and what hooks see as `contracts.Run`.

    `step` counts finished optimiser steps over all phases; `model` is the bare module and `module` what is called in training
    (the same, a data-parallel wrapper around it, or itself with its parameters sharded).
    """

    model: nn.Module
    module: nn.Module
    engine: Engine
    optimiser: torch.optim.Optimizer | None
    scratch: Path

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        options: TrainOptions,
        world: DistributedContext,
        folder: RunFolder,
        log: Log,
        phases: Sequence[Phase] | None = None,
    ) -> None:
        self.whole_recipe, self.whole_data, self.options = recipe, data, options
        self.scratch = folder.path / "stages"
        self.data = data
        self.world, self.folder, self.journal = world, folder, log
        self.phases = list(phases or plan(recipe, data, options))
        self.phase = self.phases[0]
        self.steps = self.phases[-1].stop
        self.step = 0
        self.hooks: dict[str, Hook] = {}
        self.precision = choose_precision(options.precision, world.device)
        self.autocast = autocast(self.precision, world.device)
        self._workers = loader_workers(options.workers, world.device)
        self._uint8_images = wants_uint8_images(options.uint8_images, world.device)
        self._order: Order = order
        self._stream: Iterator[Step] = iter(())
        self._saved = -1
        self._saving: SharedSave | None = None
        self._step_log = StepLog(log, world, options.log_every)
        self.rate = 0.0
        self.grad_norm: float | LateValues = 0.0  # of a GPU: read a step later
        self._norm = LateNorm()
        self.part_norms = PartNorms(options.part_norms, options.log_every)
        self.tuning = tuning_of(recipe, options)
        self.flops: int | None = None  # of a step of this phase and process, counted in its first one
        self.micro_batch = options.micro_batch  # smaller once the memory of the device ran out

    # ------------------------------------------------------------ phases

    def enter(self, phase: Phase, begin: Checkpoint | None = None) -> None:
        """Builds model, optimiser and data of a phase. With `begin`, a checkpoint taken within it, takes everything from there;
        else weights come from the module of the phase before."""
        before = self.whole_model() if hasattr(self, "model") else None
        remembered = state_by_name(self.model, self._memory) if before is not None and phase.stage.keep_optimiser else {}
        self.phase, self.flops = phase, None
        self.engine = engine_kind(self.recipe)()
        self._checked = False
        if phase.stage.recipe.batch_size % self.world.size:
            raise ConfigError(f"batch_size {self.recipe.batch_size} cannot be shared equally by {self.world.size} processes")
        if before is not None and begin is None:
            self.data = self._data_of(phase)
        self._add_hooks(phase)
        taken: list[str] | None = None
        torch.manual_seed(keyed_seed(self.options.seed, "model", phase.index))
        model: nn.Module = self.recipe.model()
        if begin is not None:
            for key, state in begin.hooks.items():
                if key == ENGINE:
                    continue
                if key not in self.hooks:
                    raise RunError(f"the checkpoint of step {begin.step} knows a hook '{key}', the recipe does not")
                self.hooks[key].load(state)
            for hook in self.hooks.values():
                model = hook.reshape(model)
            load_weights(model, begin.model, self.recipe)
            self.step = self._saved = begin.step
        elif before is not None:
            for key, hook in self.hooks.items():
                model = hook.reshape(model) if key.startswith(KEY) else model
            carry = phase.stage.carry or copy_matching
            carry(before, model)
        elif self.options.init:
            taken = start_from(self.options, self.tuning, model, self.note, self.recipe.fitted)
        if before is None and begin is None:
            begin_tuning(self.hooks.values(), model, taken, self.note)
        self._adopt(model)
        if begin is not None:
            self.engine.load(begin.hooks.get(ENGINE, {}))
            load_optimiser_state(self.optimiser, self.model, begin.optimiser)
        for name, parameter in self.model.named_parameters():
            if begin is None and self.optimiser and name in remembered and remembered[name][0] == parameter.shape:
                self.optimiser.state[parameter] = remembered[name][1]
        if before is None or begin is not None:
            self.data = self._data_of(phase)
        usual = remote_order(self.data) or default_order(len(self.data), self.folder.order_version)
        self._order = self.recipe.row_order(self.data) or usual
        if self.engine.once and self._order not in (order, computed_order, usual):
            raise ConfigError(
                f"the engine '{self.recipe.engine}' wants every sample once: '{self.recipe.slug}' cannot have an order"
            )
        self._stream = self._open(phase.stop)

    def _data_of(self, phase: Phase) -> Dataset:
        """Data set of a training phase. A stage that generates its samples has random numbers of its own for it, and may leave the model
        in evaluation mode."""
        folder = self.folder.path / "stages"
        if phase.stage.make is None:
            return stage_data(phase, self.whole_data, self, folder, self.world)
        self.scratch = folder / f"{phase.index:02d}-{phase.stage.name}.parts"
        with torch.random.fork_rng():
            torch.manual_seed(keyed_seed(self.options.seed, "make", phase.index))
            made = stage_data(phase, self.whole_data, self, folder, self.world)
        self.learning()
        return made

    @property
    def _memory(self) -> MutableMapping[Any, Any]:
        """State of the optimiser for each parameter; empty without an optimiser."""
        return self.optimiser.state if self.optimiser else {}

    def _add_hooks(self, phase: Phase) -> None:
        """The run's hooks live through all phases; a phase brings its own when its recipe is another system."""
        if not self.hooks:
            self.hooks = {f"{n}:{hook.name}": hook for n, hook in enumerate(self.whole_recipe.hooks())}
        self.hooks = {key: hook for key, hook in self.hooks.items() if not key.startswith("stage")}
        if type(phase.stage.recipe) is not type(self.whole_recipe):
            own = phase.stage.recipe.hooks()
            self.hooks |= {f"stage{phase.index}:{n}:{hook.name}": hook for n, hook in enumerate(own)}
        if not any(key.startswith(KEY) for key in self.hooks):
            self.hooks |= tuning_hooks(self.tuning, self.whole_recipe)

    def _adopt(self, model: nn.Module) -> None:
        """Makes a module the one that is trained: on the device, wrapped and with an optimiser where the engine descends."""
        placed = model.to(self.world.device, torch.float64 if self.precision == "fp64" else None)
        self.model = self.module = with_block_options(placed, self.options)
        self.optimiser = None
        if not self.engine.descends and self.world.size > 1 and self.options.shard == "fsdp":
            raise ConfigError(f"the engine '{self.recipe.engine}' takes no gradient steps that fsdp could share: use --shard ddp")
        self.engine.begin(self, self.model)
        if self.engine.descends:
            spec = tuned_optimiser(self.recipe.optimiser(), self.model, self.tuning, head_only=self.phase.head_only)
            freeze(self.model, spec)
            self.module = wrap(self.model, self.world, self.options, self.precision)
            self.optimiser = build_optimiser(self.model, spec)
        self.learning()

    def learning(self) -> None:
        """Puts the model into training mode."""
        self.model.train()
        freeze_batch_norm(self.model, self.tuning)

    def _open(self, stop: int) -> Iterator[Step]:
        """Batches from the present step up to step `stop` of the phase's own order."""
        index = self.phase.index
        return batches(
            self.data,
            self.recipe,
            seed=self.options.seed if index == 0 else keyed_seed(self.options.seed, "stage", index),
            start=self.step - self.phase.start,
            stop=stop - self.phase.start,
            rank=self.world.rank,
            world=self.world.size,
            workers=self._workers,
            bad_limit=self.options.bad_limit,
            known_bad=quarantined(self.folder),
            order=self._order,
            uint8_images=self._uint8_images,
        )

    # ------------------------------------------------------------ one step

    @property
    def recipe(self) -> Recipe:
        return self.phase.stage.recipe

    @property
    def epoch_begins(self) -> int | None:
        """The epoch whose first sample is in the step to come; None when no epoch begins there."""
        size, rows = self.recipe.batch_size, len(self.data)
        first = (self.step - self.phase.start) * size
        epoch = (first + size - 1) // rows
        return epoch if first == 0 or epoch != (first - 1) // rows else None

    def next_batch(self) -> Batch:
        """The batch of the next step, on the device; seeds the random numbers of that step."""
        try:
            item = next(self._stream)
        except StopIteration:
            raise RunError(f"the data ended at step {self.step} of {self.steps}") from None
        self._step_log.failed(item.failures)
        torch.manual_seed(keyed_seed(self.options.seed, "step", self.step, self.world.rank))
        return self.on_device(item.batch)

    def on_device(self, batch: Batch) -> Batch:
        """The batch on the device, in the precision of the run."""
        if self.world.device.type == "cuda" and self._workers == 0:  # loader processes have done it
            batch = batch.pin_memory() if hasattr(batch, "pin_memory") else batch
        batch = batch.to(self.world.device)
        if self.precision == "fp64":
            batch = gradient_cache.map_tensors(batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        return batch

    @property
    def fresh_rows(self) -> int:
        share = self.recipe.batch_size // self.world.size
        first = (self.step - self.phase.start) * self.recipe.batch_size + self.world.rank * share
        return min(max(len(self.data) - first, 0), share)

    def take_step(self, batch: Batch) -> StepOutput:
        """One step of the phase's engine; `step` has counted on when this returns."""
        if self.step == self.phase.start:
            check_rows(batch, len(batch))
        outcome, self.flops = with_flops(self.flops, partial(self.engine.step, self, batch))
        self.step += 1
        return outcome

    def features_of(self, model: nn.Module, batch: Batch) -> Any:
        return gradient_cache.features_without_grad(
            self.recipe, model, batch, micro_batch=self.micro_batch, autocast=self.autocast
        )

    def summed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return parallel.all_reduce_sum(values, self.world)

    def backward(self, batch: Batch) -> StepOutput:
        """Backward pass of the global batch: gradients in every parameter's `grad`."""
        outcome = with_smaller_chunks(self, batch, partial(self._backward, batch))
        if self.step == self.phase.start and not self._checked:
            self._check(outcome)
        return outcome

    def _backward(self, batch: Batch, micro_batch: int) -> StepOutput:
        self._descent.zero_grad(set_to_none=True)
        teacher = next((hook for hook in self.hooks.values() if isinstance(hook, Teacher)), None)
        return gradient_cache.backward(
            self.recipe,
            self.module,
            batch,
            micro_batch=micro_batch,
            autocast=self.autocast,
            unsynced=unsynced(self.module),
            further=teacher.further(self, batch) if teacher else None,
        )

    @property
    def _descent(self) -> torch.optim.Optimizer:
        if self.optimiser is None:
            raise RunError(f"the engine '{self.recipe.engine}' does not descend: it has no optimiser")
        return self.optimiser

    def _check(self, outcome: StepOutput) -> None:
        """The first gradients of a phase show whether rows are what is declared, and which parameters nothing trains."""
        self._checked = True
        check_rows(outcome.batch, len(outcome.batch))
        check_rows(outcome.features, len(outcome.batch))
        if silent := parameters_without_gradient(self.model):
            check_adapters_used(silent)
            names = ", ".join(silent[:5]) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
            if isinstance(self.module, DistributedDataParallel):
                raise RunError(f"no gradient reaches {names}: freeze them with a Rule(lr_scale=0), or use --shard fsdp")
            self.journal.note(self.step, f"no gradient reaches {names}")

    def update(self, outcome: StepOutput) -> None:
        """Clips, moves the parameters, and lets the recipe's module remember."""
        spec, optimiser = self.recipe.optimiser(), self._descent
        length = self.phase.stop - self.phase.start
        self.rate = schedule(optimiser, spec, self.step - self.phase.start, length)
        with self.part_norms.measured(self.model, self.step + 1, self.steps):
            if self.world.device.type == "cuda":
                self._norm.check()  # of the step before
                self.grad_norm = self._norm.take(clip_on_device(self.model, spec.clip_norm, spec.clip_by))
            else:
                self.grad_norm = clip(self.model, spec.clip_norm, spec.clip_by)
            optimiser.step()
        progress = (self.step + 1 - self.phase.start) / length
        with torch.no_grad():
            self.recipe.after_update(self.model, outcome.features, outcome.batch, progress)

    def report(self, outcome: StepOutput) -> Mapping[str, float]:
        """Losses of the step as floats, averaged over processes; logs a line when one is due."""
        return self._step_log.report(self, outcome)

    def finish(self) -> None:
        """Run the engine's last action of a phase and log its metrics."""
        self.settle()
        if numbers := self.engine.finish(self):
            self.journal.write(self.step, self.recipe.engine, **numbers)

    def settle(self) -> None:
        """Waits for what is read a step late: the norm is finite, the log has its line."""
        self._norm.check()
        self._step_log.flush()

    def restart_clock(self) -> None:
        """Leaves what came between two steps (evaluation, saving) out of the speed."""
        self._step_log.restart_clock(self.step)

    # ------------------------------------------------------------ saving and loading

    def save(self) -> None:
        """Writes a checkpoint of the finished step, unless there is one already."""
        self.settle()
        if self._saved == self.step:
            return
        self.saved()
        self._step_log.write_failures()
        self._saving = save_run(
            self, self._memory, {key: hook.state() for key, hook in self.hooks.items()} | {ENGINE: self.engine.state()}
        )
        barrier(self.world)
        self._saved = self.step
        self.restart_clock()

    def saved(self, *, wait: bool = True) -> None:
        """Waits for a checkpoint that is still being written, or only looks whether that failed. Raises RunError if it did."""
        if self._saving is not None and (wait or self._saving.failed):
            saving, self._saving = self._saving, None
            saving.wait()

    def whole_model(self) -> nn.Module:
        """The model with whole tensors, on every process: itself, or a copy when it is sharded."""
        if self.options.shard != "fsdp" or self.world.size == 1:
            return self.model
        return whole_copy(self.model, self.recipe, self.hooks.values(), self.world.device)

    # ------------------------------------------------------------ what hooks may ask for

    def log(self, kind: str, **values: Any) -> None:
        self._step_log.flush()
        self.journal.write(self.step, kind, **values)

    def note(self, text: str) -> None:
        self.journal.note(self.step, text)

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        self.journal.leave_out(reasons)
        bad = dict.fromkeys(quarantined(self.folder), "met before") | dict(reasons)
        check_bad_limit(bad, self.whole_data, self.options.bad_limit)

    def batches(self, count: int, *, seed: int) -> Iterator[Batch]:
        key, limit = keyed_seed(self.options.seed, "extra", seed), self.options.bad_limit
        rank, world = self.world.rank, self.world.size
        for item in batches(
            self.data, self.recipe, seed=key, stop=count, rank=rank, world=world, bad_limit=limit, order=self._order
        ):
            yield self.on_device(item.batch)

    def ahead(self, count: int) -> Iterator[Batch]:
        for item in self._open(min(self.step + count, self.phase.stop)):
            yield self.on_device(item.batch)

    @property
    def snapshots(self) -> Path:
        return self.folder.snapshots

    def snapshot(self, name: str) -> None:
        self.snapshots.mkdir(exist_ok=True)
        self.deploy_to(self.snapshots / name)

    def deploy_to(self, folder: Path) -> None:
        """Writes what inference needs of the model as it is now."""
        self.settle()
        deployed = deployable(self.recipe, self.whole_model())
        if self.world.main:
            deployed.save(folder)
        self.learning()
        barrier(self.world)

    def replace_model(self, model: nn.Module, grown: Mapping[nn.Parameter, nn.Parameter] = MappingProxyType({})) -> None:
        if self.options.shard == "fsdp" and self.world.size > 1:
            raise RunError("the model cannot change its structure while it is sharded: use --shard ddp")
        if self.tuning.lora or self.tuning.blend < 1:
            raise RunError(
                f"'{self.recipe.slug}' changes the structure of its model, so that it has no adapters and cannot be blended"
            )
        memory = dict(self._memory)
        self._adopt(model)
        for parameter in self.model.parameters():
            if parameter in memory:
                self._memory[parameter] = memory[parameter]
            elif parameter in grown and grown[parameter] in memory:
                self._memory[parameter] = {key: zero_pad(value, parameter) for key, value in memory[grown[parameter]].items()}

    def stopped_by(self, number: int | None) -> int | None:
        """The signal by which any process was asked to stop, so that all stop after the same step."""
        return parallel.all_reduce_max(number or 0, self.world) or None
