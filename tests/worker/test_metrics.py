"""What `/metrics` says after requests have gone by, in the words that Prometheus reads."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlxctl.worker.metrics import Metrics, NoMetrics
from mlxctl.worker.types import Counts, EngineStats

PREFIX = "mlxctl_worker_"
STATS = EngineStats(
    phase="ready",
    running=3,
    prefilling=1,
    waiting=7,
    last_progress_s=0.25,
    totals=Counts(
        steps=40,
        prompt_tokens=100,
        cached_tokens=64,
        drawn_tokens=50,
        finished=4,
        aborted=2,
        preemptions=5,
        forks=6,
        largest_batch=8,
    ),
    cache_bytes=1000,
    cache_budget_bytes=2000,
    cache_blocks=9,
    kv_bytes=300,
    kv_reserved_bytes=400,
    kv_budget_bytes=500,
    mlx_active_bytes=11,
    mlx_peak_bytes=12,
)


def samples(metrics: Metrics, stats: EngineStats = STATS) -> dict[str, float]:
    """Every sample of the page by its name and labels, the prefix cut off."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render(stats).decode()):
        assert family.documentation, family.name
        assert family.name.startswith(PREFIX)
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix(PREFIX)}{{{labels}}}" if labels else sample.name.removeprefix(PREFIX)] = (
                sample.value
            )
    return found


def test_a_request_from_its_arrival_to_its_end() -> None:
    metrics = Metrics()
    metrics.request_started()
    metrics.queued(0.2)
    metrics.first_token(0.7)
    metrics.tokens(1, 0.04)
    metrics.tokens(1, 0.06)
    metrics.answered("stop")
    metrics.finished(200, 1.5)
    said = samples(metrics)
    assert said["requests_received_total"] == 1
    assert (said["request_queue_seconds_count"], said["request_queue_seconds_sum"]) == (1, 0.2)
    assert (said["time_to_first_token_seconds_count"], said["time_to_first_token_seconds_sum"]) == (1, 0.7)
    assert (said["time_to_first_token_seconds_bucket{le=0.5}"], said["time_to_first_token_seconds_bucket{le=1.0}"]) == (
        0,
        1,
    )
    assert said["inter_token_latency_seconds_count"] == 2
    assert math.isclose(said["inter_token_latency_seconds_sum"], 0.1)
    assert said["answers_total{reason=stop}"] == 1
    assert said["requests_total{status=200}"] == 1
    assert said["request_duration_seconds_sum"] == 1.5


@pytest.mark.parametrize(("count", "gap", "each"), [(1, 0.04, 0.04), (4, 0.04, 0.01), (0, 0.04, 0.0)])
def test_tokens_that_came_together_share_their_gap(count: int, gap: float, each: float) -> None:
    metrics = Metrics()
    metrics.tokens(count, gap)
    said = samples(metrics)
    assert said["inter_token_latency_seconds_count"] == count
    assert math.isclose(said["inter_token_latency_seconds_sum"], count * each)


def test_batches_are_counted_by_their_rows_and_an_empty_step_is_none() -> None:
    metrics = Metrics()
    for rows in (1, 8, 8, 0):
        metrics.step(rows)
    said = samples(metrics)
    assert (said["batch_rows_count"], said["batch_rows_sum"]) == (3, 17)
    assert (said["batch_rows_bucket{le=4.0}"], said["batch_rows_bucket{le=8.0}"]) == (1, 3)


def test_ends_are_told_apart() -> None:
    metrics = Metrics()
    for status, reason in ((200, "stop"), (200, "length"), (499, "aborted"), (429, "aborted"), (200, "stop")):
        metrics.answered(reason)
        metrics.finished(status, 0.1)
    said = samples(metrics)
    by_status = {name: value for name, value in said.items() if name.startswith("requests_total")}
    assert by_status == {
        "requests_total{status=200}": 3,
        "requests_total{status=429}": 1,
        "requests_total{status=499}": 1,
    }
    by_reason = {name: value for name, value in said.items() if name.startswith("answers_total")}
    assert by_reason == {
        "answers_total{reason=stop}": 2,
        "answers_total{reason=length}": 1,
        "answers_total{reason=aborted}": 2,
    }


ENGINES = {
    "running": "requests_running",
    "prefilling": "requests_prefilling",
    "waiting": "requests_waiting",
    "last_progress_s": "seconds_since_progress",
    "steps": "engine_steps_total",
    "prompt_tokens": "prompt_tokens_total",
    "cached_tokens": "cached_tokens_total",
    "drawn_tokens": "generated_tokens_total",
    "aborted": "answers_aborted_total",
    "preemptions": "preemptions_total",
    "forks": "forks_total",
    **{
        name: name
        for name in (
            *("largest_batch", "cache_bytes", "cache_budget_bytes", "cache_blocks", "kv_bytes", "kv_reserved_bytes"),
            *("kv_budget_bytes", "mlx_active_bytes", "mlx_peak_bytes"),
        )
    },
}


@pytest.mark.parametrize(("field", "name"), ENGINES.items())
def test_the_engines_figures_are_those_of_now(field: str, name: str) -> None:
    metrics = Metrics()
    is_total = hasattr(STATS.totals, field)
    assert samples(metrics)[name] == getattr(STATS.totals if is_total else STATS, field)
    changed = {"totals": replace(STATS.totals, **{field: 4711})} if is_total else {field: 4711}
    assert samples(metrics, replace(STATS, **changed))[name] == 4711


def test_every_figure_of_the_engine_is_on_the_page() -> None:
    told_otherwise = {"phase", "error", "finished"}
    told = {field.name for field in (*fields(EngineStats), *fields(Counts))} - {"totals"}
    assert told == ENGINES.keys() | told_otherwise


@pytest.mark.parametrize(
    ("phase", "ready"), [("loading", 0), ("ready", 1), ("draining", 0), ("failed", 0), ("stopped", 0)]
)
def test_ready_is_a_number(phase: str, ready: int) -> None:
    assert samples(Metrics(), replace(STATS, phase=phase))["ready"] == ready  # type: ignore[arg-type]


def test_two_workers_of_one_process_do_not_mix_and_the_common_registry_stays_clean() -> None:
    one, other = Metrics(), Metrics()
    one.request_started()
    assert samples(one)["requests_received_total"] == 1
    assert samples(other)["requests_received_total"] == 0
    assert PREFIX.encode() not in prometheus_client.generate_latest()


def test_an_unknown_status_makes_one_child_and_keeps_it() -> None:
    metrics = Metrics()
    metrics.finished(418, 0.1)
    (kept,) = metrics._by_status.values()
    metrics.finished(418, 0.1)
    assert list(metrics._by_status.values()) == [kept]


def test_no_metrics_count_nothing_and_take_every_call() -> None:
    silent = NoMetrics()
    silent.request_started()
    silent.queued(1)
    silent.first_token(1)
    silent.tokens(3, 1)
    silent.step(3)
    silent.answered("stop")
    silent.finished(200, 1)
    assert silent.render(STATS) == b""
    public = {name for name in vars(Metrics) if not name.startswith("_") and callable(getattr(Metrics, name))}
    assert public <= vars(NoMetrics).keys(), "each method has a silent one"
