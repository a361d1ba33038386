"""Prometheus metrics: `GET /metrics`. Labels are routes and statuses, never anything that a client chose."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Prometheus counters of one service; `waiting` returns the number of inputs in the queues."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "diptych_requests", "Requests by route and status", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "diptych_request_seconds", "From a request to its answer", ("route",), buckets=SECONDS, registry=self.registry
        )
        self._refused = Counter("diptych_refused", "Requests refused, by reason", ("reason",), registry=self.registry)
        self._batch = Histogram(
            "diptych_batch_inputs", "Texts and pictures that the model got at once", buckets=INPUTS, registry=self.registry
        )
        self._model = Counter("diptych_model_seconds", "Time inside models and indexes", registry=self.registry)
        Gauge("diptych_queue_inputs", "Inputs that wait for the model", registry=self.registry).set_function(waiting)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method if method in ("GET", "POST", "HEAD", "OPTIONS") else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def batch(self, inputs: int, seconds: float) -> None:
        self._batch.observe(inputs)
        self._model.inc(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
