"""The state of a port: what a read makes of any file, how an end is told, and locks that a kill sets free."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.state import PHASES, READY, STOPPED, PortState, StateFolder, write_atomically
from mlxctl.core.errors import Conflict, MlxctlError

PORT = 8120


@pytest.fixture
def states(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def full() -> PortState:
    return PortState(
        port=PORT,
        phase=READY,
        wanted="up",
        model_id="mlx-a",
        repo_id="org/a",
        engine="mlx-lm",
        request_model="default_model",
        pid=4711,
        create_time=1763700000.25,
        shim_pid=4710,
        shim_create_time=1763700000.2,
        stamp="0f" * 16,
        argv=("server", "--model", "a folder"),
        log_path="/logs/mlx-8120.log",
        weight_bytes=1 << 40,
        started_at=1.5,
        ready_at=2.5,
        restarts=3,
        operation={"verb": "load", "by": 1},
        last_exit="SIGKILL",
        last_failure={"at": 1.0, "message": "died"},
    )


def test_what_is_written_is_read_back(states: StateFolder) -> None:
    assert states.write(full()) == full()
    assert states.read(PORT) == full()
    assert states.known() == {PORT: full()}
    identity = full().identity
    assert identity is not None
    assert (identity.pid, identity.create_time, identity.stamp) == (4711, 1763700000.25, "0f" * 16)
    assert [path.name for path in states.path(PORT).parent.iterdir()] == ["8120.json"]


def test_settle_changes_what_it_is_told_and_writes_it(states: StateFolder) -> None:
    settled = states.settle(full(), phase=STOPPED, pid=None)
    assert settled == states.read(PORT)
    assert (settled.phase, settled.identity, settled.model_id) == (STOPPED, None, "mlx-a")


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "null", '"8120"', "{}", '{"port": 8121, "pid": 1}', '{"port": "8120"}', "\udcff"],
)
def test_a_port_of_which_nothing_can_be_read_is_stopped(states: StateFolder, content: str | None) -> None:
    states.path(PORT).parent.mkdir(parents=True)
    if content is not None:
        states.path(PORT).write_bytes(content.encode(errors="surrogateescape"))
    assert states.read(PORT) == PortState(port=PORT)
    assert states.read(PORT).phase == STOPPED in PHASES


def test_fields_of_another_version_are_left_out(states: StateFolder) -> None:
    states.path(PORT).parent.mkdir(parents=True)
    states.path(PORT).write_text(json.dumps({"port": PORT, "pid": 7, "colour": "blue", "argv": None}))
    assert states.read(PORT) == PortState(port=PORT, pid=7)


def test_known_lists_states_and_nothing_else(states: StateFolder) -> None:
    assert states.known() == {}
    for port in (PORT, 8101):
        states.write(PortState(port=port))
    states.exit_record(PORT).write_text("{}")
    (states.root / "ports" / ".8122.json.staged").write_text("{}")
    (states.root / "ports" / "notes.json").write_text("{}")
    assert list(states.known()) == [8101, PORT]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"stamp": "mine", "code": 0, "signal": None}, "exit code 0"),
        ({"stamp": "mine", "code": 3, "signal": None}, "exit code 3"),
        ({"stamp": "mine", "code": None, "signal": "SIGSEGV"}, "SIGSEGV"),
        ({"stamp": "another start's", "code": 1, "signal": None}, None),
        ({"code": 1, "signal": None}, None),
        ({"stamp": "mine"}, None),
        ([], None),
        ("SIGKILL", None),
        (None, None),
    ],
)
def test_how_a_process_ended(states: StateFolder, record: Any, told: str | None) -> None:
    state = states.write(PortState(port=PORT, stamp="mine"))
    assert states.exit_of(state) is None, "nobody recorded an end"
    states.exit_record(PORT).write_text(json.dumps(record))
    assert states.exit_of(state) == told
    states.exit_record(PORT).write_text('{"stamp": "mi')
    assert states.exit_of(state) is None


@pytest.mark.parametrize(("name", "code"), [("8120", "port_busy"), ("mlx-a", "model_busy")])
def test_a_lock_has_one_holder(states: StateFolder, name: str, code: str) -> None:
    with states.lock(name, 1, "it"):
        begun = time.monotonic()
        with pytest.raises(Conflict) as caught, states.lock(name, 0.1, f"the thing {name}"):
            raise AssertionError("two at once")
        assert 0.1 <= time.monotonic() - begun < 2
        with states.lock("another", 0, "another"):
            pass
    assert (caught.value.code, caught.value.exit_code) == (code, 5)
    assert f"the thing {name}" in caught.value.message and caught.value.hint
    with states.lock(name, 0, "it"):
        pass


def test_a_lock_is_free_after_an_error_inside(states: StateFolder) -> None:
    with pytest.raises(ZeroDivisionError), states.lock("8120", 0, "it"):
        raise ZeroDivisionError
    with states.lock("8120", 0, "it"):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from mlxctl.control.state import StateFolder
with StateFolder(Path(sys.argv[1])).lock("8120", 5, "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_whose_holder_is_killed_is_free_at_once(states: StateFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(states.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict), states.lock("8120", 0.05, "it"):
            pass
        holder.kill()
        holder.wait()
        with states.lock("8120", 0.5, "it"):
            pass


@pytest.mark.parametrize("durable", [False, True])
def test_a_write_replaces_wholly_and_leaves_no_rubbish(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomically(path, "first", durable=durable)
    with path.open() as reader:
        write_atomically(path, "zweite ✓", durable=durable)
        assert reader.read() == "first", "who reads the old file reads it to its end"
    assert path.read_text(encoding="utf-8") == "zweite ✓"
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EROFS, "registry_read_only")]
)
@pytest.mark.parametrize(("module", "name"), [(tempfile, "mkstemp"), (os, "replace"), (os, "fdopen")])
def test_a_write_that_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int, code: str
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched, pytest.raises(MlxctlError) as caught:
        patched.setattr(module, name, refuse)
        write_atomically(path, "new")
    assert caught.value.code == code
    assert str(path) in caught.value.message
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
