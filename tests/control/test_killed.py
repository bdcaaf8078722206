"""A command that is killed without a chance to clean up: `status` tells what is true, and the next command heals it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mlxctl.control.commands.reconcile import reconcile
from mlxctl.control.commands.status import status
from mlxctl.control.commands.unload import unload, unload_all
from mlxctl.control.store import RegistryStore
from tests.fakes.home import Home
from tests.fakes.story import (
    FaultyHost,
    alive,
    assigned,
    bring_up,
    is_free,
    kill,
    nothing_left,
    processes_of,
    rows,
    serving,
    state,
    until,
)


def killed_while_loading(home: Home, model: str, offset: int) -> None:
    """`load` dies by SIGKILL while the model is loading; the model goes on."""
    load = home.with_engine("--listen-after", "0.5").start("load", model, str(home.base + offset))
    until(lambda: state(home, offset).model_id == model and alive(home, offset), "the load has begun")
    os.kill(load.pid, signal.SIGKILL)
    load.communicate()


def killed_before_commit(home: Home, model: str, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` ends between proof and commit, as after SIGKILL: no rollback, its locks free."""

    class Killed(BaseException):
        pass

    def never(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RegistryStore, "update", never)
        patch.setattr("mlxctl.control.transition._roll_back", lambda *_: None)
        with pytest.raises(Killed):
            bring_up(home, model, offset)


def test_a_load_killed_before_its_model_is_ready(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    killed_while_loading(home, "mlx-a", 20)
    row = rows(home)[20]
    assert (row["model_id"], row["pid"]) == ("mlx-a", state(home, 20).pid)
    assert any("no finished command put there" in told for told in status(home.site()).messages)
    findings = reconcile(home.site()).data["findings"]
    assert [(found["port"] - home.base, found["kind"], found["action"]) for found in findings] == [
        (20, "leftover", "none")
    ]
    assert alive(home, 20)


@pytest.mark.parametrize("word", ["auto", 20])
def test_the_same_load_again_heals(home: Home, word: str | int) -> None:
    home = home.with_engine()
    home.model("a")
    killed_while_loading(home, "mlx-a", 20)
    healed = bring_up(home, "mlx-a", word)
    assert processes_of(home) == [healed.data["pid"]]
    assert serving(home) == assigned(home) == {20: "mlx-a"}


@pytest.mark.parametrize("flag", ["apply", "heal"])
def test_reconcile_ends_what_a_killed_load_left(home: Home, flag: str) -> None:
    home = home.with_engine()
    home.model("a")
    killed_while_loading(home, "mlx-a", 20)
    (found,) = reconcile(home.site(), **{flag: True}).data["findings"]
    assert found["action"] == "stop"
    nothing_left(home, 20)
    assert reconcile(home.site()).data["findings"] == []


@pytest.mark.parametrize("all_ports", [False, True])
def test_unload_ends_what_a_killed_load_left(home: Home, all_ports: bool) -> None:
    home = home.with_engine()
    home.model("a")
    killed_while_loading(home, "mlx-a", 20)
    if all_ports:
        unload_all(home.site())
    else:
        assert unload(home.site(), str(home.base + 20)).data["model_id"] == "mlx-a"
    nothing_left(home, 20)


def test_a_replace_killed_before_its_model_is_ready_is_healed_to_the_old_one(home: Home) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    killed_while_loading(home, "mlx-new", 0)
    assert rows(home)[0]["model_id"] == "mlx-new"
    assert assigned(home) == {0: "mlx-old"}
    reconcile(home.site(), heal=True)
    assert serving(home) == assigned(home) == {0: "mlx-old"}
    assert len(processes_of(home)) == 1


def test_a_load_killed_between_ready_and_commit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home.with_engine()
    home.model("a")
    killed_before_commit(home, "mlx-a", 20, monkeypatch)
    row = rows(home)[20]
    assert (row["phase"], row["model_id"]) == ("ready", "mlx-a")
    assert assigned(home) == {}
    assert [found["kind"] for found in reconcile(home.site()).data["findings"]] == ["leftover"]
    pid = row["pid"]
    assert bring_up(home, "mlx-a").data["pid"] == pid
    assert assigned(home) == {20: "mlx-a"}
    assert reconcile(home.site()).data["findings"] == []


def test_a_replace_killed_between_ready_and_commit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    killed_before_commit(home, "mlx-new", 0, monkeypatch)
    assert (rows(home)[0]["model_id"], assigned(home)) == ("mlx-new", {0: "mlx-old"})
    reconcile(home.site(), apply=True)
    assert serving(home) == assigned(home) == {0: "mlx-old"}


def test_a_load_killed_before_it_could_note_its_process(home: Home) -> None:
    """SIGKILL between the spawn and the next write: the stamp alone tells that the process is ours."""
    home = home.with_engine()
    home.model("a")

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    site = home.site(host=FaultyHost(after_spawn=die))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxctl.control.transition._roll_back", lambda *_: None)
        with pytest.raises(Killed):
            bring_up(home, "mlx-a", 20, site=site)
    until(lambda: not is_free(home.base + 20), "it listens")
    assert rows(home)[20]["stranger"] is None
    healed = bring_up(home, "mlx-a", 20)
    assert processes_of(home) == [healed.data["pid"]]
    assert serving(home) == assigned(home) == {20: "mlx-a"}


def test_a_server_that_was_killed_is_told_with_its_cause(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 20)
    kill(home, 20)
    row = rows(home)[20]
    assert (row["phase"], row["model_id"], row["last_exit"], row["pid"]) == ("failed", "mlx-a", "SIGKILL", None)
    assert (row["memory_bytes"], row["uptime_s"], row["stranger"]) == (None, None, None)
    (told,) = status(home.site()).messages
    assert told == (
        f"mlx-a on port {home.base + 20} is down (SIGKILL): `mlxctl load mlx-a {home.base + 20}` starts it again"
    )


def wrapped(home: Home) -> Home:
    """The engine behind a wrapper that stays above it, as `uv run` does."""
    script = home.root / "wrapper.py"
    script.write_text("import subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)\n")
    engine = home.with_engine().environ["MLX_LAUNCH_CMD"]
    return Home(home.root, home.base, {"MLX_LAUNCH_CMD": f"{sys.executable} {script} {engine}"})


def test_a_server_behind_a_wrapper_is_stopped_with_it(home: Home) -> None:
    home = wrapped(home)
    home.model("a")
    bring_up(home, "mlx-a", 20)
    assert len(processes_of(home)) == 2
    unload(home.site(), "mlx-a")
    nothing_left(home, 20)


@pytest.mark.parametrize("how", ["load", "restart", "unload"])
def test_a_wrapper_that_is_killed_leaves_a_server_that_is_still_ours(home: Home, how: str) -> None:
    home = wrapped(home)
    home.model("a")
    bring_up(home, "mlx-a", 20)
    kill(home, 20)
    assert not is_free(home.base + 20), "the server behind the wrapper goes on"
    row = rows(home)[20]
    assert (row["phase"], row["stranger"]) == ("failed", None)
    if how == "unload":
        unload(home.site(), "mlx-a")
        nothing_left(home, 20)
        return
    if how == "load":
        bring_up(home, "mlx-a")
    else:
        assert [found["action"] for found in reconcile(home.site(), heal=True).data["findings"]] == ["restart"]
    assert serving(home) == assigned(home) == {20: "mlx-a"}
    assert len(processes_of(home)) == 2


def test_an_unload_that_is_killed_can_be_repeated(home: Home) -> None:
    home = home.with_engine("--drain", "0.5")
    home.model("a")
    bring_up(home, "mlx-a", 20)
    unloading = home.start("unload", "mlx-a")
    until(lambda: state(home, 20).phase == "draining", "it stops")
    # the signal follows what is written; the server drains for longer than that takes
    time.sleep(0.2)
    os.kill(unloading.pid, signal.SIGKILL)
    unloading.communicate()
    until(lambda: not alive(home, 20), "it has stopped")
    assert rows(home)[20]["phase"] != "ready"
    assert home.run("unload", "mlx-a").code == 0
    assert assigned(home) == {}
    nothing_left(home, 20)


def test_a_stranger_who_took_a_dead_models_port_is_never_signalled(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 20)
    kill(home, 20)
    port = str(home.base + 20)
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            row = rows(home)[20]
            assert f"(pid {other.pid})" in row["stranger"]
            assert home.run("load", "mlx-a", port, "--json", "--force").error["code"] == "port_taken"
            assert [found["action"] for found in reconcile(home.site(), heal=True).data["findings"]] == ["none"]
            assert [found["kind"] for found in reconcile(home.site(), apply=True).data["findings"]] == ["stranger"]
            unloaded = home.run("unload", port, "--json")
            assert unloaded.code == 0
            assert any(f"(pid {other.pid})" in told for told in unloaded.json["messages"])
            assert other.poll() is None
        finally:
            other.kill()
    assert assigned(home) == {}
