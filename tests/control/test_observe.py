"""What a look at a port says, from every mix of record, process, listener and registry."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from mlxctl.control.host import Identity, LocalHost
from mlxctl.control.listeners import Holder
from mlxctl.control.observe import Observation, observe, observe_all
from mlxctl.control.state import PHASES, READY, PortState
from mlxctl.core.registry import ModelEntry
from tests.fakes.home import Home
from tests.fakes.story import bring_up, kill, state, stranger, until


class Machine(LocalHost):
    """A machine of which a test says what runs and who listens."""

    def __init__(self, *, alive: bool = False, listening: bool = False, ours: bool = False) -> None:
        self.alive, self.listening, self.ours = alive, listening, ours

    def is_alive(self, identity: Identity) -> bool:
        return self.alive

    def is_listening(self, port: int, address: str) -> bool:
        return self.listening

    def holder(self, port: int) -> Holder | None:
        return Holder(77, "nginx")

    def stamped(self, stamp: str) -> list[int]:
        return [77] if self.ours else []

    def memory_bytes(self, identity: Identity) -> int:
        return 5000


def entry(name: str = "a") -> ModelEntry:
    return ModelEntry(repo_id=f"org/{name}", model_id=f"mlx-{name}", cache_path="/m")


def look(home: Home, machine: Machine, phase: str, *, known: ModelEntry | None, held: bool = False) -> Observation:
    recorded = PortState(port=home.base, phase=phase, model_id="mlx-a", pid=5, stamp="s", last_exit="exit code 1")
    return observe(home.site(host=machine), home.base, known, recorded, held=held)


@pytest.mark.parametrize(
    ("recorded", "alive", "listening", "phase"),
    [
        ("ready", True, True, "ready"),
        ("ready", True, False, "failed"),
        ("ready", False, False, "failed"),
        ("ready", False, True, "failed"),
        ("starting", True, False, "starting"),
        ("starting", False, False, "failed"),
        ("draining", True, True, "draining"),
        ("draining", False, False, "failed"),
        ("stopped", False, False, "stopped"),
        ("stopped", False, True, "stopped"),
        ("failed", False, False, "failed"),
        ("backoff", False, False, "backoff"),
        ("crashloop", False, False, "crashloop"),
        ("quarantined", False, False, "quarantined"),
    ],
)
def test_the_phase_is_what_is_true(home: Home, recorded: str, alive: bool, listening: bool, phase: str) -> None:
    seen = look(home, Machine(alive=alive, listening=listening), recorded, known=entry())
    assert seen.phase == phase
    assert (seen.alive, seen.listening) == (alive, listening)
    assert seen.memory_bytes == (5000 if alive else None)
    assert (seen.stranger is not None) == (listening and not alive)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("known", [entry("a"), entry("b"), None], ids=["its entry", "another's", "no entry"])
@pytest.mark.parametrize("alive", [True, False])
def test_what_is_a_leftover(home: Home, phase: str, known: ModelEntry | None, alive: bool) -> None:
    """Alive, not what the registry says, and nobody at work on it."""
    seen = look(home, Machine(alive=alive, listening=alive), phase, known=known, held=True)
    assert seen.is_leftover == (alive and (known is None or known.model_id != "mlx-a"))


@pytest.mark.parametrize("phase", ["starting", "draining"])
def test_a_command_at_work_is_told_from_one_that_was_killed(home: Home, phase: str) -> None:
    machine = Machine(alive=True)
    site = home.site()
    with site.states.lock(str(home.base), 0, "a test"):
        seen = look(home, machine, phase, known=None)
        assert not seen.abandoned
        assert seen.is_leftover == (phase == "draining")
    assert look(home, machine, phase, known=None).abandoned
    assert not look(home, Machine(), phase, known=None).abandoned


@pytest.mark.parametrize("ours", [True, False])
def test_a_listener_after_the_death_is_a_survivor_or_a_stranger(home: Home, ours: bool) -> None:
    seen = look(home, Machine(listening=True, ours=ours), READY, known=entry())
    assert seen.survivor is ours
    assert str(seen.stranger) == ("None" if ours else "nginx (pid 77)")
    assert look(home, Machine(listening=True, ours=ours), READY, known=None).is_leftover is ours


def test_the_last_exit_comes_from_the_shims_record(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    assert observe_all(home.site())[0].last_exit is None
    kill(home, 0)
    seen = observe_all(home.site())[0]
    assert (seen.last_exit, seen.state.last_exit) == ("SIGKILL", None)


def test_a_record_of_another_start_is_not_believed(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    kill(home, 0)
    bring_up(home, "mlx-a", 0)
    assert observe_all(home.site())[0].last_exit is None


def test_forty_ports_in_order_and_who_is_on_them(home: Home) -> None:
    home.model("a", port=home.base + 3)
    with stranger(home.base + 7):
        seen = observe_all(home.site())
    assert [one.port - home.base for one in seen] == list(range(40))
    assert {one.port - home.base for one in seen if one.entry} == {3}
    assert {one.port - home.base for one in seen if one.stranger} == {7}


def test_a_stopped_process_is_alive_and_a_dead_pid_is_not_mistaken(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    kill(home, 0, signal.SIGSTOP)
    assert observe_all(home.site())[0].phase == "ready"
    kill(home, 0, signal.SIGCONT)
    known = state(home, 0)
    for wrong in ({"create_time": known.create_time - 1}, {"stamp": "0" * 32}, {"pid": 1}):
        site = home.site()
        changed: dict[str, Any] = {"pid": known.pid, "create_time": known.create_time, "stamp": known.stamp, **wrong}
        assert not site.host.is_alive(Identity(**changed)), wrong
    assert home.site().host.is_alive(known.identity or Identity(0, 0, ""))


def test_a_look_is_quick(home: Home) -> None:
    """Not a benchmark: forty ports must not mean forty timeouts."""
    begun = time.monotonic()
    observe_all(home.site())
    until(lambda: True, "")
    assert time.monotonic() - begun < 5
