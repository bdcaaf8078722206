"""A measured process: in a group of its own, stopped in its tracks while another is measured, and gone at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.worker.model import ROOT
from mlxctl.control.backend import blas_environment

TERM_WAIT_S = 15.0


class SideFailed(Exception):
    """A side could not be started, or gave no answer. Its rows say "not measured"; the others go on."""


class Process:
    """Paused processes keep their memory and sockets and take no time, so that no side has to load its model twice."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], log: Path, *, talks: bool = False) -> None:
        self._log = log
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                [*argv],
                env=dict(environ),
                cwd=ROOT,
                stdin=pipe,
                stdout=pipe if talks else out,
                stderr=out,
                start_new_session=True,
                text=True,
            )

    @property
    def stdin(self) -> IO[str]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[str]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    def wait(self, timeout_s: float) -> int:
        return self._popen.wait(timeout_s)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(TERM_WAIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._popen.wait()
            for pipe in (self._popen.stdin, self._popen.stdout):
                if pipe is not None:
                    pipe.close()

    def check(self) -> None:
        """Raises `SideFailed` with the end of its log when it has exited."""
        code = self._popen.poll()
        if code is not None:
            raise SideFailed(f"exited with {code}: {self.last_words()}")

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-4:])[-600:]

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            return


def environment(scratch: Path, threads: int, *, preload: bool) -> dict[str, str]:
    """Offline, one scratch folder for caches, and OpenBLAS with the same number of threads on every side."""
    hub = scratch / "huggingface"
    (hub / "hub").mkdir(parents=True, exist_ok=True)  # mlx_lm.server's /v1/models fails without it
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environ |= {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": str(threads)}
    return environ | (blas_environment() if preload else {})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
