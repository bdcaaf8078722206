"""The worker's HTTP side over the echo engine: on a real socket in a thread of its own, or without any socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import uvicorn

from mlxctl.worker.api.app import create_app
from mlxctl.worker.config import EngineConfig, ServeConfig
from mlxctl.worker.metrics import Metrics
from mlxctl.worker.service import Service
from mlxctl.worker.streams import Streams
from mlxctl.worker.types import Generation
from tests.fakes.echo_engine import MODEL_FOLDER, EchoEngine, Script, byte_language, echo

CONFIG = ServeConfig(engine=EngineConfig(model=MODEL_FOLDER), served_model_name="echo")


class EchoWorker:
    """Service, engine and application. `config` fields may be given by name, and those of the engine likewise."""

    def __init__(
        self,
        script: Callable[[Generation], Script] = echo,
        *,
        bound: int = 4096,
        engine: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.config = replace(CONFIG, **config)
        self.streams = Streams(bound)
        self.engine = EchoEngine(self.streams.deliver, script, **(engine or {}))
        self.metrics = Metrics()
        self.service = Service(self.config, self.engine, self.streams, self.metrics)
        self.language = byte_language()
        self.service.language = self.language
        self.app = create_app(self.config, self.service)

    def stop(self) -> None:
        self.engine.stop()
        self.service.close()


class EchoServer:
    """A worker behind uvicorn on a free port of the loopback. A context manager."""

    def __init__(self, worker: EchoWorker) -> None:
        self.worker = worker
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(worker.app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="echo-server", daemon=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._server.serve([self._socket]))

    def __enter__(self) -> EchoServer:
        self._thread.start()
        eventually(lambda: self._server.started)
        self.client = httpx.Client(base_url=self.url, timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
        self.worker.stop()

    def connect(
        self, body: str = "", *, path: str = "/v1/chat/completions", length: int | None = None
    ) -> socket.socket:
        """A raw connection that has sent a POST with this body."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        data = body.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: echo\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {len(data) if length is None else length}\r\n\r\n".encode() + data)
        return raw


def chunks(text: str) -> list[Any]:
    """The events of a stream: JSON read, `[DONE]` and comments as they are."""
    told: list[Any] = []
    for block in text.split("\n\n"):
        if block.startswith("data: {"):
            told.append(json.loads(block.removeprefix("data: ")))
        elif block:
            told.append(block.removeprefix("data: "))
    return told


def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until it holds. Raises `AssertionError` if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
