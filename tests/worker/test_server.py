"""The worker as a process: it answers while it loads, drains at SIGTERM, and tells why it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxctl.core.errors import Conflict, NotFound, NotReady, UsageError
from mlxctl.worker.folder import read_config
from mlxctl.worker.server import MAX_CONNECTIONS, connection_limit, listen

ROOT = Path(__file__).parents[2]
DONE = "data: [DONE]"


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int

    def ask(self, path: str, payload: dict[str, Any] | None = None, key: str = "") -> tuple[int, str]:
        """(status, body); (0, "") where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            if payload is None:
                connection.request("GET", path, headers=headers)
            else:
                connection.request("POST", path, json.dumps(payload), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def until(self, path: str, status: int, within_s: float = 15.0) -> str:
        limit = time.monotonic() + within_s
        while (told := self.ask(path))[0] != status:
            assert time.monotonic() < limit, f"{path} never gave {status}, but {told}"
            time.sleep(0.02)
        return told[1]

    @contextlib.contextmanager
    def stream(self, words: str) -> Iterator[http.client.HTTPResponse]:
        """A stream that has given its first words."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        with contextlib.closing(connection):
            body = json.dumps(chat(words, stream=True))
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                assert answer.readline().startswith(b"data:"), answer.status
                yield answer

    def told_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, within_s: float = 15.0) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=within_s)
        return self.process.returncode, err


def chat(words: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], **more}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "echo"}')
    return folder


@pytest.fixture
def start(model: Path) -> Iterator[Any]:
    begun: list[Running] = []

    def begin(*faults: str, flags: tuple[str, ...] = (), **environ: str) -> Running:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        argv = [sys.executable, "-m", "tests.fakes.worker_process", *faults, "--", "--model", str(model)]
        process = subprocess.Popen(
            [*argv, "--port", str(port), *flags],
            cwd=ROOT,
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(Running(process, port))
        return begun[-1]

    yield begin
    for running in begun:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def test_it_answers_while_it_loads_and_says_when_it_is_ready(start: Any) -> None:
    worker = start("--load-s", "1", flags=("--served-model-name", "echo-1"))
    worker.until("/health/live", 200)
    assert worker.ask("/health/ready")[0] == 503
    loading = json.loads(worker.ask("/health")[1])
    assert (loading["status"], loading["model"]) == ("loading", "echo-1")
    status, refused = worker.ask("/v1/chat/completions", chat("hello"))
    assert (status, json.loads(refused)["error"]["type"]) == (503, "server_error")
    worker.until("/health/ready", 200)
    status, answered = worker.ask("/v1/chat/completions", chat("hello"))
    assert (status, json.loads(answered)["choices"][0]["message"]["content"]) == (200, "hello")
    page = worker.ask("/metrics")[1]
    assert 'mlxctl_worker_requests_total{status="200"} 1.0' in page
    assert "mlxctl_worker_ready 1.0" in page
    worker.told_to_stop()
    code, log = worker.ended()
    assert code == 0
    assert "echo-1 is ready on http://127.0.0.1:" in log
    assert "Traceback" not in log


def test_a_drain_lets_a_stream_finish_and_takes_nothing_new(start: Any) -> None:
    worker = start("--step-s", "0.1")
    worker.until("/health/ready", 200)
    with worker.stream("0123456789012345") as answer:
        worker.told_to_stop()
        body = worker.until("/health/ready", 503)
        assert json.loads(body)["status"] == "draining"
        assert worker.ask("/health/live")[0] == 200
        assert worker.ask("/v1/chat/completions", chat("late"))[0] == 503
        rest = answer.read().decode()
    assert rest.rstrip().endswith(DONE)
    code, log = worker.ended()
    assert (code, "1 requests under way" in log, "cutting off" in log) == (0, True, False)


def test_a_stream_that_outlasts_the_drain_is_cut_off_with_an_error(start: Any) -> None:
    worker = start("--step-s", "0.5", flags=("--drain-timeout", "1"))
    worker.until("/health/ready", 200)
    with worker.stream("x" * 1000) as answer:
        worker.told_to_stop()
        rest = answer.read().decode()
    assert "shutting down" in rest
    code, log = worker.ended()
    assert (code, "cutting off 1 requests" in log) == (0, True)


def test_a_second_signal_ends_it_at_once(start: Any) -> None:
    worker = start("--step-s", "0.5")
    worker.until("/health/ready", 200)
    with worker.stream("x" * 1000):
        worker.told_to_stop()
        worker.until("/health/ready", 503)
        begun = time.monotonic()
        worker.told_to_stop(signal.SIGINT)
        code, _ = worker.ended()
    assert code == 130
    assert time.monotonic() - begun < 2


def test_a_stop_while_it_loads_does_not_wait_for_the_model(start: Any) -> None:
    worker = start("--load-s", "60")
    worker.until("/health/live", 200)
    worker.told_to_stop()
    assert worker.ended(within_s=5)[0] == 0


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (("--fail", "ValueError: Model type llamax not supported."), "ValueError: Model type llamax not supported."),
        (("--load-s", "60", "--no-language", "no tokenizer.json"), "ValueError: no tokenizer.json"),
        (("--load-s", "60", "--odd-language", "1 / 0"), "ArithmeticError: 1 / 0"),
    ],
)
def test_a_model_that_cannot_be_loaded(start: Any, faults: tuple[str, ...], why: str) -> None:
    worker = start(*faults, flags=("--served-model-name", "mlx-bad"))
    told = json.loads(worker.until("/health", 503))
    limit = time.monotonic() + 5
    while told["status"] == "loading" and time.monotonic() < limit:
        told = json.loads(worker.ask("/health")[1] or '{"status": "gone"}')
    assert (told["status"], told["reason"]) == ("failed", why)
    code, log = worker.ended()
    assert code == 7
    assert f"error: mlx-bad could not be loaded: {why}" in log


def test_an_engine_that_dies_takes_the_process_with_it(start: Any) -> None:
    """A supervisor starts it again; a worker that listens without an engine would never be noticed."""
    worker = start("--die-after", "0.5")
    worker.until("/health/ready", 200)
    body = worker.until("/health", 503)
    assert (json.loads(body)["status"], json.loads(body)["reason"]) == ("failed", "out of memory, as asked")
    code, log = worker.ended()
    assert (code, "error: the engine broke down: out of memory, as asked" in log) == (1, True)


def test_keys_come_from_the_environment_and_are_asked_for(start: Any) -> None:
    worker = start(MLXCTL_WORKER_API_KEYS="k1,k2=high")
    worker.until("/health/ready", 200)
    statuses = [worker.ask("/v1/chat/completions", chat("x"), key)[0] for key in ("", "k", "k1", "k2")]
    assert statuses == [401, 401, 200, 200]


def test_without_metrics_there_is_no_page(start: Any) -> None:
    worker = start(flags=("--no-metrics",))
    worker.until("/health/ready", 200)
    assert worker.ask("/metrics")[0] == 404
    assert worker.ask("/v1/chat/completions", chat("x"))[0] == 200


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--request-params", '{"temperature": "hot"}'), 2, "--request-params"),
        (("--host", "192.0.2.1"), 2, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_be_served(start: Any, flags: tuple[str, ...], code: int, said: str) -> None:
    ended, log = start(flags=flags).ended()
    assert (ended, said in log) == (code, True), log


# --- the parts, without a process ------------------------------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Conflict) as caught:
        listen("127.0.0.1", taken.getsockname()[1])
    assert (caught.value.code, caught.value.exit_code) == ("port_taken", 5)


def test_a_socket_takes_connections_before_anybody_accepts() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname(), timeout=2) as knock:
        assert knock.fileno() > 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "::2"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("text", "error", "exit_code", "said"),
    [
        (None, NotFound, 4, "there is no folder"),
        ("", NotReady, 7, "no config.json"),
        ("{", NotReady, 7, "cannot be read"),
        ("[]", NotReady, 7, "not a JSON object"),
    ],
)
def test_a_folder_that_is_no_model(
    tmp_path: Path, text: str | None, error: type[NotFound | NotReady], exit_code: int, said: str
) -> None:
    folder = tmp_path / "m"
    if text is not None:
        folder.mkdir()
    if text:
        (folder / "config.json").write_text(text)
    with pytest.raises(error, match=said) as caught:
        read_config(folder)
    assert caught.value.exit_code == exit_code


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_text("")
    with pytest.raises(NotReady, match="not a model's folder"):
        read_config(tmp_path / "weights.gguf")


def test_the_limit_of_connections_goes_as_far_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        limit = connection_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert raised >= min(before[1], 65536) if before[1] != resource.RLIM_INFINITY else raised > 512
    assert 64 <= limit <= min(raised, MAX_CONNECTIONS)
