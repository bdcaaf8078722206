"""Stands between mlxctl and one model: drains and rotates its output, records how it ended, restarts nothing.

Run as `python -I -S shim.py STAMP EXIT_RECORD LOG MAX_BYTES FILES -- ARGV…` in a session of its own, with the standard
library alone, so that it costs little and survives whoever started it. The model gets a second session. The first
line on standard output is `pid N`, or `error TEXT` when ARGV cannot be executed.

The exit record is JSON, written by rename: {"stamp", "pid", "code", "signal", "at"}; one of code and signal is null.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time

DRAIN_AFTER_EXIT_S = 1.0
CHUNK = 65536


class RotatingLog:
    """A log that only this process writes. Output is dropped, never blocked on, when the disk is full."""

    def __init__(self, path: str, max_bytes: int, files: int) -> None:
        self.path, self.max_bytes, self.files = path, max_bytes, files
        self.fd = -1
        self.size = 0
        self._open()

    def _open(self) -> None:
        try:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self.size = os.fstat(self.fd).st_size
        except OSError:
            self.fd = -1

    def write(self, data: bytes) -> None:
        if self.size + len(data) > self.max_bytes:
            self._rotate()
        try:
            self.size += os.write(self.fd, data)
        except OSError:
            return

    def _rotate(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)
        for number in range(self.files - 1, 0, -1):
            with contextlib.suppress(OSError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        with contextlib.suppress(OSError):
            os.replace(self.path, f"{self.path}.1")
        self._open()


def spawn(argv: list[str], output: int) -> int:
    """The pid of `argv` in a new session, its output into `output`. Raises `OSError` when it cannot be executed."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(tell, f"{argv[0]}: {error.strerror}".encode())
        os._exit(127)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        complaint = pipe.read()
    if complaint:
        os.waitpid(pid, 0)
        raise OSError(complaint.decode())
    return pid


def describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def record_exit(path: str, stamp: str, pid: int, status: int) -> None:
    killed = os.WIFSIGNALED(status)
    record = {
        "stamp": stamp,
        "pid": pid,
        "code": None if killed else os.waitstatus_to_exitcode(status),
        "signal": signal.Signals(os.WTERMSIG(status)).name if killed else None,
        "at": time.time(),
    }
    staged = f"{path}.{os.getpid()}"
    with contextlib.suppress(OSError):
        with open(staged, "w") as file:  # noqa: PTH123  (pathlib would double the memory of this process)
            json.dump(record, file)
        os.replace(staged, path)


def drain_until_exit(pid: int, source: int, wakeup: int, log: RotatingLog) -> int:
    """Copy output into the log until the model has ended; returns its wait status."""
    watched = [source, wakeup]
    while True:
        readable, _, _ = select.select(watched, [], [])
        if source in readable:
            data = os.read(source, CHUNK)
            if data:
                log.write(data)
            else:
                watched.remove(source)
        if wakeup in readable:
            os.read(wakeup, 64)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status


def drain_rest(source: int, log: RotatingLog) -> None:
    """What is still in the pipe; a grandchild that keeps it open is not waited for."""
    deadline = time.monotonic() + DRAIN_AFTER_EXIT_S
    while (left := deadline - time.monotonic()) > 0 and select.select([source], [], [], left)[0]:
        data = os.read(source, CHUNK)
        if not data:
            return
        log.write(data)


def tell(line: str) -> None:
    # who started us may have been killed by now; the model is watched all the same
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def main(argv: list[str]) -> int:
    stamp, exit_record, log_path, max_bytes, files, _dashes, *command = argv
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    source, output = os.pipe()
    log = RotatingLog(log_path, int(max_bytes), int(files))
    try:
        pid = spawn(command, output)
    except OSError as error:
        tell(f"error {error}")
        return 127
    os.close(output)
    tell(f"pid {pid}")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    status = drain_until_exit(pid, source, woken, log)
    record_exit(exit_record, stamp, pid, status)
    drain_rest(source, log)
    log.write(f"\nmlxctl: process {pid} ended: {describe(status)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
