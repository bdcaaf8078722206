"""The fake engine serves as it says, and each of its faults does what it says."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from mlxctl.control import probe
from mlxctl.control.listeners import is_listening
from tests.fakes.engine import ANSWER
from tests.fakes.home import ENGINE, _is_free
from tests.fakes.starter import eventually

MODEL = "/models/tiny"


class Engines:
    """Starts fake engines on free ports; what is left of them ends with the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *faults: str, model: str = MODEL, mine: tuple[str, ...] = ()) -> tuple[subprocess.Popen[str], int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [*faults, "--model-path", model, "--model-type", "lm", "--host", "127.0.0.1", "--port", str(port), *mine]
        process = subprocess.Popen(
            [sys.executable, str(ENGINE), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        return process, port

    def up(self, *faults: str, **more: Any) -> tuple[subprocess.Popen[str], int]:
        process, port = self.start(*faults, **more)
        eventually(lambda: process.poll() is not None or is_listening(port, "127.0.0.1"))
        assert process.poll() is None
        return process, port


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    for process in engines.started:
        process.kill()
        process.communicate()


def models(port: int) -> probe.Answer:
    return probe.ask("127.0.0.1", port, "/v1/models", timeout_s=5)


def chat(port: int, timeout_s: float = 5, **more: Any) -> probe.Answer:
    return probe.ask(
        "127.0.0.1", port, "/v1/chat/completions", {**probe.chat_payload("mlx-a"), **more}, timeout_s=timeout_s
    )


def test_it_serves(engines: Engines) -> None:
    process, port = engines.up()
    assert probe.served_names(models(port)) == [MODEL]
    answer = chat(port)
    assert answer.body["choices"][0]["message"]["content"] == ANSWER
    assert answer.body["model"] == "mlx-a"
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (-signal.SIGTERM, f"fake engine starts for {MODEL}\n", "")
    assert _is_free(port)


def test_it_streams_the_same_words(engines: Engines) -> None:
    _, port = engines.up()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({"stream": True}), {"Content-Type": "application/json"}
    )
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip() == ANSWER
    assert chunks[-1]["usage"]["completion_tokens"] == len(ANSWER.split())


def test_it_takes_the_flags_that_mlxctl_appends_and_no_others(engines: Engines) -> None:
    known = ("--tool-call-parser", "x", "--reasoning-parser", "x", "--chat-template-file", "x", "--trust-remote-code")
    engines.up(mine=known)
    process, _ = engines.start(mine=("--served-model-name", "x"))
    assert process.wait(10) == 2


def test_die_at_once(engines: Engines) -> None:
    process, port = engines.start("--die-at-once")
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1]) == (3, "cannot load the model: asked to die")
    assert not is_listening(port, "127.0.0.1")


def test_die_after(engines: Engines) -> None:
    process, port = engines.up("--die-after", "0.3")
    assert chat(port).status == 200
    assert process.wait(10) == -signal.SIGSEGV


def test_never_listen_and_listen_after(engines: Engines) -> None:
    never, dead_port = engines.start("--never-listen")
    begun = time.monotonic()
    _, port = engines.up("--listen-after", "0.5")
    assert time.monotonic() - begun >= 0.5
    assert chat(port).status == 200
    assert never.poll() is None
    assert not is_listening(dead_port, "127.0.0.1")


def test_chat_status(engines: Engines) -> None:
    _, port = engines.up("--chat-status", "503")
    answer = chat(port)
    assert (answer.status, probe.complaint_of(answer)) == (503, "HTTP 503: asked to fail")
    assert models(port).status == 200


def test_silent(engines: Engines) -> None:
    _, port = engines.up("--silent")
    assert chat(port, timeout_s=0.3).status == 0
    assert models(port).status == 200


def test_name(engines: Engines) -> None:
    _, port = engines.up("--name", "org/another")
    assert probe.served_names(models(port)) == ["org/another"]


def test_ignore_term(engines: Engines) -> None:
    process, port = engines.up("--ignore-term")
    process.terminate()
    time.sleep(0.2)
    assert process.poll() is None
    assert chat(port).status == 200


def test_drain_keeps_the_port_for_its_time_and_ends_in_order(engines: Engines) -> None:
    process, port = engines.up("--drain", "0.4")
    begun = time.monotonic()
    process.terminate()
    time.sleep(0.1)
    assert is_listening(port, "127.0.0.1")
    assert process.wait(10) == 0
    assert time.monotonic() - begun >= 0.4


def test_grandchild(engines: Engines) -> None:
    process, _ = engines.up("--grandchild")
    (child,) = psutil.Process(process.pid).children()
    assert os.getsid(child.pid) == child.pid
    process.kill()
    process.wait()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fake engine starts")
    readable, _, _ = select.select([process.stdout], [], [], 0.2)
    assert readable == [], "it outlives the engine and keeps the output open: no end of file"
    child.kill()
    assert process.stdout.read() == ""


def test_chatter(engines: Engines) -> None:
    process, _ = engines.start("--chatter", "--never-listen")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fake engine starts")
    first, second = (float(process.stdout.readline().split()[1]) for _ in range(2))
    assert 0.03 < second - first < 2


@pytest.mark.parametrize(("model", "fails"), [("/models/bad", True), ("/models/good", False), ("/bad/good", False)])
def test_only_limits_the_faults_to_one_model(engines: Engines, model: str, fails: bool) -> None:
    faults = ("--die-at-once", "--only", "bad")
    if fails:
        assert engines.start(*faults, model=model)[0].wait(10) == 3
    else:
        _, port = engines.up(*faults, model=model)
        assert probe.served_names(models(port)) == [model]


def test_it_costs_little(engines: Engines) -> None:
    process, _ = engines.up()
    assert psutil.Process(process.pid).memory_info().rss < 40 << 20
