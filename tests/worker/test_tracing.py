"""Spans through Logfire, when there is one; nothing at all when there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from mlxctl.worker import tracing
from mlxctl.worker.tracing import DURATION, FIRST_TOKEN, TOKENS, Trace, record, span


class FakeLogfire(ModuleType):
    """Notes every span with its attributes, the order of begins and ends, and every observation."""

    def __init__(self) -> None:
        super().__init__("logfire")
        self.configured: list[dict[str, Any]] = []
        self.story: list[str] = []
        self.attributes: dict[str, dict[str, Any]] = {}
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.observed: list[tuple[str, float, dict[str, Any]]] = []
        self.histograms: list[tuple[str, str]] = []

    def configure(self, **options: Any) -> None:
        self.configured.append(options)

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[Any]:
        self.story.append(f"begin {name}")
        self.attributes[name] = attributes
        try:
            yield _FakeSpan(attributes)
        except ValueError as error:
            self.story.append(f"error {error}")
            raise
        finally:
            self.story.append(f"end {name}")

    def info(self, message: str, **attributes: Any) -> None:
        self.told.append(("info", message, attributes))

    def warn(self, message: str, **attributes: Any) -> None:
        self.told.append(("warn", message, attributes))

    def metric_histogram(self, name: str, *, unit: str) -> Any:
        self.histograms.append((name, unit))
        return _FakeHistogram(self, name)


class _FakeSpan:
    def __init__(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    def set_attribute(self, name: str, value: Any) -> None:
        self._attributes[name] = value


class _FakeHistogram:
    def __init__(self, logfire: FakeLogfire, name: str) -> None:
        self._logfire, self._name = logfire, name

    def record(self, value: float, attributes: dict[str, Any]) -> None:
        self._logfire.observed.append((self._name, value, attributes))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Whether Logfire is there is looked at once in a process; here, once in a test."""
    tracing._logfire.cache_clear()
    tracing._histogram.cache_clear()
    yield
    tracing._logfire.cache_clear()
    tracing._histogram.cache_clear()


@pytest.fixture
def logfire(monkeypatch: pytest.MonkeyPatch) -> FakeLogfire:
    fake = FakeLogfire()
    monkeypatch.setitem(sys.modules, "logfire", fake)
    return fake


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "logfire", None)


def test_a_request_is_a_span_with_prefill_and_decode_below_it(logfire: FakeLogfire) -> None:
    trace = Trace("chat", "mlx-a", max_tokens=20)
    trace.first_token(100, cached_tokens=64)
    trace.finished(["stop"], 100, 7)
    assert logfire.story == [
        "begin chat mlx-a",
        "begin prefill",
        "end prefill",
        "begin decode",
        "end decode",
        "end chat mlx-a",
    ]
    assert logfire.attributes["chat mlx-a"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "mlx-a",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cached_input_tokens": 64,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": ["stop"],
    }


def test_the_metrics_of_a_request(logfire: FakeLogfire, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(tracing.time, "monotonic", lambda: next(clock))
    trace = Trace("chat", "mlx-a")
    trace.first_token(100)
    trace.finished(["length"], 100, 7)
    model = {"gen_ai.request.model": "mlx-a"}
    assert logfire.observed == [
        (FIRST_TOKEN, 0.5, model),
        (TOKENS, 100, {**model, "gen_ai.token.type": "input"}),
        (TOKENS, 7, {**model, "gen_ai.token.type": "output"}),
        (DURATION, 2.0, model),
    ]


@pytest.mark.parametrize("reason", ["aborted", "context_length_exceeded"])
def test_a_request_that_ends_in_its_prefill_ends_its_spans(logfire: FakeLogfire, reason: str) -> None:
    Trace("text_completion", "m").finished([reason], 100, 0)
    assert logfire.story == ["begin text_completion m", "begin prefill", "end prefill", "end text_completion m"]
    assert logfire.attributes["text_completion m"]["gen_ai.response.finish_reasons"] == [reason]
    assert FIRST_TOKEN not in [name for name, _, _ in logfire.observed]


def test_what_is_said_twice_counts_once(logfire: FakeLogfire) -> None:
    trace = Trace("chat", "m")
    trace.first_token(1)
    trace.first_token(1)
    trace.finished(["stop"], 1, 1)
    trace.finished(["stop"], 1, 1)
    trace.first_token(1)
    assert len(logfire.story) == 6
    assert [name for name, _, _ in logfire.observed].count(FIRST_TOKEN) == 1
    assert [name for name, _, _ in logfire.observed].count(DURATION) == 1


def test_two_requests_at_once_have_spans_of_their_own(logfire: FakeLogfire) -> None:
    one, other = Trace("chat", "one"), Trace("chat", "other")
    one.finished(["stop"], 1, 5)
    other.finished(["stop"], 2, 6)
    assert logfire.attributes["chat one"]["gen_ai.usage.output_tokens"] == 5
    assert logfire.attributes["chat other"]["gen_ai.usage.output_tokens"] == 6


def test_logfire_is_configured_once_and_sends_nothing_without_a_token(logfire: FakeLogfire) -> None:
    for _ in range(3):
        tracing.info("hello {name}", name="x")
        record(TOKENS, 1)
    assert logfire.configured == [
        {"service_name": "mlxctl-worker", "send_to_logfire": "if-token-present", "console": False}
    ]
    assert logfire.histograms == [(TOKENS, "{token}")]
    assert logfire.told == [("info", "hello {name}", {"name": "x"})] * 3


def test_spans_and_events_of_ones_own(logfire: FakeLogfire) -> None:
    with span("load", path="/m") as opened:
        opened.set_attribute("layers", 4)
    tracing.warn("slow", seconds=3)
    with pytest.raises(ValueError, match="torn"), span("restore"):
        raise ValueError("torn")
    assert logfire.attributes["load"] == {"path": "/m", "layers": 4}
    assert logfire.told == [("warn", "slow", {"seconds": 3})]
    assert logfire.story == ["begin load", "end load", "begin restore", "error torn", "end restore"]


@pytest.mark.usefixtures("none_installed")
def test_without_logfire_everything_is_taken_and_nothing_happens() -> None:
    trace = Trace("chat", "m", max_tokens=1)
    trace.first_token(1, 2)
    trace.finished(["stop"], 1, 2)
    with span("x", a=1) as nothing:
        nothing.set_attribute("b", 2)
    tracing.info("x", a=1)
    tracing.warn("x")
    record(TOKENS, 1.0)
    with pytest.raises(ValueError, match="goes on"), span("x"):
        raise ValueError("goes on")


@pytest.mark.usefixtures("none_installed")
def test_it_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def find(name: str) -> ModuleType:
        asked.append(name)
        raise ImportError(name)

    monkeypatch.setattr(tracing.importlib, "import_module", find)
    for _ in range(5):
        Trace("chat", "m").finished(["stop"], 1, 1)
    assert asked == ["logfire"]


def test_nothing_is_imported_before_the_first_span() -> None:
    source = (
        "import sys, mlxctl.worker.tracing; print(sorted(m for m in sys.modules if 'logfire' in m or 'opentel' in m))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
