"""The only door to processes, ports and memory of this machine. `LocalHost` is real; tests hand in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from mlxctl.control.listeners import Holder, holder_of, is_listening, listens
from mlxctl.core.errors import NotReady

STAMP_VARIABLE = "MLXCTL_STAMP"
SHIM = Path(__file__).with_name("shim.py")
CREATE_TIME_TOLERANCE_S = 0.05
"""psutil rounds the kernel's clock ticks; two reads of one process differ by less."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process is meant: a pid alone may have been given to another process since."""

    pid: int
    create_time: float
    stamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the shim is to start, and where it leaves its records."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stamp: str
    exit_record: Path
    log_path: Path
    log_max_bytes: int
    log_files: int


class Host(Protocol):
    """What the control plane may do to a machine. Nothing here signals a process that fails its identity check."""

    def spawn(self, launch: Launch) -> tuple[Identity, Identity]:
        """Start detached, under a shim. Returns (model, shim). Raises `NotReady` when argv cannot be executed."""

    def is_alive(self, identity: Identity) -> bool:
        """pid, create time and stamp all agree, and the process is no zombie."""

    def signal_group(self, identity: Identity, number: signal.Signals) -> bool:
        """Signal the model's process group and every descendant outside it; False when the model is gone."""

    def stamped(self, stamp: str) -> list[int]:
        """Pids that carry `stamp` in their environment: descendants that outlived their parent included."""

    def memory_bytes(self, identity: Identity) -> int:
        """Resident memory of the process and its descendants."""

    def owns_listener(self, identity: Identity, port: int) -> bool:
        """Whether the process or a descendant listens on `port`."""

    def is_listening(self, port: int, address: str) -> bool: ...

    def holder(self, port: int) -> Holder | None:
        """Who listens on `port`, as far as the system tells."""

    def available_memory(self) -> int: ...

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


def outlived(host: Host, port: int, stamp: str) -> bool:
    """Whether `port` is held by something that a process with `stamp` started, itself included."""
    holder = host.holder(port) if stamp else None
    return holder is not None and holder.pid in host.stamped(stamp)


class LocalHost:
    """This machine, through psutil and the shim."""

    def spawn(self, launch: Launch) -> tuple[Identity, Identity]:
        argv = [
            *(sys.executable, "-I", "-S", str(SHIM), launch.stamp, str(launch.exit_record), str(launch.log_path)),
            *(str(launch.log_max_bytes), str(launch.log_files), "--", *launch.argv),
        ]
        # a file, not DEVNULL: what the shim itself has to complain about belongs into the model's log
        with launch.log_path.open("ab") as log:
            shim = subprocess.Popen(
                argv,
                env={**launch.env, STAMP_VARIABLE: launch.stamp},
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert shim.stdout is not None
        with shim.stdout:
            word, _, rest = shim.stdout.readline().decode(errors="replace").strip().partition(" ")
        if word != "pid":
            shim.wait()
            raise NotReady("no_engine", f"cannot start {launch.argv[0]}: {rest or 'the shim ended'}", _NO_ENGINE_HINT)
        # the shim outlives this process on purpose: nobody waits for it here
        shim.returncode = 0
        return _identify(int(rest), launch.stamp), _identify(shim.pid, launch.stamp)

    def is_alive(self, identity: Identity) -> bool:
        return _verified(identity) is not None

    def signal_group(self, identity: Identity, number: signal.Signals) -> bool:
        process = _verified(identity)
        if process is None:
            return False
        descendants = process.children(recursive=True)
        try:
            if os.getpgid(identity.pid) == identity.pid:
                os.killpg(identity.pid, number)
            else:
                process.send_signal(number)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        for child in descendants:
            try:
                if os.getpgid(child.pid) != identity.pid:
                    child.send_signal(number)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return True

    def stamped(self, stamp: str) -> list[int]:
        carriers = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(STAMP_VARIABLE) == stamp and not _is_shim(process, stamp):
                    carriers.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return carriers

    def memory_bytes(self, identity: Identity) -> int:
        process = _verified(identity)
        return sum(_resident(member) for member in [process, *process.children(recursive=True)]) if process else 0

    def owns_listener(self, identity: Identity, port: int) -> bool:
        process = _verified(identity)
        return process is not None and any(
            listens(member, port) for member in [process, *process.children(recursive=True)]
        )

    def is_listening(self, port: int, address: str) -> bool:
        return is_listening(port, address)

    def holder(self, port: int) -> Holder | None:
        return holder_of(port)

    def available_memory(self) -> int:
        available = int(psutil.virtual_memory().available)
        limited = _cgroup_room()
        return available if limited is None else min(available, limited)

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


_NO_ENGINE_HINT = "see `mlxctl config` for MLX_LAUNCH_CMD, or choose an engine with --engine"


def _identify(pid: int, stamp: str) -> Identity:
    try:
        return Identity(pid, psutil.Process(pid).create_time(), stamp)
    except psutil.NoSuchProcess:
        # already over: no process will ever agree with a create time of 0
        return Identity(pid, 0.0, stamp)


def _verified(identity: Identity) -> psutil.Process | None:
    if identity.pid <= 1:
        return None
    try:
        process = psutil.Process(identity.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if abs(process.create_time() - identity.create_time) > CREATE_TIME_TOLERANCE_S:
            return None
        return process if _carries(process, identity.stamp) else None
    except psutil.NoSuchProcess:
        return None


def _carries(process: psutil.Process, stamp: str) -> bool:
    try:
        return process.environ().get(STAMP_VARIABLE) == stamp
    except (psutil.AccessDenied, OSError):
        # macOS may hide environments; the shim above the model has the stamp in its arguments
        parent = process.parent()
        return parent is not None and _is_shim(parent, stamp)


def _is_shim(process: psutil.Process, stamp: str) -> bool:
    try:
        argv = process.cmdline()
    except (psutil.Error, OSError):
        return False
    return stamp in argv and any(word.endswith(SHIM.name) for word in argv[:5])


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _cgroup_room() -> int | None:
    """Bytes left below a container's memory limit (cgroup v2), or None when there is none."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
