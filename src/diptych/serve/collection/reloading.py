"""Serve another model and index without dropping a request: both are open, the new one catches up, takes over, the old one is drained."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.disk.paths import folder_identity
from diptych.core.errors import ConfigError, DiptychError, RunError
from diptych.core.image import ArrayImage
from diptych.data.dataset import Pool
from diptych.index.base import Index
from diptych.index.facts import FILE, read_facts
from diptych.index.items import What
from diptych.serve import logs
from diptych.serve.collection.item_writer import recent_changes
from diptych.serve.refusals import RequestError
from diptych.serve.schema import ReloadRequest
from diptych.serve.service import ServedModel, Service

LoadSide = Callable[[str, "Path | None"], "tuple[Any, Index | None]"]
"""Opens a model by address ("": the one that built the index) and an index by folder (None: the model alone)."""
POLL_SECONDS = 1.0
DERIVED = ("mean_length",)
"""Options of an index that are measured when it is built."""


class Reloader:
    """Reloads on request, and by itself where it watches.

    load   opens model and index
    watch  folder of the index that was served first: another index that takes its place is loaded
    """

    def __init__(self, service: Service, load: LoadSide, watch: Path | None = None) -> None:
        self._service, self._load = service, load
        self._lock = asyncio.Lock()
        self._watch = watch
        self._served = _identity(watch)

    @property
    def watches(self) -> bool:
        return self._watch is not None

    async def watch(self) -> None:
        """Reload whenever another index lies in the watched folder. Never ends; what fails is logged and tried at the next change."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = _identity(self._watch)
            if now is None or now == self._served:
                continue
            self._served = now
            try:
                answer = await self.reload(ReloadRequest(index=str(self._watch)), own=0)
                logs.event("reloaded", count=answer["count"], caught_up=answer["caught_up"])
            except (DiptychError, RequestError, OSError) as error:
                logs.event("reload", problem=type(error).__name__)

    async def reload(self, request: ReloadRequest, *, own: int = 1) -> dict[str, Any]:
        """Make what a request names the model and index that are served. Raises RequestError: 409 while another reload runs, 422 for a
        model or an index that cannot be opened; then what was served goes on.

        own  requests that wait for this reload, and so are not waited for
        """
        if self._lock.locked():
            raise RequestError(409, "a reload is under way", headers={"Retry-After": "5"})
        async with self._lock:
            old = self._service.side(request.name)
            if old.index is None or self._service.item_writer is None:
                raise RequestError(409, "this service has no index, or does not accept changes, so it cannot reload")
            folder = Path(request.index) if request.index else old.index.folder
            if not request.build and request.model is None and _identity(folder) == old.index.opened_as:
                return _answer(old, switched=False, caught_up=0)
            try:
                with self._service.item_writer.watched() as changed:
                    side = await asyncio.to_thread(self._open, request, folder, old)
                    caught_up = await asyncio.to_thread(self._take_over, side, changed)
            except (ConfigError, RunError) as error:
                raise RequestError(422, f"the model or the index cannot be served: {error}") from None
            await self._drain(old, own)
            return _answer(self._service.sides[old.name], switched=True, caught_up=caught_up)

    def _open(self, request: ReloadRequest, folder: Path, old: ServedModel) -> ServedModel:
        """Load the model and the index, or build it; both are warm when this returns."""
        assert old.index is not None
        if request.build:
            if folder.exists():
                raise ConfigError(f"{folder.name} is there already (expected a new folder to build the index in)")
            model, _ = self._load(request.model or "", None)
            facts = old.index.collection.facts
            options = {name: value for name, value in facts.options.items() if name not in DERIVED}
            source = {"model": request.model or "", "data": facts.source.get("data", "")}
            whole = self._service.data.whole()
            if whole is None:
                raise ConfigError("there are no data to build an index of (expected --data)")
            rows = [row for row, uid in enumerate(whole.uids) if self._service.is_indexed(uid)]
            what: What = "texts" if facts.what == "texts" else "images"
            index: Index | None = type(old.index).build(
                model, whole.select(rows), folder, what=what, progress=False, source=source, **options
            )
        else:
            if _identity(folder) == old.index.opened_as:
                raise ConfigError(f"{folder.name} is the index that is served: another model needs another index (build: true)")
            address = request.model or read_facts(folder).source.get("model", "")
            model, index = self._load(address, folder)
        assert index is not None
        if hasattr(model, "embed_texts"):
            model.embed_texts(["a"])
        if hasattr(model, "embed_images"):
            model.embed_images([ArrayImage(np.full((64, 64, 3), 128, np.uint8), "grey")])
        return ServedModel(old.name, model, index)

    def _take_over(self, side: ServedModel, changed: set[str]) -> int:
        """Bring the index up to date while no item changes, and put it in the place of the old one."""
        service, index = self._service, side.index
        assert index is not None
        assert service.item_writer is not None
        caught_up = self._catch_up(index, set[str]())  # most of it while items still change
        with service.item_writer.paused():
            caught_up += self._catch_up(index, changed)
            service.inside(lambda: service.switch(side, set(index.uids())))
        return caught_up

    def _catch_up(self, index: Index, changed: set[str]) -> int:
        """Add what is served and missing, or has changed; take out what was removed. Returns the number of items added."""
        data, there = self._service.data, set(index.uids())
        data.refresh()
        changed = changed | recent_changes(data)
        if gone := [uid for uid in there if data.is_gone(uid)]:
            index.remove(gone)
        wanted = [uid for uid in data.uids() if (uid not in there or uid in changed) and self._service.is_indexed(uid)]
        samples = [sample for uid in wanted if (sample := data.sample(uid)) is not None]
        if samples:
            index.add(Pool.from_samples(samples), progress=False)
        return len(samples)

    async def _drain(self, old: ServedModel, own: int) -> None:
        """Close the old index when its last request has its answer, or after the time that a request may take."""
        service, now = self._service, self._service.generation
        loop = asyncio.get_running_loop()
        end = loop.time() + service.limits.request_seconds
        while sum(count for number, count in service.open_requests.items() if number < now) > own and loop.time() < end:
            await asyncio.sleep(0.02)
        for number in [number for number, count in service.open_requests.items() if number < now and not count]:
            del service.open_requests[number]
        if old.index is not None:
            with suppress(DiptychError, OSError):  # its folder may be gone
                await asyncio.to_thread(service.inside, old.index.close)
        gc.collect()


def _answer(side: ServedModel, *, switched: bool, caught_up: int) -> dict[str, Any]:
    return {
        "model": side.name,
        "fingerprint": str(getattr(side.model, "fingerprint", "")),
        "count": 0 if side.facts is None else side.facts.count,
        "switched": switched,
        "caught_up": caught_up,
    }


def _identity(folder: Path | None) -> tuple[int, int] | None:
    """Identity of the folder of an index; None if there is no index."""
    return folder_identity(folder) if folder is not None and (folder / FILE).is_file() else None
