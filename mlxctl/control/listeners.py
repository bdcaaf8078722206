"""Who listens on a port of this machine: found by connecting, named by psutil or lsof where the system tells."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

CONNECT_TIMEOUT_S = 0.2


@dataclass(frozen=True, slots=True)
class Holder:
    """Who listens on a port. `pid` is None when the system does not say."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid else self.name


def is_listening(port: int, address: str) -> bool:
    """Whether anybody accepts on `port`, on either loopback address or on `address`.

    A connection tells the truth where binding does not: macOS lets two sockets bind one port.
    """
    targets = [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
    if address not in ("", "0.0.0.0", "::", "127.0.0.1", "::1"):
        targets.append((address, socket.AF_INET6 if ":" in address else socket.AF_INET))
    return any(_accepts(family, target, port) for target, family in targets)


def holder_of(port: int) -> Holder | None:
    """The process that listens on `port`, as far as the system tells."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        # macOS lets only root list every process's sockets through this door
        return _holder_by_lsof(port)
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and _port_of(connection.laddr) == port:
            return Holder(connection.pid, _name_of(connection.pid))
    return None


def listens(process: psutil.Process, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and _port_of(c.laddr) == port for c in connections)


def _port_of(address: Sequence[object]) -> object:
    """psutil gives an empty tuple for a socket without an address."""
    return address[1] if len(address) > 1 else None


def _accepts(family: socket.AddressFamily, address: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect((address, port))
            # a client port can connect to itself; that is nobody listening
            return bool(probe.getsockname() != probe.getpeername())
    except TimeoutError:
        # somebody has the port but does not accept: a full backlog, or a stopped process
        return True
    except OSError:
        return False


def _name_of(pid: int | None) -> str:
    if pid is None:
        return "another user's process"
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process"


def _holder_by_lsof(port: int) -> Holder | None:
    try:
        listed = subprocess.run(
            ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    fields = {line[0]: line[1:] for line in reversed(listed) if line}
    return Holder(int(fields["p"]), fields.get("c", "a process")) if "p" in fields else None
