"""A process that forks a fresh registry writer on demand, so that each save can be traced, broken or killed alone.

Run as `python -m tests.fakes.writer REGISTRY BASE`. It answers each line `fork` on standard input with `pid N`; the
child N waits in a `select`, so that a tracer can attach, then registers the model `mlx-new` in one transaction. On the
line `go` the child is let loose and its end is told: `exit CODE`, or `signal N`. The code is that of the `MlxctlError`
that stopped the save, or 1 for any other exception, which is then told on standard error.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
from pathlib import Path

from mlxctl.control.store import RegistryStore
from mlxctl.core.errors import MlxctlError
from mlxctl.core.ports import Ports
from mlxctl.core.registry import ModelEntry, Registry

DONE = 0
NEW = ModelEntry(repo_id="org/new", model_id="mlx-new", cache_path="/models/new", context_length=4096)
PR_SET_PTRACER, PTRACER_ANY = 0x59616D61, -1


class Writer:
    """The test's end of the conversation."""

    def __init__(self, registry: Path, base: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.writer", str(registry), str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=Path(__file__).parents[2],
        )

    def fork(self) -> int:
        """The pid of a writer that has everything imported and waits."""
        return int(self._ask("fork")[1])

    def go(self) -> tuple[str, int]:
        """How the save ended: ("exit", code) or ("signal", number)."""
        how, number = self._ask("go")
        return how, int(number)

    def _ask(self, word: str) -> list[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        return self.process.stdout.readline().split()

    def close(self) -> str:
        """End it; returns what was told on standard error."""
        _, told = self.process.communicate(timeout=30)
        return told


def register_new(registry: Registry) -> Registry:
    return registry.with_entry(NEW)


def save(store: RegistryStore) -> int:
    try:
        store.update(register_new)
    except MlxctlError as error:
        return error.exit_code
    return DONE


def allow_tracing() -> None:
    """Where only ancestors may trace a process (Yama), let any process of this user do so."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PTRACER_ANY, 0, 0, 0)


def fork_writer(store: RegistryStore) -> tuple[int, int]:
    """(pid, the descriptor on which the child waits for a byte)."""
    (awaited, release), (told, tell) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(awaited)
        os.close(tell)
        os.read(told, 1)
        os.close(told)
        return pid, release
    os.close(release)
    os.close(told)
    allow_tracing()
    os.close(tell)
    # not `read`: a save reads, too, and this call is none of its calls
    select.select([awaited], [], [])
    os._exit(save(store))


def main(argv: list[str]) -> None:
    path, base = argv
    # what a save imports late is imported now, so that a trace shows the save alone
    RegistryStore(Path(path).with_name("warm") / "registry.json", Ports(int(base))).update(register_new)
    store = RegistryStore(Path(path), Ports(int(base)))
    pid = release = 0
    for line in sys.stdin:
        if line.strip() == "fork":
            pid, release = fork_writer(store)
            print(f"pid {pid}", flush=True)
            continue
        os.write(release, b".")
        os.close(release)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(f"signal {-code}" if code < 0 else f"exit {code}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
