"""Workers as processes of their own, over real models: started and ended for a test, watched through /health."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
FIGURE = re.compile(r"^(?P<name>\w+)(?:\{[^}]*\})? (?P<value>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Worker:
    """One that listens on the loopback."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        """The official client. It is told not to try again, or a refusal would hide behind a second attempt."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S, **more)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S)

    def async_http(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, limits=limits)

    def health(self) -> dict[str, Any]:
        return dict(json.loads(self._get("/health")))

    def metrics(self) -> dict[str, float]:
        """The sum over all labels, by name."""
        figures: dict[str, float] = {}
        for found in FIGURE.finditer(self._get("/metrics")):
            figures[found["name"]] = figures.get(found["name"], 0.0) + float(found["value"])
        return figures

    def _get(self, path: str) -> str:
        # httpx takes longer to make a client than many an answer takes
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def rest(self, within_s: float = 10.0) -> dict[str, Any]:
        """Wait until nothing is under way; /health of that moment."""
        return self.until(lambda health: not under_way(health), within_s)

    def until(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 10.0) -> dict[str, Any]:
        limit = time.monotonic() + within_s
        while not holds(health := self.health()):
            assert time.monotonic() < limit, health
            time.sleep(0.02)
        return health

    def rss(self) -> int:
        """Bytes in memory."""
        return int(psutil.Process(self.pid).memory_info().rss)


@dataclass(frozen=True)
class Child(Worker):
    """One that this test started. `log` is what it writes to standard error."""

    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path = field(repr=False)

    def told(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, within_s: float = 20.0) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(within_s)


def under_way(health: dict[str, Any]) -> int:
    """Requests and rows that are anywhere between their arrival and their last byte."""
    return int(sum(health[name] for name in ("in_flight", "queue", "running", "prefilling")))


@contextlib.contextmanager
def worker_of(model: Path, folder: Path, *flags: str, quiet: bool = True) -> Iterator[Child]:
    """A worker that is ready. At the end it must still be well: exit 0 at SIGTERM, and no traceback in its log.

    `folder`: where its log goes. One that the test itself has ended is only asked for tracebacks. Not `quiet`: there
    may be some, since the HTTP server tells of tasks that it had to cut off.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    log = folder / f"worker-{port}.log"
    argv = [sys.executable, "-m", "mlxctl", "worker", "--model", str(model), "--port", str(port), *flags]
    with log.open("wb") as written:
        process = subprocess.Popen(argv, cwd=ROOT, env=_environment(folder), stderr=written, start_new_session=True)
    child = Child(port, process.pid, process, log)
    try:
        _wait_until_ready(child)
        yield child
        if process.poll() is None:
            child.told(signal.SIGTERM)
            assert child.ended() == 0, log.read_text()
        assert not quiet or "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Of this run, without anybody's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLX", "HF_", "LLM__"))}
    return {**kept, "HOME": str(folder), "MLXCTL_STATE_DIR": str(folder / "state")}


def _wait_until_ready(child: Child, within_s: float = 60.0) -> None:
    limit = time.monotonic() + within_s
    while child.process.poll() is None and time.monotonic() < limit:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{child.url}/health/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the worker was never ready: {child.log.read_text()}")
