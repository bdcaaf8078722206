"""What the stories about ports have in common: bring a model up, see what serves, wait, and a host with faults."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlxctl.control.commands.load import LoadFlags, load
from mlxctl.control.commands.status import status
from mlxctl.control.host import Identity, Launch, LocalHost
from mlxctl.control.site import Site
from mlxctl.control.state import PortState
from mlxctl.core.errors import MlxctlError
from mlxctl.core.result import Result
from tests.fakes.home import Home


def bring_up(home: Home, model: str, offset: int | str = "auto", *, site: Site | None = None, **flags: Any) -> Result:
    """`mlxctl load` in this process; a number is an offset from the first port."""
    port = str(home.base + offset) if isinstance(offset, int) else offset
    return load(site or home.site(), model, port, LoadFlags(**flags))


def refused(home: Home, model: str, offset: int | str = "auto", **given: Any) -> MlxctlError:
    with pytest.raises(MlxctlError) as caught:
        bring_up(home, model, offset, **given)
    assert caught.value.hint, "an error says what to do next"
    return caught.value


def rows(home: Home) -> dict[int, dict[str, Any]]:
    """The rows of `status` by offset from the first port."""
    return {row["port"] - home.base: row for row in status(home.site()).data["ports"]}


def serving(home: Home) -> dict[int, str]:
    """Ready ports, by offset, and the models that `status` names there."""
    return {offset: row["model_id"] for offset, row in rows(home).items() if row["phase"] == "ready"}


def assigned(home: Home) -> dict[int, str]:
    """Ports, by offset, and the models that the registry puts there."""
    return {port - home.base: entry.model_id for port, entry in home.registry().assigned.items()}


def state(home: Home, offset: int) -> PortState:
    return home.site().states.read(home.base + offset)


def alive(home: Home, offset: int) -> bool:
    known = state(home, offset)
    return known.identity is not None and home.site().host.is_alive(known.identity)


def kill(home: Home, offset: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to the model on a port and, when it is deadly, wait for the end. Returns its pid."""
    known = state(home, offset)
    assert known.pid is not None
    assert known.identity is not None
    os.kill(known.pid, number)
    if number == signal.SIGKILL:
        until(lambda: home.site().states.exit_of(known) is not None, "the death is recorded")
    return known.pid


def until(true: Callable[[], object], what: str, within_s: float = 15.0) -> None:
    limit = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < limit, f"waited in vain: {what}"
        time.sleep(0.02)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def processes_of(home: Home) -> list[int]:
    """Every live process that carries a stamp of this home, shims left out."""
    site = home.site()
    return [pid for known in site.states.known().values() if known.stamp for pid in site.host.stamped(known.stamp)]


def nothing_left(home: Home, *offsets: int) -> None:
    """No process, no listener and no operation under way on these ports."""
    for offset in offsets:
        known = state(home, offset)
        assert not known.stamp or not home.site().host.stamped(known.stamp), f"a process is left on +{offset}"
        assert known.operation is None, f"an operation is left on +{offset}"
        assert is_free(home.base + offset)


@contextmanager
def stranger(port: int) -> Iterator[socket.socket]:
    """This very process listens on `port`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield listener


@dataclass
class FaultyHost(LocalHost):
    """The real machine, but for what a test wants otherwise. `events` tells what was done, in order."""

    available: int | None = None
    doomed: dict[int, list[str]] = field(default_factory=dict)
    """For each port, what is executed in place of the server."""
    events: list[str] = field(default_factory=list)
    before_spawn: Callable[[], None] = lambda: None
    after_spawn: Callable[[], None] = lambda: None

    def spawn(self, launch: Launch) -> tuple[Identity, Identity]:
        port = int(launch.argv[launch.argv.index("--port") + 1])
        self.events.append(f"start {port}")
        self.before_spawn()
        told = super().spawn(replace(launch, argv=self.doomed.get(port, launch.argv)))
        self.after_spawn()
        return told

    def signal_group(self, identity: Identity, number: signal.Signals) -> bool:
        self.events.append(f"{number.name} {identity.pid}")
        return super().signal_group(identity, number)

    def available_memory(self) -> int:
        return super().available_memory() if self.available is None else self.available
