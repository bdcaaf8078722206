"""Stands between mlxctl and one model: drains and rotates its output, records how it ended, restarts nothing.

Run as `python -I -S shim.py STAMP EXIT_RECORD LOG MAX_BYTES FILES -- ARGV…` in a session of its own, with the standard
library alone, so that it costs little and survives whoever started it. The model gets a second session. The first
line on standard output is `pid N`, or `error TEXT` when ARGV cannot be executed.

The exit record is JSON, written by rename: {"stamp", "pid", "code", "signal", "at"}; one of code and signal is null.
"""

# the module below `signal`, without its enumerations: importing those takes longer than starting the model
import _signal  # type: ignore[import-not-found]
import os
import select
import sys
import time

STOPPING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGPIPE)
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
        if self.fd >= 0:
            os.close(self.fd)
        for number in range(self.files - 1, 0, -1):
            rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        rename(self.path, f"{self.path}.1")
        self._open()


def rename(old: str, new: str) -> None:
    try:
        os.replace(old, new)
    except OSError:
        return


def spawn(argv: list[str], output: int) -> int:
    """The pid of `argv` in a new session, its output into `output`. Raises `OSError` when it cannot be executed."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            for number in STOPPING:
                _signal.signal(number, _signal.SIG_DFL)
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


def signal_name(status: int) -> str | None:
    import signal

    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None


def describe(status: int) -> str:
    return signal_name(status) or f"exit code {os.waitstatus_to_exitcode(status)}"


def record_exit(path: str, stamp: str, pid: int, status: int) -> None:
    """Written without the json module, which would double what this process weighs: nothing here needs escaping."""
    name = signal_name(status)
    cause = (
        f'"code": null, "signal": "{name}"' if name else f'"code": {os.waitstatus_to_exitcode(status)}, "signal": null'
    )
    staged = f"{path}.{os.getpid()}"
    try:
        with open(staged, "w") as file:  # noqa: PTH123  (pathlib is another megabyte)
            file.write(f'{{"stamp": "{stamp}", "pid": {pid}, {cause}, "at": {time.time()}}}')
    except OSError:
        return
    rename(staged, path)


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
    try:
        os.write(1, f"{line}\n".encode())
    except BrokenPipeError:
        # who started us may have been killed by now; the model is watched all the same
        return


def main(argv: list[str]) -> int:
    stamp, exit_record, log_path, max_bytes, files, _dashes, *command = argv
    for number in STOPPING:
        _signal.signal(number, _signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
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
