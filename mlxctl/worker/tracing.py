"""Spans and LLM metrics through Logfire's API. Nothing happens, and nothing is imported, unless Logfire is installed.

Names are those of OpenTelemetry's conventions for generative models, so that any of its tools understands them.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Protocol

SERVICE = "mlxctl-worker"
TOKENS, FIRST_TOKEN, DURATION = (
    "gen_ai.client.token.usage",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.request.duration",
)
_UNITS = {TOKENS: "{token}", FIRST_TOKEN: "s", DURATION: "s"}


class Span(Protocol):
    """One piece of work under way."""

    def set_attribute(self, name: str, value: Any) -> None: ...


class _Nowhere:
    __slots__ = ()

    def set_attribute(self, name: str, value: Any) -> None:
        pass


_NOWHERE = _Nowhere()


@functools.cache
def _logfire() -> ModuleType | None:
    """Logfire, configured for this process, or None. Looked for once."""
    try:
        logfire = importlib.import_module("logfire")
    except ImportError:
        return None
    # without a token it sends nothing to its makers; exporters named by OTEL_* variables still get everything
    logfire.configure(service_name=SERVICE, send_to_logfire="if-token-present", console=False)
    return logfire


@functools.cache
def _histogram(name: str) -> Any:
    logfire = _logfire()
    return None if logfire is None else logfire.metric_histogram(name, unit=_UNITS[name])


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Span]:
    """A span around a block; an error that leaves the block is noted in it."""
    logfire = _logfire()
    if logfire is None:
        yield _NOWHERE
        return
    with logfire.span(name, **attributes) as opened:
        yield opened


def info(message: str, **attributes: Any) -> None:
    if (logfire := _logfire()) is not None:
        logfire.info(message, **attributes)


def warn(message: str, **attributes: Any) -> None:
    if (logfire := _logfire()) is not None:
        logfire.warn(message, **attributes)


def record(name: str, value: float, **attributes: Any) -> None:
    """One observation of the metric `name`, a key of the units above."""
    if (histogram := _histogram(name)) is not None:
        histogram.record(value, attributes)


class Trace:
    """The spans of one request: `chat`, and below it `prefill`, then `decode`. Used by one task from begin to end."""

    __slots__ = ("_answer", "_began", "_is_decoding", "_model", "_phase", "_request")

    def __init__(self, operation: str, model: str, **attributes: Any) -> None:
        """`operation`: "chat" or "text_completion". Further attributes are kept under `gen_ai.request.`."""
        self._model = model
        self._began = time.monotonic()
        self._is_decoding = False
        self._request, self._phase = ExitStack(), ExitStack()
        self._answer: Span = _NOWHERE
        if _logfire() is None:
            return
        named = {f"gen_ai.request.{name}": value for name, value in attributes.items()}
        named |= {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        self._answer = self._request.enter_context(span(f"{operation} {model}", **named))
        self._phase.enter_context(span("prefill"))

    def first_token(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """The prompt has been read. Later calls change nothing."""
        if self._answer is _NOWHERE or self._is_decoding:
            return
        self._is_decoding = True
        record(FIRST_TOKEN, time.monotonic() - self._began, **{"gen_ai.request.model": self._model})
        self._answer.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)
        self._answer.set_attribute("gen_ai.usage.cached_input_tokens", cached_tokens)
        self._phase.close()
        self._phase.enter_context(span("decode"))

    def finished(self, reasons: list[str], prompt_tokens: int, output_tokens: int) -> None:
        """The request is over, however it ended: `stop`, `length`, `tool_calls`, `aborted`, or an error's code."""
        if self._answer is _NOWHERE:
            return
        model = {"gen_ai.request.model": self._model}
        record(TOKENS, prompt_tokens, **model, **{"gen_ai.token.type": "input"})
        record(TOKENS, output_tokens, **model, **{"gen_ai.token.type": "output"})
        record(DURATION, time.monotonic() - self._began, **model)
        self._answer.set_attribute("gen_ai.usage.output_tokens", output_tokens)
        self._answer.set_attribute("gen_ai.response.finish_reasons", reasons)
        self._answer = _NOWHERE
        self._phase.close()
        self._request.close()
