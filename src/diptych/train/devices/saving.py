"""Writes a checkpoint of a run: whole tensors by the first process, or the shards of every process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diptych.core.config import config_hash
from diptych.core.grouped_fields import out_of_groups
from diptych.train import checkpoint, parallel
from diptych.train.checkpoint import Checkpoint
from diptych.train.devices.shared_save import SharedSave
from diptych.train.optimise import optimiser_state
from diptych.train.weights import stored_tensors, whole_tensors

if TYPE_CHECKING:
    from diptych.train.state import Training


def save_run(run: Training, memory: Mapping[Any, Mapping[str, Any]], hooks: Mapping[str, Any]) -> SharedSave | None:
    """Writes the checkpoint of the finished step. With sharded tensors it returns while they are being written.

    memory  state of the optimiser by parameter
    hooks   states of the hooks and of the engine
    All processes call it.
    """
    here, sharded = run.world.main, run.options.shard == "fsdp" and run.world.size > 1
    model = stored_tensors(run.model, run.recipe) if sharded else whole_tensors(run.model, run.recipe, keep=here)
    optimiser = optimiser_state(run.model, memory, keep=here or sharded, whole=not sharded)
    gathered = parallel.gather_full(hooks)
    if here:
        run.journal.sync()
    state = {
        "stage": run.phase.index,
        "steps": run.steps,
        "seed": run.options.seed,
        "data": run.whole_data.fingerprint,
        "recipe": config_hash(out_of_groups(run.whole_recipe)),
        "processes": run.world.size,
    }
    content, keep = Checkpoint(run.step, state, model, optimiser, gathered), run.options.keep
    if sharded:
        return checkpoint.write_shards(run.folder.checkpoints, content, rank=run.world.rank, size=run.world.size, keep=keep)
    if here:
        checkpoint.save(run.folder.checkpoints, content, keep=keep)
    return None
