"""Embeds the images of a data set with one process, `torchrun` processes or Ray actors: the output files are byte-identical.

The unit of work is a part of the table (`index.embedding_table`): the same images in the same batches, for any worker. Finished
parts of an interrupted run are reused, even with a different number of workers. Bytes are identical between processors of the
same kind with the same number of threads; others round sums differently.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.core.errors import ConfigError, DiptychError, RunError
from diptych.core.ray_cluster import join_cluster
from diptych.core.terminal.progress import with_bar
from diptych.core.terminal.signals import Terminated
from diptych.curate.engine.embedding import open_embedder
from diptych.curate.engine.run import Engine
from diptych.curate.engine.sources import open_pool
from diptych.index.embedding_table import EmbeddingTable
from diptych.models.io.device import device_default
from diptych.objectives.gather import all_gather_json
from diptych.train.parallel import DistributedContext, barrier, join_world
from diptych.train.rank_watchdog import RankLost, RankWatchdog

SILENCE = 60.0
"""Seconds without a heartbeat after which a `torchrun` process counts as frozen."""
AGAIN = "what is finished is kept; run the same again"


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """Result of `embed_images`.

    samples     rows of the data
    computed    images embedded by this call; the others were already in the table
    rows        pictures in the table
    unreadable  reason by uid
    folder      of the table
    """

    samples: int
    computed: int
    rows: int
    unreadable: dict[str, str]
    folder: Path


def embed_images(
    model: str, data: str, out: Path, *, engine: Engine = "local", workers: int = 0, device: str = "auto"
) -> EmbedReport | None:
    """Embeds the images of a data set that a folder lacks; under `torchrun` every process calls this, and all but the first get
    None.

    engine   "ray": actors of the cluster at RAY_ADDRESS, else of a local one. They open model and data by the same addresses
    workers  actors of Ray; 0: as many as the cluster has GPUs, else cores

    Raises a one-line RunError if another process is writing to the folder, or a worker is lost.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and engine == "ray":
        raise ConfigError(f"torchrun started {processes} processes, but engine is ray (expected one of the two)")
    if workers and engine != "ray":
        raise ConfigError(f"workers is {workers}, but engine is {engine} (expected ray, or processes of torchrun)")
    if processes > 1:
        return _by_ranks(model, data, out, device)
    if engine == "ray":
        return _on_ray(model, data, out, workers, device)
    with device_default(device):
        return _in_this_process(model, data, out)


def _in_this_process(model: str, data: str, out: Path) -> EmbedReport:
    pool, table = open_pool(data), EmbeddingTable(out, open_embedder(model))
    computed, unreadable = table.fill(pool)
    return EmbedReport(len(pool), computed, len(table), unreadable, table.folder)


# ---------------------------------------------------------------- torchrun


def _by_ranks(model: str, data: str, out: Path, device: str) -> EmbedReport | None:
    try:
        with (
            join_world(device, "ddp") as world,
            RankWatchdog(world, SILENCE, stop_requested=lambda: False, ended=lambda reason: None, hint=AGAIN) as watchdog,
        ):
            try:
                return _share_of_rank(world, model, data, out)
            except Terminated:  # sent by the launcher when another process has died
                if (lost := watchdog.lost_ranks()) is not None:
                    raise lost from None
                raise
    except RankLost as error:
        if error.speaks:
            raise
        raise SystemExit(1) from error


def _share_of_rank(world: DistributedContext, model: str, data: str, out: Path) -> EmbedReport | None:
    """Embeds every n-th remaining part. The first process starts before the others, so that setup errors are reported once."""
    if not world.main:
        barrier(world)
    pool, table = open_pool(data), EmbeddingTable(out, open_embedder(model))
    if not world.main:
        _write_parts(world, pool, table)
        return None
    with table.filling():
        table.plan(pool)
        barrier(world)
        results = _write_parts(world, pool, table)
        table.end()
    unreadable = {uid: reason for _, wrong in results for uid, reason in wrong.items()}
    return EmbedReport(len(pool), sum(count for count, _ in results), len(table), unreadable, table.folder)


def _write_parts(world: DistributedContext, pool: Any, table: EmbeddingTable) -> list[Any]:
    """Pictures and unreadable ones of each process."""
    plan = table.plan(pool, begin=False)
    barrier(world)  # every process must list the remaining parts before any of them writes
    computed, unreadable = 0, dict[str, str]()
    own = plan.left[world.rank :: world.size]
    for number in with_bar(own, len(own), "embedding", least=2) if world.main else own:
        count, wrong = table.write(pool, number, *plan.part(number))
        computed, unreadable = computed + count, unreadable | wrong
    return all_gather_json([computed, unreadable])


# ---------------------------------------------------------------- Ray


class EmbedActor:
    """Ray actor that embeds parts of a table; it opens model and data by their addresses at the first part."""

    def __init__(self, model: str, data: str, out: Path, fingerprint: str, device: str) -> None:
        self._model, self._data, self._out, self._fingerprint, self._device = model, data, out, fingerprint, device

    @cached_property
    def _opened(self) -> tuple[Any, EmbeddingTable]:
        with device_default(self._device):
            pool, table = open_pool(self._data), EmbeddingTable(self._out, open_embedder(self._model))
        if pool.fingerprint != self._fingerprint:
            raise RunError(f"'{self._data}' holds other rows there (expected the same data on every machine)")
        return pool, table

    def write(self, number: int, rows: Sequence[int], contents: Sequence[str]) -> tuple[int, dict[str, str], str]:
        """Pictures of a part, reasons of the unreadable ones, and the error that ended the work, or ""."""
        try:
            pool, table = self._opened
            return *table.write(pool, number, rows, contents), ""
        except DiptychError as error:
            return 0, {}, f"{os.uname().nodename}: {error}"


def _on_ray(model: str, data: str, out: Path, workers: int, device: str) -> EmbedReport:
    ray = join_cluster("the engine ray", cpus=workers or None)
    from ray.util import ActorPool

    pool, table = open_pool(data), EmbeddingTable(out, open_embedder(model))
    there = ray.cluster_resources()
    gpus = 0 if device == "cpu" else int(there.get("GPU", 0))
    workers = workers or gpus or max(1, int(there.get("CPU", 1)))
    kind = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(EmbedActor)
    given = _absolute(model), _absolute(data), out.absolute(), pool.fingerprint, device
    computed, unreadable = 0, dict[str, str]()
    with table.filling():
        plan = table.plan(pool)
        actors = [kind.remote(*given) for _ in range(min(workers, len(plan.left)))]
        parts = ActorPool(actors).map_unordered(lambda actor, number: actor.write.remote(number, *plan.part(number)), plan.left)
        try:
            for count, wrong, problem in with_bar(parts, len(plan.left), "embedding", least=2):
                if problem:
                    raise RunError(f"a worker of Ray on {problem}; {AGAIN}")
                computed, unreadable = computed + count, unreadable | wrong
        except ray.exceptions.RayActorError as error:
            what = f"did not start: {str(error).splitlines()[-1]}" if error.actor_init_failed else "is gone"
            raise RunError(f"a worker of Ray {what}; {AGAIN}") from error
        table.end()
    return EmbedReport(len(pool), computed, len(table), unreadable, table.folder)


def _absolute(address: str) -> str:
    """Absolute path of a file or folder, since workers run in other folders; other addresses unchanged."""
    path = Path(address).expanduser()
    return str(path.absolute()) if path.exists() else address
