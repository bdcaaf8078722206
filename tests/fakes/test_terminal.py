"""The pseudo-terminal and the scripted server do what the tests that lean on them believe."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.fakes.home import Home
from tests.fakes.scripted import Scripted, answer, events
from tests.fakes.terminal import Terminal


def test_a_command_on_the_terminal_is_read_to_its_end(home: Home) -> None:
    with Terminal.run(home, "--version") as terminal:
        assert terminal.end() == 0
    assert terminal.shown.startswith("mlxctl ")


def test_what_never_comes_is_a_failure(home: Home) -> None:
    with Terminal.run(home, "--version") as terminal, pytest.raises(AssertionError, match="never shown"):
        terminal.wait_for("no such text", within_s=2)


def test_hanging_up_is_a_sighup(home: Home) -> None:
    log = home.root / "state" / "logs" / f"mlx-{home.base}.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    with Terminal.run(home, "logs", str(home.base), "-f") as terminal:
        terminal.wait_for("a line")
        terminal.hang_up()
        assert terminal.child.wait(10) in (0, 130, -signal.SIGHUP)


def test_the_server_sends_what_it_was_given_and_keeps_what_it_was_asked() -> None:
    with Scripted(answer("body", "404 Not Found", Extra="yes")) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b'POST / HTTP/1.1\r\nContent-Length: 8\r\n\r\n{"a": 1}')
            with client.makefile("rb") as file:
                told = file.read()
        assert told == b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nExtra: yes\r\n\r\nbody"
        assert server.asked == [{"a": 1}]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()


def test_events_are_lines_of_data() -> None:
    body = events({"a": 1}, "raw").split(b"\r\n\r\n", 1)[1]
    assert body == b'data: {"a": 1}\n\ndata: raw\n\ndata: [DONE]\n\n'
    assert b"[DONE]" not in events({"a": 1}, done=False)


def test_leaving_is_quick() -> None:
    begun = time.monotonic()
    with Scripted(b""):
        pass
    assert time.monotonic() - begun < 2
