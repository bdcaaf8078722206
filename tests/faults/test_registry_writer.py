"""Fault F11: a registry writer that is killed, or refused by the disk, at every single system call of one save.

strace attaches to a writer that is about to begin and strikes at the N-th call of one kind, for every kind and every N
that a save makes. A kill comes before the call is carried out; the kill at the next call is the one after it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxctl.control import store as store_module
from mlxctl.control.store import GENERATIONS, RegistryStore
from mlxctl.core.errors import Refused, RegistryUnreadable
from mlxctl.core.ports import Ports
from mlxctl.core.registry import ModelEntry, Registry, parse_registry
from tests.fakes.writer import DONE, Writer, register_new
from tests.parts import absent

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or bool(absent("strace")), reason="absent: strace (make test-deps installs it)"
)

OLD = Registry({"mlx-old": ModelEntry(repo_id="org/old", model_id="mlx-old", cache_path="/models/old")})
WAITING = ("select", "pselect6")
"""In one of these the writer waits to be let loose."""
NEVER_REFUSED = ("getpid", "exit_group")
ERRNOS = ("EIO", "ENOSPC")


class Trial:
    """One registry that is saved again and again, each time with another misfortune."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = RegistryStore(folder / "registry.json", Ports())
        for number in range(GENERATIONS + 1):
            entry = ModelEntry(repo_id="org/a", model_id="mlx-a", cache_path=f"/models/{number}")
            self.store.update(lambda registry, entry=entry: registry.with_entry(entry))
        self.writer = Writer(self.store.path, Ports().base)

    def reset(self) -> bytes:
        """Back to the old registry; this is at the same time the update that has to work after every misfortune."""
        self.store.update(lambda _: OLD)
        assert len(list(self.store.backups.glob("[0-9]*.json"))) == GENERATIONS
        return self.store.path.read_bytes()

    def strike(self, *options: str) -> tuple[str, int]:
        """How a save ends under `strace OPTIONS`."""
        pid = self.writer.fork()
        with subprocess.Popen(
            ["strace", "-qq", "-o", str(self.folder / "trace"), *options, "-p", str(pid)], stderr=subprocess.DEVNULL
        ) as tracer:
            deadline = time.monotonic() + 10
            while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
                assert tracer.poll() is None and time.monotonic() < deadline, "strace did not attach"
                time.sleep(0.001)
            return self.writer.go()

    def calls(self) -> Counter[str]:
        """Every system call that one save makes, and how often."""
        self.reset()
        assert self.strike() == ("exit", DONE)
        names = re.findall(r"^(\w+)\(", (self.folder / "trace").read_text(), re.MULTILINE)
        return Counter(name for name in names if name not in WAITING)

    def temporary_files(self) -> list[str]:
        return [path.name for path in self.folder.rglob(".*.json.*")]


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 2.0)
    trial = Trial(tmp_path)
    yield trial
    told = trial.writer.close()
    assert told == ""


def test_a_save_makes_the_calls_that_make_it_safe(trial: Trial) -> None:
    """The order that the kills below rely on: content on the disk, then the name, then the folder on the disk."""
    trial.reset()
    trial.strike("-y", "-e", "trace=flock,fsync,rename,renameat,renameat2")
    path = re.escape(str(trial.store.path))
    lines = [
        line for line in (trial.folder / "trace").read_text().splitlines() if "(" in line and "backups" not in line
    ]
    expected = [
        r"flock\(\d+<.*registry.lock>, LOCK_EX",
        r"fsync\(\d+<.*/\.registry\.json\.\w+>\)",
        rf'rename\w*\(.*registry\.json\.\w+", .*"{path}"',
        rf"fsync\(\d+<{re.escape(str(trial.folder))}>\)",
        r"flock\(\d+<.*registry.lock>, LOCK_UN",
    ]
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.match(pattern, line), line


def test_killed_at_every_system_call_the_registry_is_old_or_new(trial: Trial) -> None:
    old = trial.reset()
    new = register_new(OLD).text().encode()
    found: Counter[bytes] = Counter()
    for name, times in trial.calls().items():
        for number in range(1, times + 1):
            assert trial.reset() == old
            ended = trial.strike("-e", f"inject={name}:signal=KILL:when={number}")
            assert ended == ("signal", signal.SIGKILL), f"{name} {number} was not reached"
            content = trial.store.path.read_bytes()
            assert content in (old, new), f"torn by a kill at {name} {number}"
            parse_registry(content.decode(), "")
            found[content] += 1
            # the update of a stranger: the lock is free, and what the dead writer left is in nobody's way
            after = trial.store.update(lambda registry: registry.assign("mlx-old", 8100))
            assert set(after.models) == set(parse_registry(content.decode(), "").models)
            assert len(trial.store.generations()) <= GENERATIONS
    assert found[old] > 30 and found[new] > 5, found


def test_a_kill_leaves_temporary_files_that_nobody_takes_for_a_generation(trial: Trial) -> None:
    trial.reset()
    trial.strike("-e", "inject=fsync:signal=KILL:when=1")
    assert len(trial.temporary_files()) == 1
    numbers = [generation.number for generation in trial.store.generations()]
    assert numbers == sorted(numbers) and len(numbers) == GENERATIONS
    trial.store.restore(None)


@pytest.mark.parametrize("error", ERRNOS)
def test_refused_at_every_system_call_the_registry_is_old_or_new(trial: Trial, error: str) -> None:
    """Every call may fail: the writer says so in one clear error, or did without it; it leaves no rubbish behind."""
    old = trial.reset()
    new = register_new(OLD).text().encode()
    outcomes: Counter[tuple[str, int]] = Counter()
    calls = trial.calls()
    for name in calls.keys() - set(NEVER_REFUSED):
        for number in range(1, calls[name] + 1):
            assert trial.reset() == old
            ended = trial.strike("-e", f"inject={name}:error={error}:when={number}")
            what = f"{error} at {name} {number}: {ended}"
            assert ended[0] == "exit" and ended[1] in (DONE, Refused.exit_code, RegistryUnreadable.exit_code), what
            content = trial.store.path.read_bytes()
            assert content == (new if ended[1] == DONE else old), what
            assert trial.temporary_files() == [], what
            outcomes[name, ended[1]] += 1
    refused = Refused.exit_code if error == "ENOSPC" else RegistryUnreadable.exit_code
    assert outcomes["write", refused] == 2, outcomes
    assert outcomes["rename", refused] == 2, outcomes
    assert outcomes["fsync", refused] >= 1, outcomes
