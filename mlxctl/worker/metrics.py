"""What `/metrics` says: histograms filled as requests go by, and the engine's own counters read when somebody asks.

Every method but `render` is called for each request, token or step, so each is one or two additions: children of
labelled metrics are made once and kept. `step` may be called from any thread, the others from the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlxctl.worker.types import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "mlxctl_worker_"
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SHORT = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)

_GAUGES = (
    ("requests_running", "Answers that are being generated.", "running"),
    ("requests_prefilling", "Requests whose prompt is being read.", "prefilling"),
    ("requests_waiting", "Requests in the queue.", "waiting"),
    (
        "seconds_since_progress",
        "Time since the engine last drew a token or read a chunk; 0 when idle.",
        "last_progress_s",
    ),
    ("largest_batch", "Most answers that one step has computed so far.", "totals.largest_batch"),
    ("cache_bytes", "Memory of kept prefixes.", "cache_bytes"),
    ("cache_budget_bytes", "Bound of the memory of kept prefixes.", "cache_budget_bytes"),
    ("cache_blocks", "Blocks of kept prefixes.", "cache_blocks"),
    ("kv_bytes", "Memory of the KV of running requests.", "kv_bytes"),
    ("kv_reserved_bytes", "Memory promised to requests that were admitted.", "kv_reserved_bytes"),
    ("kv_budget_bytes", "Memory that may be promised to requests.", "kv_budget_bytes"),
    ("mlx_active_bytes", "Memory that MLX holds.", "mlx_active_bytes"),
    ("mlx_peak_bytes", "Most memory that MLX has held.", "mlx_peak_bytes"),
)
_COUNTERS = (
    ("prompt_tokens", "Tokens of prompts, cached ones included.", "totals.prompt_tokens"),
    (
        "cached_tokens",
        "Tokens of prompts that earlier requests left, and nobody computed.",
        "totals.cached_tokens",
    ),
    ("generated_tokens", "Tokens drawn.", "totals.drawn_tokens"),
    ("engine_steps", "Steps of the engine.", "totals.steps"),
    ("preemptions", "Times that a request gave way to one of a higher class.", "totals.preemptions"),
    ("forks", "Times that an answer began from blocks of another.", "totals.forks"),
    ("answers_aborted", "Answers that ended early, mostly because their client left.", "totals.aborted"),
)


class _EngineCollector(Collector):
    """The engine's figures, as they were at the last `render`."""

    def __init__(self) -> None:
        self.stats = EngineStats()

    def collect(self) -> Iterator[Metric]:
        for name, meaning, field in _GAUGES:
            yield GaugeMetricFamily(PREFIX + name, meaning, value=attrgetter(field)(self.stats))
        for name, meaning, field in _COUNTERS:
            yield CounterMetricFamily(PREFIX + name, meaning, value=attrgetter(field)(self.stats))
        yield GaugeMetricFamily(
            PREFIX + "ready", "1 while requests are taken.", value=1 if self.stats.phase == "ready" else 0
        )


class Metrics:
    """The worker's metrics, in a registry of their own."""

    content_type = CONTENT_TYPE

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _LONG
        )
        self._gap = self._histogram("inter_token_latency_seconds", "Between two tokens of one answer.", _SHORT)
        self._queue = self._histogram("request_queue_seconds", "From arrival to the first chunk of the prompt.", _LONG)
        self._whole = self._histogram("request_duration_seconds", "From arrival to the last token.", _LONG)
        self._batch = self._histogram("batch_rows", "Answers that a step computed at once.", _ROWS)
        self._arrived = Counter(PREFIX + "requests_received", "Requests that arrived.", registry=self._registry)
        self._statuses = Counter(
            PREFIX + "requests", "Requests that ended, by HTTP status.", ["status"], registry=self._registry
        )
        self._reasons = Counter(
            PREFIX + "answers", "Answers that ended, by finish reason.", ["reason"], registry=self._registry
        )
        self._by_status: dict[int, Counter] = {}
        self._by_reason: dict[str, Counter] = {}
        self._engine = _EngineCollector()
        self._registry.register(self._engine)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, meaning, buckets=buckets, registry=self._registry)

    def request_started(self) -> None:
        self._arrived.inc()

    def queued(self, seconds: float) -> None:
        """The first chunk of a prompt is being read, that long after the request arrived."""
        self._queue.observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def tokens(self, count: int, gap_seconds: float) -> None:
        """`count` tokens of one answer came together, `gap_seconds` after the one before them."""
        each = gap_seconds / count if count else 0.0
        for _ in range(count):
            self._gap.observe(each)

    def step(self, rows: int) -> None:
        """The engine's step drew a token for `rows` answers."""
        if rows:
            self._batch.observe(rows)

    def answered(self, reason: str) -> None:
        """One answer ended: `stop`, `length`, `tool_calls` or `aborted`."""
        if (counter := self._by_reason.get(reason)) is None:
            counter = self._by_reason[reason] = self._reasons.labels(reason)
        counter.inc()

    def finished(self, status: int, seconds: float) -> None:
        """A request ended with this HTTP status; 499: its client had left."""
        if (counter := self._by_status.get(status)) is None:
            counter = self._by_status[status] = self._statuses.labels(str(status))
        counter.inc()
        self._whole.observe(seconds)

    def render(self, stats: EngineStats) -> bytes:
        """The whole page, in Prometheus' text format."""
        self._engine.stats = stats
        return generate_latest(self._registry)


class NoMetrics(Metrics):
    """Counts nothing: what `--no-metrics` puts in the place of `Metrics`."""

    def __init__(self) -> None:
        pass

    def request_started(self) -> None:
        pass

    def queued(self, seconds: float) -> None:
        pass

    def first_token(self, seconds: float) -> None:
        pass

    def tokens(self, count: int, gap_seconds: float) -> None:
        pass

    def step(self, rows: int) -> None:
        pass

    def answered(self, reason: str) -> None:
        pass

    def finished(self, status: int, seconds: float) -> None:
        pass

    def render(self, stats: EngineStats) -> bytes:  # noqa: ARG002
        return b""
