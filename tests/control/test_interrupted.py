"""Ctrl-C, SIGTERM and a closed SSH session in the middle of a load: exit 130, nothing left, the old one serves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from mlxctl.control.signals import STOPPING, came_too_late, held_back
from mlxctl.control.store import RegistryStore
from mlxctl.core.registry import Registry
from tests.fakes.home import Home
from tests.fakes.story import (
    FaultyHost,
    alive,
    assigned,
    bring_up,
    nothing_left,
    processes_of,
    rows,
    serving,
    state,
    until,
)
from tests.fakes.terminal import CTRL_C, Terminal

QUIET = {"PYTHONWARNINGS": "ignore"}
"""An interrupted call leaves a socket to the garbage collector, which is no concern of the person at the terminal."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def slow(home: Home, seconds: float = 5) -> Home:
    return home.with_engine("--listen-after", str(seconds), "--only", "slow")


def loading(home: Home, offset: int) -> subprocess.Popen[str]:
    """`mlxctl load mlx-slow`, at the moment when its server is up but does not listen yet."""
    load = slow(home).start("load", "mlx-slow", str(home.base + offset))
    until(lambda: state(home, offset).model_id == "mlx-slow" and alive(home, offset), "the load has begun")
    return load


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_first_load(home: Home, number: signal.Signals) -> None:
    home.model("slow")
    load = loading(home, 20)
    load.send_signal(number)
    out, err = load.communicate(timeout=20)
    assert (load.returncode, out) == (130, "")
    assert err.count("error:") == err.count("next:") == 1, err
    assert "interrupted" in err
    nothing_left(home, 20)
    assert assigned(home) == {}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_replace(home: Home, number: signal.Signals) -> None:
    home.model("slow")
    home.model("old")
    bring_up(slow(home), "mlx-old", 0)
    before = home.registry_path.read_bytes()
    load = loading(home, 0)
    load.send_signal(number)
    _out, err = load.communicate(timeout=20)
    assert load.returncode == 130
    assert f"next:  mlx-old serves on port {home.base} again" in err
    assert serving(home) == {0: "mlx-old"}
    assert home.registry_path.read_bytes() == before
    assert len(processes_of(home)) == 1


def test_a_second_ctrl_c_does_not_stop_the_rollback(home: Home) -> None:
    home.model("slow")
    home.model("old")
    bring_up(home.with_engine("--drain", "0.4", "--only", "slow"), "mlx-old", 0)
    stubborn = home.with_engine("--listen-after", "5", "--ignore-term", "--only", "slow", MLXCTL_STOP_GRACE_S="1")
    load = stubborn.start("load", "mlx-slow", str(home.base), "--json")
    log = home.root / "state" / "logs" / f"mlx-{home.base}.log"
    until(lambda: "models/slow" in log.read_text(), "the engine is up")
    time.sleep(0.1)
    load.send_signal(signal.SIGINT)
    until(lambda: state(home, 0).phase == "draining", "the rollback has begun")
    for number in (*SIGNALS, *SIGNALS):
        load.send_signal(number)
        time.sleep(0.05)
    told = load.communicate(timeout=20)
    assert load.returncode == 130, told
    assert serving(home) == assigned(home) == {0: "mlx-old"}, told


def test_an_interruption_while_the_old_model_drains(home: Home) -> None:
    home.model("old")
    home.model("new")
    draining = home.with_engine("--drain", "0.7", "--only", "old")
    bring_up(draining, "mlx-old", 0)
    load = draining.start("load", "mlx-new", str(home.base))
    until(lambda: state(home, 0).phase == "draining", "the old one drains")
    load.send_signal(signal.SIGINT)
    load.communicate(timeout=20)
    assert load.returncode == 130
    assert serving(home) == assigned(home) == {0: "mlx-old"}
    assert len(processes_of(home)) == 1


def test_ctrl_c_at_any_moment_leaves_all_or_nothing(home: Home) -> None:
    """Fifteen loads, each interrupted at a random moment between the first lock and the end."""
    home = home.with_engine()
    home.model("a")
    moments = random.Random(7)
    outcomes = []
    for _ in range(15):
        lock = home.root / "state" / "locks" / "mlx-a.lock"
        lock.unlink(missing_ok=True)
        load = home.start("load", "mlx-a", "auto", **QUIET)
        until(lock.exists, "the load has begun")
        time.sleep(moments.uniform(0, 0.35))
        load.send_signal(signal.SIGINT)
        _out, err = load.communicate(timeout=20)
        assert "Traceback" not in err, err
        # a Ctrl-C after the commit finds the load done, and still ends the command
        done = bool(assigned(home))
        assert load.returncode in ((0, 130) if done else (130,)), err
        outcomes.append(done)
        assert serving(home) == assigned(home) == ({20: "mlx-a"} if done else {}), (load.returncode, err)
        assert len(processes_of(home)) == done, err
        if done:
            assert home.run("unload", "mlx-a").code == 0
    assert not all(outcomes)


def test_ctrl_c_on_a_terminal(home: Home) -> None:
    home.model("slow")
    home.model("old")
    bring_up(slow(home), "mlx-old", 0)
    with Terminal.run(slow(home), "load", "mlx-slow", str(home.base), **QUIET) as terminal:
        terminal.wait_for("Waiting for mlx-slow to answer")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
        assert "mlx-old serves on port" in terminal.shown
        assert "Traceback" not in terminal.shown
    assert serving(home) == {0: "mlx-old"}


def test_a_closed_ssh_session(home: Home) -> None:
    """The terminal is gone: nothing can be printed any more, and the old model still comes back."""
    home.model("slow")
    home.model("old")
    bring_up(slow(home), "mlx-old", 0)
    with Terminal.run(slow(home), "load", "mlx-slow", str(home.base)) as terminal:
        terminal.wait_for("Waiting for mlx-slow to answer")
        terminal.hang_up()
        terminal.child.wait(20)
    assert serving(home) == assigned(home) == {0: "mlx-old"}
    assert len(processes_of(home)) == 1


def test_nohup_is_honoured(home: Home) -> None:
    home.model("slow")
    environ = slow(home, 0.7)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        load = environ.start("load", "mlx-slow", str(home.base))
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: state(home, 0).model_id == "mlx-slow" and alive(home, 0), "the load has begun")
    load.send_signal(signal.SIGHUP)
    load.communicate(timeout=20)
    assert load.returncode == 0
    assert serving(home) == {0: "mlx-slow"}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_who_leaves_does_not_stop_a_load(home: Home, stream: str) -> None:
    home.model("slow")
    load = slow(home, 0.3).start("load", "mlx-slow", str(home.base))
    getattr(load, stream).close()
    load.wait(20)
    for pipe in (load.stdout, load.stderr):
        if pipe and not pipe.closed:
            pipe.close()
    assert load.returncode == 0
    assert serving(home) == {0: "mlx-slow"}


def test_a_failed_load_that_nobody_reads_still_fails(home: Home) -> None:
    home.model("a")
    load = home.with_engine("--die-at-once").start("load", "mlx-a", str(home.base))
    assert load.stdout is not None
    assert load.stderr is not None
    load.stdout.close()
    load.stderr.close()
    assert load.wait(20) == 7
    assert rows(home)[0]["phase"] == "failed"


@pytest.mark.parametrize("when", ["before_spawn", "after_spawn"])
def test_ctrl_c_while_a_process_is_being_started(home: Home, when: str) -> None:
    home = home.with_engine()
    home.model("a")
    host = FaultyHost(**{when: lambda: os.kill(os.getpid(), signal.SIGINT)})
    assert raised(lambda: bring_up(home, "mlx-a", 20, site=home.site(host=host)))
    assert host.events[0] == f"start {home.base + 20}"
    nothing_left(home, 20)
    assert state(home, 20).phase == "failed"


def test_ctrl_c_while_the_registry_is_written_comes_too_late(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home.with_engine()
    home.model("a")
    real = RegistryStore.update

    def update(store: RegistryStore, change: Callable[[Registry], Registry]) -> Registry:
        after = real(store, change)
        os.kill(os.getpid(), signal.SIGINT)
        return after

    monkeypatch.setattr(RegistryStore, "update", update)
    assert not raised(lambda: bring_up(home, "mlx-a", 20))
    assert serving(home) == assigned(home) == {20: "mlx-a"}


def raised(work: Callable[[], None]) -> bool:
    try:
        work()
    except KeyboardInterrupt:
        return True
    return False


def test_signals_that_are_held_back_come_afterwards() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    steps = []

    def work() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("inside")
        steps.append("after")

    assert raised(work)
    assert steps == ["inside"]
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_signals_that_come_too_late_are_told_and_change_nothing() -> None:
    def work() -> None:
        with came_too_late() as came:
            with held_back():
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGTERM, signal.SIGINT]

    assert not raised(work)


def test_ignored_signals_stay_ignored_and_other_threads_hold_nothing_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with came_too_late() as came:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)
    told = []

    def work() -> None:
        with came_too_late() as came:
            told.append(came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [[]]
