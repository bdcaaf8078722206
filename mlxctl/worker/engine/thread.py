"""The engine thread: loads the model, runs the step loop, and alone touches MLX. The rest talks to it by mail."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine.open_files import open_files_kept
from mlxctl.worker.errors import MODEL_ERRORS, InvalidRequest, QueueFull, Unavailable
from mlxctl.worker.scheduler.ledger import SET_ASIDE_TOKENS
from mlxctl.worker.types import Deliver, EngineStats, Generation, ModelFacts

if TYPE_CHECKING:
    from mlxctl.worker.engine.load import Loaded

LOADING_RETRY_S, DRAINING_RETRY_S = 5, 30
LEAVING_S = 1.0
MOST_FAILURES = 3
"""Steps that may fail in a row before the engine gives up: then something is wrong with more than one request."""
WEIGH_STEPS = 8
log = logging.getLogger(__name__)

Phase = Literal["loading", "ready", "draining", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Submit:
    generation: Generation


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str
    index: int | None


class EngineThread:
    """`deliver` is called on the engine thread, once a step, with what the step brought."""

    def __init__(self, config: EngineConfig, deliver: Deliver, *, on_death: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self._deliver, self._on_death = deliver, on_death
        self._mail: deque[Submit | Abort] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._phase: Phase = "loading"
        self._loaded = threading.Event()
        self._engine: Loaded | None = None
        self._kv_bytes = 0
        self.error = ""
        # not a daemon: MLX objects must be freed on the thread that made them, before the interpreter ends
        self._thread = threading.Thread(target=self._run, name="engine")

    def start(self) -> None:
        self._thread.start()

    def wait_loaded(self, timeout_s: float | None = None) -> bool:
        """Whether the model is loaded; False when it failed, or is not there yet."""
        self._loaded.wait(timeout_s)
        return self._phase in ("ready", "draining")

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the loop, whatever is at hand, and free the model."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        # Python before 3.13 joins before the thread has left the system: MLX still tidies up there, and would abort a
        # process whose interpreter has ended meanwhile
        until_s = time.monotonic() + LEAVING_S
        while Path(f"/proc/self/task/{self._thread.native_id}").exists() and time.monotonic() < until_s:
            time.sleep(0.001)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, generation: Generation) -> None:
        engine = self._ready_engine()
        _check_size(generation, engine, self.config)
        waiting = len(engine.loop.intake.waiting) + len(self._mail)
        if waiting >= self.config.max_queue:
            raise QueueFull(
                f"{waiting} requests are waiting, and that is as many as may",
                retry_after_s=min(60, 1 + waiting // max(1, self.config.max_batch)),
            )
        self._post(Submit(generation))

    def abort(self, request_id: str, index: int | None = None) -> None:
        self._post(Abort(request_id, index))

    def drain(self) -> None:
        if self._phase in ("loading", "ready"):
            self._phase = "draining"

    def facts(self) -> ModelFacts | None:
        engine = self._engine
        return engine.facts if engine else None

    def stats(self) -> EngineStats:
        # numbers that the engine thread is writing: each is whole, though they may be a step apart
        engine = self._engine
        if engine is None:
            return EngineStats(phase=self._phase, error=self.error)
        from mlxctl.worker.engine.machine import active_bytes, peak_bytes

        loop, store = engine.loop, engine.store
        idle = loop.is_idle and not self._mail
        return EngineStats(
            phase=self._phase,
            error=self.error,
            running=len(loop.batch.rows),
            prefilling=len(loop.intake.reading),
            waiting=len(loop.intake.waiting) + len(self._mail),
            last_progress_s=0.0 if idle else max(0.0, loop.clock() - loop.last_progress_s),
            cache_bytes=store.bytes if store else 0,
            cache_budget_bytes=store.budget_bytes if store else 0,
            cache_blocks=store.blocks if store else 0,
            kv_bytes=self._kv_bytes,
            kv_reserved_bytes=loop.ledger.reserved,
            kv_budget_bytes=loop.ledger.budget,
            mlx_active_bytes=active_bytes(),
            mlx_peak_bytes=peak_bytes(),
            totals=replace(loop.outbox.counts),
        )

    def _ready_engine(self) -> Loaded:
        if self._engine is not None and self._phase == "ready" and not self._stopping:
            return self._engine
        if self._phase == "loading":
            raise Unavailable("the model is still loading", code="loading", retry_after_s=LOADING_RETRY_S)
        if self._phase == "failed":
            raise Unavailable(f"the model is not running: {self.error}", code="failed", retry_after_s=DRAINING_RETRY_S)
        raise Unavailable("the server is shutting down", code="draining", retry_after_s=DRAINING_RETRY_S)

    def _post(self, mail: Submit | Abort) -> None:
        with self._wake:
            self._mail.append(mail)
            self._wake.notify()

    # from here on: the engine thread

    def _run(self) -> None:
        try:
            self._load()
            self._serve()
            self._phase = "stopped"
        except Exception as error:  # whatever it was, people must learn that the engine is gone
            self._phase, self.error = "failed", f"{type(error).__name__}: {error}"
            log.exception("the engine has stopped")
        finally:
            self._engine = None
            self._loaded.set()
            if self._phase == "failed":
                self._on_death()

    def _load(self) -> None:
        started = time.monotonic()
        with open_files_kept():
            from mlxctl.worker.engine.load import load

        engine = load(self.config)
        self._engine = engine
        if self._phase == "loading":
            self._phase = "ready"
        self._loaded.set()
        log.info(
            "loaded %s in %.1f s: %s decoder, context %d",
            self.config.model,
            time.monotonic() - started,
            engine.facts.decoder,
            engine.facts.context_length,
        )

    def _serve(self) -> None:
        engine, failures = self._engine, 0
        while engine is not None and not self._stopping:
            self._read_mail(engine)
            if engine.loop.is_idle:
                self._rest(engine)
                continue
            try:
                events = engine.loop.step()
                failures = 0
            except MODEL_ERRORS as error:
                failures += 1
                log.exception("a step failed; those at hand get an error")
                events = engine.loop.fail(error)
                if failures >= MOST_FAILURES:
                    self._read_mail(engine)
                    self._deliver([*events, *engine.loop.fail(error)])
                    raise
            if events:
                self._deliver(events)
            if engine.loop.outbox.counts.steps % WEIGH_STEPS == 0:
                self._kv_bytes = engine.loop.batch.decoder.nbytes
        if engine is not None:
            # those whose mail lay here unread wait for an answer too
            self._read_mail(engine)
            self._deliver(engine.loop.fail(RuntimeError("the server has stopped")))

    def _read_mail(self, engine: Loaded) -> None:
        while self._mail:
            mail = self._mail.popleft()
            if isinstance(mail, Submit):
                engine.loop.submit(mail.generation)
            else:
                engine.loop.abort(mail.request_id, mail.index)

    def _rest(self, engine: Loaded) -> None:
        """Wait for mail. What aborts in an idle loop left behind is handed out first."""
        if events := engine.loop.outbox.take():
            self._deliver(events)
        if self.config.integrity and engine.store is not None:
            engine.store.check_integrity()
        self._kv_bytes = engine.loop.batch.decoder.nbytes
        with self._wake:
            self._wake.wait_for(lambda: bool(self._mail) or self._stopping)


def _check_size(generation: Generation, engine: Loaded, config: EngineConfig) -> None:
    """Refuse what could never run, with the numbers. Raises `InvalidRequest`."""
    prompt, context = len(generation.prompt), engine.facts.context_length
    if prompt == 0:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if prompt >= context:
        raise InvalidRequest(
            f"the prompt has {prompt} tokens, and with at least one more that is over the context length of {context}",
            code="context_length_exceeded",
        )
    if not all(0 <= token < engine.facts.vocab_size for token in generation.prompt):
        raise InvalidRequest(f"a token of the prompt is outside the vocabulary of {engine.facts.vocab_size}")
    if generation.n > config.max_batch:
        raise InvalidRequest(
            f"n is {generation.n}, and at most {config.max_batch} answers are written at once", param="n"
        )
    # one row alone may grow to the context's end; several begin together, and give way to each other later
    least = min(prompt + min(generation.max_tokens, SET_ASIDE_TOKENS), context)
    if not engine.loop.ledger.fits(least, generation.n):
        needed = generation.n * engine.loop.ledger.row_bytes(least)
        raise InvalidRequest(
            f"{generation.n} answers to a prompt of {prompt} tokens need {needed:,} bytes of KV cache to begin, "
            f"and this server has {engine.loop.ledger.budget:,}",
            param="n",
            code="request_too_large",
        )
