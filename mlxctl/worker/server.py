"""The worker as a whole: one listening socket, one event loop, one engine thread; from its first step to its last."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI

from mlxctl.core.errors import Conflict, MlxctlError, NotReady, UsageError
from mlxctl.worker import tracing
from mlxctl.worker.api.app import create_app
from mlxctl.worker.config import EngineConfig, ServeConfig
from mlxctl.worker.engine.thread import EngineThread
from mlxctl.worker.folder import read_config, read_sampling
from mlxctl.worker.language import Language
from mlxctl.worker.metrics import Metrics, NoMetrics
from mlxctl.worker.service import Service
from mlxctl.worker.streams import Streams
from mlxctl.worker.types import Deliver, Drawn, Engine, Event

BACKLOG = 4096
OPEN_FILES = 65536
SPARE_FILES = 256
"""Kept free of connections: for the model's files, the log, and what libraries open."""
MAX_CONNECTIONS = 20_000
KEEP_ALIVE_S = 75
"""Longer than the idle time of common client pools, so that it is they who close."""
CUT_OFF_S, FLUSH_S, STOP_S = 2.0, 5, 10.0
"""For answers that were cut off, for the last bytes of all answers, and for the engine's last step."""
FAILED_S = 0.6
"""How long /health says `failed` before the process ends."""
INTERRUPTED = 130
LOAD_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)
"""What tokenizers, their own code and templates raise when they cannot be read."""
log = logging.getLogger(__name__)


class RunningEngine(Engine, Protocol):
    def start(self) -> None: ...

    def wait_loaded(self, timeout_s: float | None = None) -> bool: ...

    def stop(self, timeout_s: float = 10.0) -> None: ...


class EngineMaker(Protocol):
    def __call__(self, config: EngineConfig, deliver: Deliver, *, on_death: Callable[[], None]) -> RunningEngine: ...


LanguageLoader = Callable[[ServeConfig, dict[str, Any], RunningEngine], Language | None]


def serve(config: ServeConfig, make_engine: EngineMaker = EngineThread, load: LanguageLoader | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 is the exit code. Tests hand in another engine and language.

    Raises `NotFound` or `NotReady` when there is no model, or when it cannot be loaded; `Conflict` when the port is
    taken; `MlxctlError` when the engine breaks down later.
    """
    logging.basicConfig(
        stream=sys.stderr, level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # uvicorn tells of its own start and end; what goes wrong is enough
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    model_config = read_config(config.engine.model)
    # a request says how to draw; else the registry or a flag; else the model's makers; else OpenAI
    config = replace(config, request_params=read_sampling(config.engine.model) | config.request_params)
    with listen(config.host, config.port) as listener:
        worker = Worker(config, make_engine, partial(load or load_language, config, model_config), connection_limit())
        with asyncio.Runner(loop_factory=worker.http.config.get_loop_factory()) as runner:
            runner.run(worker.run(listener))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: clients may knock while the model loads. Raises `Conflict`, `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                "port_taken", f"port {port} of {host} is taken by another process", "end it, or take another port"
            ) from error
        raise UsageError(
            "bad_flag", f"cannot listen on {host}:{port}: {error.strerror or error}", "use an address of this host"
        ) from error


def connection_limit() -> int:
    """How many connections may be open at once, after raising the limit of open files as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if wanted > soft:
        # macOS names no limit and allows less all the same
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(64, min(soft - SPARE_FILES, MAX_CONNECTIONS))


class _Http(uvicorn.Server):
    """Signals are ours: at the first one uvicorn would stop listening, and nobody could see that we drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Worker:
    """Puts the parts together and owns their end. Used once."""

    def __init__(
        self,
        config: ServeConfig,
        make_engine: EngineMaker,
        load: Callable[[RunningEngine], Language | None],
        connections: int,
    ) -> None:
        self.config = config
        self.streams = Streams()
        self.metrics = Metrics() if config.metrics else NoMetrics()
        self.engine = make_engine(config.engine, self._deliver, on_death=self._engine_died)
        self.service = Service(config, self.engine, self.streams, self.metrics)
        self.http = _Http(
            uvicorn.Config(
                _app(config, self.service),
                log_config=None,
                access_log=config.log_level == "debug",
                ws="none",
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=connections,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )
        self._load_language = load
        self._began = time.monotonic()
        self._is_told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[str] | None = None

    async def run(self, listener: socket.socket) -> None:
        """Serve until told to stop, or until something breaks down. Raises `NotReady`, `MlxctlError`."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._told_to_stop)
        serving = asyncio.create_task(self.http.serve([listener]))
        # a daemon, since nobody waits for a model that is not wanted any more
        threading.Thread(target=self._load, name="loader", daemon=True).start()
        ends: set[asyncio.Future[Any]] = {self._end, serving}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        was_loaded = self.engine.facts() is not None
        failure = self._end.result() if self._end.done() else "the HTTP server ended"
        if failure:
            log.error("%s", failure)
            tracing.warn("{model} failed: {why}", model=self.service.model, why=failure)
            await asyncio.sleep(FAILED_S)
        else:
            await self._drain()
        self.http.should_exit = True
        await serving
        await asyncio.to_thread(self.engine.stop, STOP_S if was_loaded else 0.0)
        self.service.close()
        if failure:
            raise _error_of(failure, was_loaded, self.service.model)
        log.info("stopped")

    async def _drain(self) -> None:
        """New requests get a 503 from now on; those at hand may finish."""
        log.info("stopping: %d requests under way", self.service.in_flight)
        self.service.drain()
        if not await self.service.finished(self.config.drain_timeout_s):
            log.warning("cutting off %d requests after %.0f s", self.service.in_flight, self.config.drain_timeout_s)
            self.service.cut_off()
            await self.service.finished(CUT_OFF_S)

    def _told_to_stop(self) -> None:
        if self._is_told:
            # whoever says it twice does not want to wait
            os._exit(INTERRUPTED)
        self._is_told = True
        self._finish("")

    # the next two are called on the engine thread

    def _deliver(self, events: list[Event]) -> None:
        self.metrics.step(sum(type(event) is Drawn for event in events))
        self.streams.deliver(events)

    def _engine_died(self) -> None:
        self._post(self._finish, self.engine.stats().error or "the engine has stopped")

    def _finish(self, failure: str) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(failure)

    def _post(self, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action` done on the event loop; nothing happens when it is over already."""
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(action, *arguments)

    # the loader thread

    def _load(self) -> None:
        try:
            with tracing.span("load {model}", model=self.service.model):
                language = self._load_language(self.engine)
        except LOAD_ERRORS as error:
            log.debug("the tokenizer could not be loaded", exc_info=True)
            self._fail(error)
            return
        except BaseException as error:
            # what is told here is not lost; the thread's end prints where it came from
            self._fail(error)
            raise
        if language is not None:
            self._post(self._loaded, language)

    def _fail(self, error: BaseException) -> None:
        told = f"{type(error).__name__}: {error}"
        self.service.fail(told)
        self._post(self._finish, told)

    def _loaded(self, language: Language) -> None:
        self.service.language = language
        # what was made until now stays: the collector need not walk through it while streams wait
        gc.freeze()
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        after = time.monotonic() - self._began
        log.info("%s is ready on http://%s:%d/v1 after %.1f s", self.service.model, host, self.config.port, after)


def _app(config: ServeConfig, service: Service) -> FastAPI:
    try:
        return create_app(config, service)
    except ValueError as error:
        raise UsageError("bad_flag", f"--request-params: {error}", "give fields of OpenAI's API") from error


def load_language(config: ServeConfig, model_config: dict[str, Any], engine: RunningEngine) -> Language | None:
    """Start the engine, and read tokenizer, template and parsers while it loads. None when the engine has failed.

    Raises one of `LOAD_ERRORS`.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # mlx_lm imports it too; two threads at once in its circular imports would trip over each other
    from transformers import AutoTokenizer  # noqa: F401

    engine.start()
    from mlxctl.worker.adapters.choose import choose_adapter
    from mlxctl.worker.grammar import GrammarCompiler
    from mlxctl.worker.tokenizer import Tokenizer

    folder = config.engine.model
    tokenizer = Tokenizer.load(folder, trust_remote_code=config.engine.trust_remote_code)
    adapter = choose_adapter(
        tokenizer,
        model_config,
        chat_template=config.chat_template,
        tool_call_parser=config.tool_call_parser,
        reasoning_parser=config.reasoning_parser,
    )
    if not engine.wait_loaded() or (facts := engine.facts()) is None:
        return None
    return Language(tokenizer, adapter, GrammarCompiler(tokenizer.fast, facts.vocab_size, adapter.stop_tokens))


def _error_of(failure: str, was_loaded: bool, model: str) -> MlxctlError:
    if was_loaded:
        return MlxctlError("unexpected", f"the engine broke down: {failure}", "what happened is in the log")
    return NotReady("bad_model", f"{model} could not be loaded: {failure}", "what happened is in the log")
