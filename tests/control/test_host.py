"""Who is ours: identity, signals, stamps and listeners, on real processes; and whom we never signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxctl.control import host as host_module
from mlxctl.control.host import STAMP_VARIABLE, Identity, LocalHost
from mlxctl.control.listeners import Holder
from mlxctl.core.errors import NotReady
from tests.fakes.starter import FAMILY, LISTENER, LISTENING_CHILD, SLEEPER, STAMP, Starter, eventually, gone


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.clean()


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process that mlxctl did not start."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def signals() -> Iterator[list[tuple[str, int, int]]]:
    """Every signal that this process sends from here on; none is delivered. psutil sends through `os`, too."""
    sent: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patched:
        for name in ("kill", "killpg"):
            patched.setattr(os, name, lambda pid, number, name=name: sent.append((name, pid, number)))
        yield sent


def test_what_was_started_is_ours_with_its_stamp_and_in_a_session_of_its_own(starter: Starter) -> None:
    model, shim = starter.python(
        "import os, time; print(os.environ['MLXCTL_STAMP'], os.getcwd(), os.environ['MORE']); time.sleep(600)",
        MORE="more",
    )
    assert starter.host.is_alive(model)
    assert model.stamp == shim.stamp == STAMP
    assert len({os.getsid(0), os.getsid(model.pid), os.getsid(shim.pid)}) == 3
    assert psutil.Process(model.pid).ppid() == shim.pid
    assert 0 < starter.host.memory_bytes(model) < 1 << 30
    assert starter.host.signal_group(model, signal.SIGKILL)
    eventually(lambda: gone(model.pid))
    assert not starter.host.is_alive(model)
    assert starter.host.memory_bytes(model) == 0
    assert not starter.host.signal_group(model, signal.SIGKILL)
    eventually(lambda: gone(shim.pid))


def forgeries(model: Identity, stranger: int) -> dict[str, Identity]:
    created = psutil.Process(stranger).create_time()
    return {
        "a pid that was given to another process since": replace(model, create_time=model.create_time - 60),
        "a start in the next second": replace(model, create_time=model.create_time + 1),
        "another stamp": replace(model, stamp="another"),
        "no stamp": replace(model, stamp=""),
        "a stranger's pid": replace(model, pid=stranger),
        "a stranger with his own create time": Identity(stranger, created, STAMP),
        "a stranger, and no stamp": Identity(stranger, created, ""),
        "ourselves": Identity(os.getpid(), psutil.Process().create_time(), STAMP),
        "init": Identity(1, psutil.Process(1).create_time(), STAMP),
        "our own group": Identity(0, 0.0, STAMP),
        "everybody": Identity(-1, 0.0, STAMP),
        "a group": Identity(-model.pid, model.create_time, STAMP),
        "a pid that nobody has": Identity(4_190_000, model.create_time, STAMP),
        "no pid of any system": Identity(1 << 70, model.create_time, STAMP),
    }


FORGERIES = tuple(forgeries(Identity(os.getpid(), 0.0, ""), os.getpid()))


@pytest.mark.parametrize("which", FORGERIES)
def test_nobody_is_signalled_who_fails_one_of_the_three(
    starter: Starter, stranger: int, signals: list[tuple[str, int, int]], which: str
) -> None:
    model, _ = starter.python(SLEEPER)
    forged = forgeries(model, stranger)[which]
    assert not starter.host.is_alive(forged)
    assert not starter.host.signal_group(forged, signal.SIGKILL)
    assert starter.host.memory_bytes(forged) == 0
    assert not starter.host.owns_listener(forged, 8120)
    assert signals == []
    assert starter.host.signal_group(model, signal.SIGTERM)
    assert signals == [("killpg", model.pid, signal.SIGTERM)], "the wrapper does see what is sent"


def test_a_zombie_is_dead(starter: Starter) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"], env={**os.environ, STAMP_VARIABLE: STAMP})
    identity = Identity(child.pid, psutil.Process(child.pid).create_time(), STAMP)
    eventually(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not starter.host.is_alive(identity)
    assert not starter.host.signal_group(identity, signal.SIGKILL)
    child.wait()
    assert not starter.host.is_alive(identity)


def test_a_signal_reaches_children_in_sessions_of_their_own_and_spares_the_shim(starter: Starter) -> None:
    model, shim = starter.python(FAMILY)
    near, far = starter.told("family")
    assert os.getpgid(near) == model.pid != os.getpgid(far)
    assert sorted(starter.host.stamped(STAMP)) == sorted([model.pid, near, far]), (
        "the shim carries it, too, but is none"
    )
    alone = psutil.Process(model.pid).memory_info().rss
    assert starter.host.memory_bytes(model) > 2 * alone
    assert starter.host.signal_group(model, signal.SIGTERM)
    eventually(lambda: gone(near) and gone(far) and gone(model.pid))
    eventually(lambda: (starter.folder / "exit.json").exists())
    assert '"SIGTERM"' in (starter.folder / "exit.json").read_text()
    eventually(lambda: gone(shim.pid))
    assert starter.host.stamped(STAMP) == []


def test_a_grandchild_that_outlived_its_parent_is_found_by_its_stamp(starter: Starter) -> None:
    model, _ = starter.python(FAMILY)
    near, far = starter.told("family")
    os.killpg(model.pid, signal.SIGKILL)
    eventually(lambda: gone(model.pid) and gone(near))
    assert starter.host.stamped(STAMP) == [far]
    assert starter.host.stamped("another") == []
    assert psutil.Process(far).ppid() != model.pid


@pytest.mark.parametrize("code", [LISTENER, LISTENING_CHILD], ids=["itself", "a child"])
def test_a_listener_of_the_family_is_its_own(starter: Starter, code: str) -> None:
    model, _ = starter.python(code)
    (port,) = starter.told("port")
    assert starter.host.owns_listener(model, port)
    assert starter.host.is_listening(port, "127.0.0.1")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        other = stranger.getsockname()[1]
        assert not starter.host.owns_listener(model, other)
        assert starter.host.holder(other) == Holder(os.getpid(), psutil.Process().name())
    starter.host.signal_group(model, signal.SIGKILL)
    eventually(lambda: not starter.host.is_listening(port, "127.0.0.1"))
    assert starter.host.holder(port) is None


@pytest.mark.parametrize("argv", [("no-such-engine", "--port", "1"), ("/no/such/engine",), ("/",)])
def test_what_cannot_be_started_is_a_clear_error(starter: Starter, argv: tuple[str, ...]) -> None:
    with pytest.raises(NotReady) as caught:
        starter.host.spawn(starter.launch(*argv))
    assert caught.value.code == "no_engine"
    assert caught.value.message.startswith(f"cannot start {argv[0]}: {argv[0]}: ")
    assert "MLX_LAUNCH_CMD" in caught.value.hint
    assert starter.host.stamped(STAMP) == []
    assert not (starter.folder / "exit.json").exists()


def test_a_model_that_ends_at_once_has_an_identity_that_nobody_fits(starter: Starter) -> None:
    model, _ = starter.python("import os; os._exit(9)")
    eventually(lambda: (starter.folder / "exit.json").exists())
    assert not starter.host.is_alive(model)


STARTER = """
import sys, time
from pathlib import Path
from tests.fakes.starter import SLEEPER, Starter
model, shim = Starter(Path(sys.argv[1])).python(SLEEPER)
print(model.pid, shim.pid, model.create_time, flush=True)
time.sleep(600)
"""


def test_a_model_outlives_the_command_that_started_it(starter: Starter) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(starter.folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert command.stdout is not None
    with command.stdout:
        pid, shim, created = command.stdout.readline().split()
    command.kill()
    command.wait()
    model = Identity(int(pid), float(created), STAMP)
    assert starter.host.is_alive(model), "another process finds it by the same identity"
    assert not gone(int(shim))
    assert starter.host.signal_group(model, signal.SIGTERM)
    eventually(lambda: (starter.folder / "exit.json").exists())


def test_where_environments_are_hidden_the_shim_vouches(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS may refuse to show another process's environment; the stamp is in the shim's arguments."""
    model, _ = starter.python(SLEEPER)

    def hidden(process: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "environ", hidden)
    assert starter.host.is_alive(model)
    assert not starter.host.is_alive(replace(model, stamp="another"))
    assert not starter.host.is_alive(Identity(os.getpid(), psutil.Process().create_time(), STAMP))


@pytest.mark.parametrize(
    ("limit", "used", "room"),
    [
        ("max", "5", None),
        ("100", "30", 70),
        ("100", "130", 0),
        (None, None, None),
    ],
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, used: str | None, room: int | None
) -> None:
    for name, value in (("memory.max", limit), ("memory.current", used)):
        if value is not None:
            (tmp_path / name).write_text(value + "\n")
    monkeypatch.setattr(host_module, "Path", lambda _: tmp_path)
    whole = int(psutil.virtual_memory().total)
    available = LocalHost().available_memory()
    assert available == room if room is not None else 0 < available <= whole


def test_the_clock_and_the_pause(starter: Starter) -> None:
    host: Any = starter.host
    assert abs(host.now() - time.time()) < 1
    begun = host.monotonic()
    host.sleep(0.02)
    assert host.monotonic() - begun >= 0.02
