"""Dynamic batching: one thread calls models and indexes, and batches the requests that arrived while it was busy.

Nothing waits for company: a request that finds the thread idle goes in alone and at once; under load the batches grow by
themselves, up to `batch` inputs. What does not fit into the queue is refused, with the time after which it is worth trying again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diptych.core.contracts import Unit
from diptych.core.image import ImageSource

NONE: Unit = np.zeros((0, 0), np.float32)
Finish = Callable[[Unit, Unit], Any]


class QueueFull(Exception):
    """There is no room for another job; `seconds` from now there should be."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__("the queue is full")


class BatcherStopped(Exception):
    """The batching thread has been stopped and takes no new jobs."""


@dataclass(eq=False, slots=True)
class EmbeddingJob:
    """Texts and pictures to embed with `model`, together with those of other jobs; then `finish(texts_ND, images_ND)` gives the
    result. `finish` too runs in the one thread, so it may call models and indexes itself.

    inside  inputs that `finish` gives to the model by itself
    """

    model: Any
    finish: Finish
    texts: Sequence[str] = ()
    images: Sequence[ImageSource] = ()
    inside: int = 0
    result: Future[Any] = field(default_factory=Future)
    inputs: int = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = max(1, len(self.texts) + len(self.images) + self.inside)

    def drop(self) -> None:
        """Release everything of a job whose client is gone; the job itself keeps its position in the queue."""
        self.texts, self.images, self.finish = (), (), lambda texts, images: None


class Batcher:
    """The thread and its queue.

    queue     inputs that may wait
    batch     inputs that the model gets at once
    observed  is called for every batch: inputs, seconds
    """

    def __init__(
        self,
        *,
        queue: int,
        batch: int,
        observed: Callable[[int, float], None] = lambda inputs, seconds: None,
    ) -> None:
        self._queue, self._batch, self._observed = queue, batch, observed
        self._jobs: deque[EmbeddingJob] = deque()
        self._waiting = 0
        self._stopped = False
        self._seconds_an_input = 0.01
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="diptych-model", daemon=True)
        self._thread.start()

    def submit(self, job: EmbeddingJob) -> Future[Any]:
        """Its result, later. Raises QueueFull; a job that is larger than the whole queue is taken when nothing else waits."""
        with self._changed:
            if self._stopped:
                raise BatcherStopped
            if self._jobs and self._waiting + job.inputs > self._queue:
                raise QueueFull(max(1.0, self._waiting * self._seconds_an_input))
            self._jobs.append(job)
            self._waiting += job.inputs
            self._changed.notify()
        job.result.add_done_callback(lambda result: job.drop() if result.cancelled() else None)
        return job.result

    @property
    def waiting(self) -> int:
        return self._waiting

    def close(self, seconds: float | None = None) -> None:
        """Finish what is in the queue, then stop. Waits this many seconds for it: the thread does not keep the process alive."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            live = [job for job in jobs if job.result.set_running_or_notify_cancel()]  # clients that left are passed over
            for model in {id(job.model): job.model for job in live}.values():
                _run(model, [job for job in live if job.model is model])
            if live:
                seconds, inputs = time.perf_counter() - start, sum(job.inputs for job in live)
                self._seconds_an_input += 0.1 * (seconds / inputs - self._seconds_an_input)
                self._observed(inputs, seconds)

    def _take(self) -> list[EmbeddingJob]:
        """The next batch: at least one job, and as many more as fit. Nothing once there is nothing left to do."""
        with self._changed:
            while not self._jobs and not self._stopped:
                self._changed.wait()
            jobs: list[EmbeddingJob] = []
            size = 0
            while self._jobs and (not jobs or size + self._jobs[0].inputs <= self._batch):
                jobs.append(self._jobs.popleft())
                size += jobs[-1].inputs
            self._waiting -= size
            return jobs


def _run(model: Any, jobs: Sequence[EmbeddingJob]) -> None:
    """Embed for all, finish each. What goes wrong in the embedding is tried for each job alone, so that it fails only its own."""
    try:
        texts, images = _embed_jobs(model, jobs)
    except Exception as error:  # any error becomes the answer of those jobs; the thread goes on
        if len(jobs) == 1:
            jobs[0].result.set_exception(error)
        else:
            for job in jobs:
                _run(model, [job])
        return
    at = 0
    for job in jobs:
        rows_ND = np.stack([texts[text] for text in job.texts]) if job.texts else NONE
        images_ND = images[at : at + len(job.images)]
        at += len(job.images)
        try:
            result = job.finish(rows_ND, images_ND)
        except Exception as error:  # as above
            job.result.set_exception(error)
        else:
            job.result.set_result(result)


def _embed_jobs(model: Any, jobs: Sequence[EmbeddingJob]) -> tuple[dict[str, Any], Unit]:
    """Every text once, every picture in the order of the jobs."""
    strings = list(dict.fromkeys(text for job in jobs for text in job.texts))
    sources = [image for job in jobs for image in job.images]
    texts = dict(zip(strings, model.embed_texts(strings), strict=True)) if strings else {}
    return texts, (np.asarray(model.embed_images(sources), np.float32) if sources else NONE)
