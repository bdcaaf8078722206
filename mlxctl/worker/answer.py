"""One request on its way: prepared, submitted, read as text events, and cleaned up whenever its client leaves."""

from __future__ import annotations

import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from mlxctl.worker.ask import Ask, ChatAsk
from mlxctl.worker.choice import Choice, Delta, Finish
from mlxctl.worker.errors import RequestError, Unavailable
from mlxctl.worker.metrics import Metrics
from mlxctl.worker.prepare import Prepared
from mlxctl.worker.streams import Inbox, Streams
from mlxctl.worker.tracing import Trace
from mlxctl.worker.types import Drawn, Ended, Engine, Event, Prefilled

TextEvent = Delta | Finish
CLIENT_LEFT = 499


class ClientLeft(Exception):
    """The client closed its connection; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class Answer:
    """`open`, then read `batches` to the end; `close` at any time, as often as you like. A context manager that closes.

    Choices are numbered through all prompts: with n choices each, prompt p has p*n to p*n+n-1.
    """

    def __init__(
        self,
        ask: Ask,
        request_id: str,
        *,
        engine: Engine,
        streams: Streams,
        metrics: Metrics,
        model: str,
        prepare: Callable[[Ask, str], Awaitable[Prepared]],
        closed: Callable[[Answer], None],
    ) -> None:
        self.ask, self.request_id = ask, request_id
        self.created = int(time.time())
        self.echoes: tuple[str, ...] = ()
        self._engine, self._streams, self._metrics = engine, streams, metrics
        self._prepare, self._closed = prepare, closed
        self._began = time.perf_counter()
        self._inbox: Inbox | None = None
        self._choices: dict[tuple[str, int], Choice] = {}
        self._ids: list[str] = []
        self._running: set[int] = set()
        self._prompt_tokens = 0
        self._cached: dict[str, int] = {}
        self._last_token_s: float | None = None
        self._failure: RequestError | None = None
        self._status = CLIENT_LEFT
        self._is_closed = False
        # tasks come and go during a request; a span wants to end in the context where it began
        self._context = contextvars.copy_context()
        operation = "chat" if isinstance(ask, ChatAsk) else "text_completion"
        self._trace = self._context.run(Trace, operation, model)
        metrics.request_started()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Exception):
            self.failed(error)
        self.close()

    @property
    def choices(self) -> list[Choice]:
        return list(self._choices.values())

    @property
    def usage(self) -> Usage:
        return Usage(
            self._prompt_tokens,
            sum(self._cached.values()),
            sum(choice.num_tokens for choice in self._choices.values()),
            sum(choice.num_reasoning_tokens for choice in self._choices.values()),
        )

    async def open(self) -> None:
        """Prepare and submit. Raises `InvalidRequest`, `QueueFull` or `Unavailable`."""
        prepared = await self._prepare(self.ask, self.request_id)
        self.echoes = prepared.echoes
        self._ids = [generation.request_id for generation in prepared.generations]
        self._inbox = self._streams.open(self._ids, self.abort)
        for generation in prepared.generations:
            for index in range(generation.n):
                number = len(self._choices)
                self._choices[generation.request_id, index] = Choice(number, prepared.reading)
                self._running.add(number)
            self._prompt_tokens += len(generation.prompt)
        for generation in prepared.generations:
            self._engine.submit(generation)

    async def batches(self, silence_s: float | None = None) -> AsyncIterator[list[TextEvent]]:
        """What each step brought, until every choice has finished; an empty list after that much silence.

        Raises the `RequestError` that ended the request.
        """
        assert self._inbox is not None, "open comes first"
        while self._running:
            events = await self._inbox.take(silence_s)
            text = self._read(events)
            if text or not events:
                yield text
            if self._failure is not None:
                raise self._failure
        self._status = 200

    def failed(self, error: BaseException) -> None:
        """Note what the request ended with, for the metrics."""
        if isinstance(error, RequestError):
            self._status = error.status
        elif not isinstance(error, ClientLeft):
            self._status = 500

    def close(self) -> None:
        """Whatever still runs is aborted at once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._streams.close(self._ids)
        if self._running:
            self.abort()
        reasons: list[str] = [choice.finish_reason or "aborted" for choice in self._choices.values()]
        for reason in reasons:
            self._metrics.answered(reason)
        self._metrics.finished(self._status, time.perf_counter() - self._began)
        usage = self.usage
        self._context.run(self._trace.finished, reasons, usage.prompt_tokens, usage.completion_tokens)
        self._closed(self)

    def abort(self) -> None:
        for request_id in self._ids:
            self._engine.abort(request_id)

    def _read(self, events: list[Event]) -> list[TextEvent]:
        drawn: dict[int, int] = {}
        touched: dict[int, Choice] = {}
        for event in events:
            if isinstance(event, Prefilled):
                self._note_prefilled(event)
            elif isinstance(event, Drawn | Ended):
                choice = self._choices[event.request_id, event.index]
                touched[choice.index] = choice
                if isinstance(event, Drawn):
                    self._push(choice, event)
                    drawn[choice.index] = drawn.get(choice.index, 0) + 1
                elif event.reason != "aborted":
                    choice.finish(event.reason, event.stop_token)
                elif choice.finish_reason is None:
                    self._failure = Unavailable("the server has ended this answer")
            else:
                self._failure = event.error
        if drawn:
            self._note_tokens(drawn)
        return [text for choice in touched.values() for text in self._taken(choice)]

    def _push(self, choice: Choice, event: Drawn) -> None:
        if choice.finish_reason is not None:
            return
        choice.push(event.token, event.logprobs)
        if choice.finish_reason is not None:
            self._engine.abort(event.request_id, event.index)

    def _taken(self, choice: Choice) -> list[TextEvent]:
        told: list[TextEvent] = []
        if delta := choice.take():
            told.append(delta)
        if choice.finish_reason is not None and choice.index in self._running:
            self._running.remove(choice.index)
            told.append(Finish(choice.index, choice.finish_reason))
        return told

    def _note_prefilled(self, event: Prefilled) -> None:
        # a request that gave way to another is read again, by then from its own blocks
        if event.request_id not in self._cached:
            self._cached[event.request_id] = event.cached
            self._metrics.queued(time.perf_counter() - self._began)

    def _note_tokens(self, drawn: dict[int, int]) -> None:
        now = time.perf_counter()
        if self._last_token_s is None:
            self._metrics.first_token(now - self._began)
            self._context.run(self._trace.first_token, self._prompt_tokens, sum(self._cached.values()))
        else:
            for count in drawn.values():
                self._metrics.tokens(count, now - self._last_token_s)
        self._last_token_s = now
