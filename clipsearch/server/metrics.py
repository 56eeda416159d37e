"""What the service counts of itself, as Prometheus reads it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES = ("decode", "encode", "engine", "thumbnail")
CACHES = ("answer", "text", "thumbnail")


class Metrics:
    """The counts of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._texts: dict[str, int] = {}
        self._requests = Counter(
            "clipsearch_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "clipsearch_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "clipsearch_stage_seconds",
            "Of decoding an image, encoding, asking the engine, making a thumbnail.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "clipsearch_text_batch_size",
            "Texts that were encoded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self._caches = Counter(
            "clipsearch_cache",
            "Found in a cache, or not.",
            ("cache", "result"),
            registry=self.registry,
        )
        self._partial = Counter(
            "clipsearch_partial_answers",
            "Answers that may be incomplete.",
            registry=self.registry,
        )
        self._refused = Counter(
            "clipsearch_refused",
            "Requests refused because there were too many.",
            registry=self.registry,
        )
        self.under_way = Gauge(
            "clipsearch_requests_under_way", "Requests under way.", registry=self.registry
        )
        self.documents = Gauge(
            "clipsearch_index_documents", "Documents of the index.", registry=self.registry
        )
        self.index_bytes = Gauge(
            "clipsearch_index_bytes",
            "Bytes of the embedded index on the disk; 0 of a Vespa.",
            registry=self.registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)
        for cache in CACHES:
            for result in ("hit", "miss"):
                self._caches.labels(cache, result)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the pattern of its address, of which there are few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one of STAGES."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - began)

    def batch(self, size: int) -> None:
        """Count texts that are encoded together."""
        self._batches.observe(size)

    def cached(self, cache: str, *, hit: bool) -> None:
        """Count a look into one of CACHES."""
        self._caches.labels(cache, "hit" if hit else "miss").inc()

    def texts_looked_up(self, found: int, missed: int) -> None:
        """Bring the counts of remembered texts to these."""
        with self._lock:
            for result, count in (("hit", found), ("miss", missed)):
                self._caches.labels("text", result).inc(count - self._texts.get(result, 0))
                self._texts[result] = count

    def partial(self) -> None:
        """Count an answer that may be incomplete."""
        self._partial.inc()

    def refused(self) -> None:
        """Count a request that there was no room for."""
        self._refused.inc()

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        return generate_latest(self.registry)
