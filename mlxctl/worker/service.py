"""The worker's service: takes an ask, refuses it or hands out an answer; knows the state of the whole."""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from mlxctl.worker.answer import Answer
from mlxctl.worker.ask import Ask, ChatAsk
from mlxctl.worker.config import ServeConfig
from mlxctl.worker.errors import QueueFull, Unavailable
from mlxctl.worker.language import Language
from mlxctl.worker.metrics import Metrics
from mlxctl.worker.prepare import Prepared, Room, prepare
from mlxctl.worker.streams import Streams
from mlxctl.worker.types import Engine, EngineStats, ModelFacts

PREPARERS = 2
"""Threads that render, tokenise and compile. They mostly hold the interpreter: more would not be faster."""
LOADING_RETRY_S = 5
DRAINING_RETRY_S = 10


class Service:
    """Lives on the event loop. `language` is set once the tokenizer is there; until then requests get a 503."""

    def __init__(self, config: ServeConfig, engine: Engine, streams: Streams, metrics: Metrics) -> None:
        self.config, self.engine, self.streams, self.metrics = config, engine, streams, metrics
        streams.on_step = metrics.step
        self.language: Language | None = None
        self.model = config.served_model_name or config.engine.model.name
        self.started_s = time.time()
        self._pool = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self._preparing = 0
        self._open: set[Answer] = set()
        self._is_draining = False
        self._error = ""

    @property
    def in_flight(self) -> int:
        """Requests that have not been answered in full."""
        return len(self._open)

    def fail(self, error: str) -> None:
        """Something other than the engine could not be loaded: this worker will never be ready."""
        self._error = error

    def phase(self, stats: EngineStats) -> tuple[str, str]:
        """The phase of the whole, and why it is not `ready`."""
        if self._error or stats.phase == "failed":
            return "failed", self._error or stats.error
        if self._is_draining or stats.phase in ("draining", "stopped"):
            return "draining" if stats.phase != "stopped" else "stopped", "the server is shutting down"
        if self.language is None or self.engine.facts() is None or stats.phase == "loading":
            return "loading", "the model is being loaded"
        return "ready", ""

    def ready(self) -> tuple[Language, ModelFacts]:
        """What an answer needs. Raises `Unavailable` unless the model is loaded and new requests are welcome."""
        phase, why = self.phase(self.engine.stats())
        facts = self.engine.facts()
        if phase != "ready" or self.language is None or facts is None:
            raise Unavailable(why, retry_after_s=LOADING_RETRY_S if phase == "loading" else DRAINING_RETRY_S)
        return self.language, facts

    def answer(self, ask: Ask) -> Answer:
        """Begin an answer; nothing is computed before it is opened. Whoever gets it must close it."""
        prefix = "chatcmpl" if isinstance(ask, ChatAsk) else "cmpl"
        answer = Answer(
            ask,
            f"{prefix}-{uuid.uuid4().hex}",
            engine=self.engine,
            streams=self.streams,
            metrics=self.metrics,
            model=self.model,
            prepare=self._prepare,
            closed=self._open.discard,
        )
        self._open.add(answer)
        return answer

    def drain(self) -> None:
        """Refuse new requests from now on, and let those at hand finish."""
        self._is_draining = True
        self.engine.drain()

    async def finished(self, timeout_s: float) -> bool:
        """Wait until nobody is being answered. False: some still are."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        return not self._open

    def cut_off(self) -> None:
        """End whatever is still being answered, with an error that says so."""
        self.streams.fail_all("the server is shutting down")
        for answer in list(self._open):
            answer.abort()

    def close(self) -> None:
        """Stop the threads. No answer can be opened any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, ask: Ask, request_id: str) -> Prepared:
        language, facts = self.ready()
        if self._preparing >= self.config.engine.max_queue:
            raise QueueFull(f"{self._preparing} requests are waiting to be read", retry_after_s=1)
        room = Room(facts.context_length, self.config.max_output_tokens, facts.vocab_size)
        self._preparing += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._pool, prepare, ask, request_id, language, room)
            return await work
        finally:
            self._preparing -= 1
