"""Starts Python under the real shim, and waits for what its processes come to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from mlxctl.control.host import STAMP_VARIABLE, Identity, Launch, LocalHost

STAMP = "stamp-of-this-test"
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
FAMILY = f"""
import subprocess, sys, time
near = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])
far = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)
print('family', near.pid, far.pid, flush=True)
time.sleep(600)
"""
LISTENER = """
import socket, time
server = socket.socket()
server.bind(('127.0.0.1', 0))
server.listen()
print('port', server.getsockname()[1], flush=True)
time.sleep(600)
"""
LISTENING_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTENER!r}])"


def eventually(true: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Starter:
    """Starts Python under the real shim, and ends at the close of the test what is left of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = LocalHost()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def launch(self, *argv: str, stamp: str = STAMP, **env: str) -> Launch:
        return Launch(
            argv=argv,
            env={"PATH": os.environ["PATH"], **env},
            cwd=self.folder,
            stamp=stamp,
            exit_record=self.folder / "exit.json",
            log_path=self.log,
            log_max_bytes=1 << 20,
            log_files=1,
        )

    def python(self, code: str, **more: str) -> tuple[Identity, Identity]:
        return self.host.spawn(self.launch(sys.executable, "-c", code, **more))

    def told(self, word: str) -> list[int]:
        """The numbers that the started program wrote after `word`."""
        eventually(lambda: self.log.exists() and word in self.log.read_text())
        line = next(line for line in self.log.read_text().splitlines() if line.startswith(word))
        return [int(number) for number in line.split()[1:]]

    def clean(self) -> None:
        for process in psutil.process_iter():
            try:
                if process.environ().get(STAMP_VARIABLE) == STAMP:
                    process.kill()
            except (psutil.Error, OSError):
                continue
