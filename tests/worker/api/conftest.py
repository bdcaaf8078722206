"""One echo server for a whole file; each test finds it as new, and leaves nothing running in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.echo_engine import echo
from tests.fakes.echo_server import EchoServer, EchoWorker, eventually


@pytest.fixture(scope="module")
def shared_server() -> Iterator[EchoServer]:
    with EchoServer(EchoWorker()) as server:
        yield server


@pytest.fixture
def server(shared_server: EchoServer) -> Iterator[EchoServer]:
    engine, service = shared_server.worker.engine, shared_server.worker.service
    engine.script, engine.step_s, engine.phase = echo, 0.0, "ready"
    engine.submitted.clear()
    engine.aborted.clear()
    shared_server.worker.language.adapter.asked.clear()  # type: ignore[attr-defined]
    yield shared_server
    engine.gate.set()
    eventually(lambda: engine.running == 0 and service.in_flight == 0 and len(shared_server.worker.streams) == 0)
