"""All sides: each is started at its first turn, paused while others are measured, and stopped at the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.worker.bars import ENGINE, GENERATOR, OURS
from bench.worker.client import post
from bench.worker.peers import SERVERS, versions
from bench.worker.process import Process, SideFailed, environment, free_port

READY_S = 300.0
TINY = ", tiny model"
"""Added to a side's name: the same on the tiny model."""


class EngineSide:
    """An engine in process, in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.hello = self._read()

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # what it died of is in its log
            print(json.dumps(task), file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SideFailed(f"died: {self.process.last_words()}")
        return dict(json.loads(line))


@dataclass(frozen=True, slots=True)
class ServerSide:
    """An OpenAI server that has answered once."""

    process: Process
    port: int
    request_model: str


Side = EngineSide | ServerSide


class Sides:
    """`use` starts a side or lets it go on, and pauses the one before: no two ever run at the same time."""

    def __init__(self, model: Path, tiny: Path, scratch: Path, threads: int, say: Callable[[str], None]) -> None:
        self._model, self._tiny, self._scratch, self._threads, self._say = model, tiny, scratch, threads, say
        self._sides: dict[str, Side] = {}
        self._dead: dict[str, str] = {}
        self._current = ""
        self.notes: dict[str, Any] = {}

    def engine(self, name: str) -> EngineSide:
        side = self._use(name)
        assert isinstance(side, EngineSide)
        return side

    def server(self, name: str) -> ServerSide:
        side = self._use(name)
        assert isinstance(side, ServerSide)
        return side

    def stop(self) -> None:
        for side in self._sides.values():
            side.process.stop()
        self._sides.clear()

    def _use(self, name: str) -> Side:
        """Raises `SideFailed`; a side that has died, or did not start, stays away for good."""
        if name in self._dead:
            raise SideFailed(self._dead[name])
        if self._current and self._current != name:
            self._sides[self._current].process.pause()
            self._current = ""
        try:
            if name not in self._sides:
                begun = time.perf_counter()
                self._sides[name] = self._start(name)
                self._say(f"  {name}: ready after {time.perf_counter() - begun:.0f} s")
            self._sides[name].process.resume()
            self._sides[name].process.check()
        except SideFailed as error:
            self._dead[name] = str(error)
            if side := self._sides.pop(name, None):
                side.process.stop()
            raise
        self._current = name
        return self._sides[name]

    def _start(self, name: str) -> Side:
        model = self._tiny if name.endswith(TINY) else self._model
        kind = name.removesuffix(TINY)
        log = self._scratch / f"{name.replace(' ', '-').replace(',', '')}.log"
        if kind in (ENGINE, GENERATOR):
            return self._start_engine(name, kind, model, log)
        server, port = SERVERS[kind], free_port()
        argv = server.argv(model, port, self._scratch)
        self.notes[name] = versions(server)
        process = Process(argv, environment(self._scratch, self._threads, preload=server.preload), log)
        try:
            wait_ready(process, port, server.request_model)
        except BaseException:
            process.stop()
            raise
        return ServerSide(process, port, server.request_model)

    def _start_engine(self, name: str, kind: str, model: Path, log: Path) -> EngineSide:
        word = "engine" if kind == ENGINE else "generator"
        argv = [sys.executable, "-m", "bench.worker.inprocess", word, str(model)]
        environ = environment(self._scratch, self._threads, preload=kind == GENERATOR)
        process = Process(argv, environ, log, talks=True)
        try:
            side = EngineSide(process)
        except BaseException:
            process.stop()
            raise
        self.notes[name] = versions(SERVERS[OURS]) | side.hello
        return side


def wait_ready(process: Process, port: int, model: str) -> None:
    """Until it has answered a short question. Raises `SideFailed`."""
    deadline = time.monotonic() + READY_S
    messages = [{"role": "user", "content": "Hello"}]
    said = "nothing"
    while time.monotonic() < deadline:
        process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
        try:
            post(connection, model, messages, 4)
        except SideFailed as error:
            said = str(error)
        else:
            return
        finally:
            connection.close()
        time.sleep(0.3)
    raise SideFailed(f"not ready after {READY_S:.0f} s, last {said}: {process.last_words()}")
