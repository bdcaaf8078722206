"""Who listens on a port: strangers of every kind are seen, and named as far as the system tells."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from mlxctl.control import listeners
from mlxctl.control.listeners import Holder, holder_of, is_listening, listens
from tests.fakes.home import Home, free_base


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(stack: ExitStack, address: str = "127.0.0.1", *, listen: int | None = 5) -> tuple[socket.socket, int]:
    server = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
    if ":" in address:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    # not one of the ports that the system hands out: another program may get that one as soon as it is free
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, free_base()))
    if listen is not None:
        server.listen(listen)
    return server, server.getsockname()[1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="absent: IPv6"))],
)
@pytest.mark.parametrize("asked", ["127.0.0.1", "0.0.0.0", "::1", "::", "", "localhost"])
def test_a_listener_is_seen_whatever_address_is_asked_for(stack: ExitStack, address: str, asked: str) -> None:
    server, port = bound(stack, address)
    assert is_listening(port, asked)
    assert holder_of(port) == Holder(os.getpid(), psutil.Process().name())
    assert listens(psutil.Process(), port)
    server.close()
    assert not is_listening(port, asked)
    assert holder_of(port) is None
    assert not listens(psutil.Process(), port)


def test_a_listener_on_another_address_of_this_host_is_seen_there_alone(stack: ExitStack) -> None:
    try:
        _, port = bound(stack, "127.0.0.2")
    except OSError:
        # macOS has one loopback address
        return
    assert is_listening(port, "127.0.0.2")
    assert not is_listening(port, "127.0.0.1")
    assert holder_of(port) is not None


def test_a_socket_that_does_not_listen_is_nobody(stack: ExitStack) -> None:
    _, port = bound(stack, listen=None)
    assert not is_listening(port, "127.0.0.1")
    assert holder_of(port) is None


def test_a_full_backlog_counts_as_listening(stack: ExitStack) -> None:
    _, port = bound(stack, listen=0)
    for _ in range(8):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
    with socket.socket() as probe:
        probe.settimeout(0.1)
        with pytest.raises(TimeoutError):
            probe.connect(("127.0.0.1", port))
    assert is_listening(port, "127.0.0.1")


def test_a_port_in_time_wait_is_free(stack: ExitStack) -> None:
    server, port = bound(stack)
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    accepted, _ = server.accept()
    accepted.close()
    client.close()
    server.close()
    assert not is_listening(port, "127.0.0.1")


def refused(*_: object, **__: object) -> Any:
    raise psutil.AccessDenied


@pytest.mark.parametrize(
    ("told", "holder"),
    [
        ("p4711\ncnginx\nf6\n", Holder(4711, "nginx")),
        ("p4711\nf6\n", Holder(4711, "a process")),
        ("p1\ncfirst\np2\ncsecond\n", Holder(1, "first")),
        ("", None),
    ],
)
def test_where_psutil_may_not_look_lsof_does(monkeypatch: pytest.MonkeyPatch, told: str, holder: Holder | None) -> None:
    asked: list[list[str]] = []

    def lsof(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, told, "")

    monkeypatch.setattr(psutil, "net_connections", refused)
    monkeypatch.setattr(listeners.subprocess, "run", lsof)
    assert holder_of(8120) == holder
    assert asked[0][:1] + asked[0][2:4] == ["lsof", "-iTCP:8120", "-sTCP:LISTEN"]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no lsof"), subprocess.TimeoutExpired("lsof", 5)])
def test_without_psutil_and_lsof_the_holder_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(psutil, "net_connections", refused)
    monkeypatch.setattr(listeners.subprocess, "run", fail)
    assert holder_of(8120) is None


@pytest.mark.parametrize(
    ("holder", "shown"),
    [(Holder(12, "nginx"), "nginx (pid 12)"), (Holder(None, "another user's process"), "another user's process")],
)
def test_how_a_holder_is_named(holder: Holder, shown: str) -> None:
    assert str(holder) == shown


def test_a_stranger_is_named_never_ended_and_never_moved_away_from(home: Home, stack: ExitStack) -> None:
    home = home.with_engine()
    home.model("a")
    stranger = stack.enter_context(socket.socket())
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stranger.bind(("127.0.0.1", home.base))
    stranger.listen()
    refused = home.run("load", "mlx-a", str(home.base), "--json", "--force")
    assert (refused.code, refused.error["code"]) == (5, "port_taken")
    assert f"(pid {os.getpid()})" in refused.error["message"]
    assert home.registry().models["mlx-a"].port is None
    unloaded = home.run("unload", str(home.base), "--json")
    assert (unloaded.code, unloaded.error["code"]) == (5, "port_taken")
    port = next(p for p in home.run("status", "--json").data["ports"] if p["port"] == home.base)
    assert port["stranger"] == f"{psutil.Process().name()} (pid {os.getpid()})"
    assert is_listening(home.base, "127.0.0.1")
