"""What really runs on a port: one small JSON file a port, and the locks that commands hold while they change one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mlxctl.control.host import Identity
from mlxctl.core.errors import Conflict, MlxctlError, Refused, RegistryUnreadable

STOPPED, STARTING, READY, DRAINING, FAILED = "stopped", "starting", "ready", "draining", "failed"
BACKOFF, CRASHLOOP, QUARANTINED = "backoff", "crashloop", "quarantined"
PHASES = (STOPPED, STARTING, READY, DRAINING, BACKOFF, CRASHLOOP, FAILED, QUARANTINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortState:
    """The last thing known about a port. Times are seconds since the epoch. `operation` names an unfinished change."""

    port: int
    phase: str = STOPPED
    wanted: str = "down"
    model_id: str | None = None
    repo_id: str | None = None
    engine: str | None = None
    request_model: str | None = None
    address: str = "127.0.0.1"
    pid: int | None = None
    create_time: float = 0.0
    shim_pid: int | None = None
    shim_create_time: float = 0.0
    stamp: str = ""
    argv: tuple[str, ...] = ()
    log_path: str | None = None
    weight_bytes: int = 0
    started_at: float | None = None
    ready_at: float | None = None
    restarts: int = 0
    operation: dict[str, Any] | None = None
    last_exit: str | None = None
    last_failure: dict[str, Any] | None = None

    @property
    def identity(self) -> Identity | None:
        return None if self.pid is None else Identity(self.pid, self.create_time, self.stamp)


_FIELDS = frozenset(f.name for f in fields(PortState))


class StateFolder:
    """The folder of port states. Only who holds a port's lock writes its state."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, port: int) -> Path:
        return self.root / "ports" / f"{port}.json"

    def exit_record(self, port: int) -> Path:
        return self.root / "ports" / f"{port}.exit.json"

    def read(self, port: int) -> PortState:
        """The state of `port`; a missing or torn file is a port of which nothing is known."""
        try:
            given = json.loads(self.path(port).read_text())
        except (OSError, ValueError):
            return PortState(port=port)
        if not isinstance(given, dict) or given.get("port") != port:
            return PortState(port=port)
        known = {name: value for name, value in given.items() if name in _FIELDS}
        return PortState(**{**known, "argv": tuple(known.get("argv") or ())})

    def known(self) -> dict[int, PortState]:
        """Every port that has a state, in one listing of the folder."""
        try:
            names = os.listdir(self.root / "ports")
        except OSError:
            return {}
        ports = sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
        return {port: self.read(port) for port in ports}

    def write(self, state: PortState) -> PortState:
        write_atomically(self.path(state.port), json.dumps(asdict(state), indent=1))
        return state

    def exit_of(self, state: PortState) -> str | None:
        """How the process of `state` ended ("SIGKILL", "exit code 1"), or None while it runs or nobody recorded it."""
        try:
            record = json.loads(self.exit_record(state.port).read_text())
            ours = record["stamp"] == state.stamp
            return (record["signal"] or f"exit code {record['code']}") if ours else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def settle(self, state: PortState, **changes: Any) -> PortState:
        return self.write(replace(state, **changes))

    @contextlib.contextmanager
    def lock(self, name: str, timeout_s: float, what: str) -> Iterator[None]:
        """Hold the lock `name` ("8120", "mlx-x"). Raises `Conflict` when somebody else keeps it for `timeout_s`."""
        import filelock

        path = self.root / "locks" / f"{name}.lock"
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, timeout=timeout_s, poll_interval=0.02)
        try:
            lock.acquire()
        except filelock.Timeout:
            code = "port_busy" if name.isdigit() else "model_busy"
            raise Conflict(
                code, f"another command is at work on {what} and did not finish", "see `mlxctl status`, then try again"
            ) from None
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            yield
        finally:
            lock.release()

    def is_held(self, name: str) -> bool:
        """Whether a command is at work under the lock `name`."""
        try:
            with self.lock(name, 0, name):
                return False
        except MlxctlError:
            return True


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace `path` by `text`, wholly or not at all; with `durable` it is on the disk when this returns."""
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(staged, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(staged)
            raise
        if durable:
            # the new content is in place and everybody reads it: an error now would have callers undo what stays
            with contextlib.suppress(OSError):
                _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> MlxctlError:
    """`error` of a write to `path`, as the error that people get. Nothing was changed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("disk_full", f"no room on the disk to write {path}", "free some space; nothing was changed")
    return RegistryUnreadable(
        "registry_read_only",
        f"cannot write {path}: {error.strerror}",
        "check its owner and permissions; nothing was changed",
    )
