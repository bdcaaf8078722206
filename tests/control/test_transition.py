"""`load` as a transaction, on real processes: start, replace, move, and what each leaves on the ports."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from mlxctl.control.commands.unload import unload
from mlxctl.control.launch import COMMAND, Dialect, Engine
from mlxctl.control.plan import Plan, Transition, plan_transition
from mlxctl.control.state import PortState
from mlxctl.core.errors import Refused
from mlxctl.core.registry import ModelEntry
from tests.fakes.home import Home
from tests.fakes.reporter import Recorder
from tests.fakes.story import (
    FaultyHost,
    assigned,
    bring_up,
    is_free,
    kill,
    nothing_left,
    processes_of,
    refused,
    serving,
    state,
    stranger,
)

MB = 1 << 20


def test_load_auto_takes_the_lowest_free_experimental_port(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    home.model("b")
    first = home.run("load", "mlx-a", "auto", "--json")
    assert (first.code, first.data["port"] - home.base) == (0, 20), first
    assert home.run("load", "org/b", "auto", "--json").data["port"] - home.base == 21
    assert serving(home) == {20: "mlx-a", 21: "mlx-b"}
    assert home.run("unload", str(home.base + 20), "--json").data["model_id"] == "mlx-a"
    assert serving(home) == {21: "mlx-b"}
    nothing_left(home, 20)


def test_a_load_says_what_is_where(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    loaded = bring_up(home, "org/a", 3)
    assert {**loaded.data, "pid": 0, "ready_s": 0} == {
        "model_id": "mlx-a",
        "port": home.base + 3,
        "engine": "command",
        "pid": 0,
        "ready_s": 0,
        "base_url": f"http://127.0.0.1:{home.base + 3}/v1",
        "request_model": "mlx-a",
    }
    known = state(home, 3)
    assert (known.phase, known.wanted, known.operation, known.pid) == ("ready", "up", None, loaded.data["pid"])
    assert known.stamp in json.dumps(json.loads((home.root / "state" / "ports" / f"{home.base + 3}.json").read_text()))
    assert loaded.messages == ("no gateway is configured: nothing to sync",)


def test_load_onto_an_occupied_port_replaces(home: Home) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    replaced = bring_up(home, "mlx-new", 0)
    assert f"replaced mlx-old on port {home.base}; it stays registered without a port" in replaced.messages
    assert serving(home) == assigned(home) == {0: "mlx-new"}
    assert home.registry().models["mlx-old"].port is None
    assert processes_of(home) == [replaced.data["pid"]]


def test_load_of_a_model_that_is_elsewhere_moves_it(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    first = bring_up(home, "mlx-a")
    moved = bring_up(home, "mlx-a", 25)
    assert f"moved from port {home.base + 20} to {home.base + 25}" in moved.messages
    assert serving(home) == assigned(home) == {25: "mlx-a"}
    assert moved.data["pid"] != first.data["pid"]
    nothing_left(home, 20)


def test_a_move_starts_the_new_before_it_stops_the_old(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    host = FaultyHost()
    pid = bring_up(home, "mlx-a", site=home.site(host=host)).data["pid"]
    bring_up(home, "mlx-a", 25, site=home.site(host=host))
    assert host.events == [f"start {home.base + 20}", f"start {home.base + 25}", f"SIGTERM {pid}"]


def test_a_move_onto_another_model_replaces_and_moves(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    home.model("b")
    bring_up(home, "mlx-a", 20)
    bring_up(home, "mlx-b", 21)
    both = bring_up(home, "mlx-a", 21)
    assert [message.split()[0] for message in both.messages[:2]] == ["replaced", "moved"]
    assert serving(home) == assigned(home) == {21: "mlx-a"}
    nothing_left(home, 20)


def test_a_move_stops_the_old_first_when_memory_holds_the_model_only_once(home: Home) -> None:
    home = home.with_engine()
    home.model("a", payload=2 * MB)
    pid = bring_up(home, "mlx-a").data["pid"]
    host = FaultyHost(available=MB)
    bring_up(home, "mlx-a", 25, site=home.site(host=host))
    assert host.events == [f"SIGTERM {pid}", f"start {home.base + 25}"]
    assert serving(home) == assigned(home) == {25: "mlx-a"}


def test_a_tight_move_that_fails_brings_the_model_back_where_it_was(home: Home) -> None:
    home = home.with_engine()
    home.model("a", payload=2 * MB)
    bring_up(home, "mlx-a")
    host = FaultyHost(available=MB, doomed={home.base + 25: ["false"]})
    error = refused(home, "mlx-a", 25, site=home.site(host=host))
    assert error.code == "died"
    assert f"mlx-a serves on port {home.base + 20} again" in error.hint
    assert serving(home) == assigned(home) == {20: "mlx-a"}
    nothing_left(home, 25)


@pytest.mark.parametrize(("force", "code"), [(False, "not_enough_memory"), (True, None)])
def test_weights_beyond_the_memory_are_refused_unless_forced(home: Home, force: bool, code: str | None) -> None:
    home = home.with_engine()
    home.model("small")
    home.model("large", payload=2 * MB)
    bring_up(home, "mlx-small", 0)
    site = home.site(host=FaultyHost(available=MB))
    if code:
        error = refused(home, "mlx-large", 0, site=site)
        assert (error.code, error.exit_code) == (code, 6)
        assert "2.1 MB" in error.message
        assert "--force" in error.hint
    else:
        bring_up(home, "mlx-large", 0, site=site, force=True)
    assert serving(home) == assigned(home) == {0: "mlx-small" if code else "mlx-large"}


def entry(name: str, port: int | None = None) -> ModelEntry:
    return ModelEntry(repo_id=f"org/{name}", model_id=f"mlx-{name}", cache_path=f"/models/{name}", port=port)


@pytest.mark.parametrize(
    ("weight", "replaced", "moves", "available", "force", "expected"),
    [
        # weight of the new, of what it replaces, whether it runs elsewhere, free memory: what is to happen
        (10, None, False, 10, False, "start"),
        (10, None, False, 9, False, "refuse"),
        (10, None, False, 9, True, "start"),
        (10, 4, False, 6, False, "start"),
        (10, 4, False, 5, False, "refuse"),
        (10, None, True, 10, False, "start"),
        (10, None, True, 9, False, "origin first"),
        (10, None, True, 0, False, "origin first"),
        (10, None, True, 9, True, "origin first"),
        (10, 3, True, 7, False, "start"),
        (10, 3, True, 0, False, "origin first"),
        (0, None, False, 0, False, "start"),
    ],
)
def test_the_order_of_a_load(
    weight: int, replaced: int | None, moves: bool, available: int, force: bool, expected: str
) -> None:
    plan = Plan(entry("a", 8120 if moves else None), 8100, Engine(COMMAND, ("x",)), Dialect(), weight)
    here = PortState(port=8100, weight_bytes=replaced or 99)
    origin = PortState(port=8120, weight_bytes=weight) if moves else None
    facts: dict[str, Any] = {"replaces": replaced is not None, "moves": moves, "available": available, "force": force}
    if expected == "refuse":
        with pytest.raises(Refused) as caught:
            plan_transition(plan, here, origin, **facts)
        assert caught.value.code == "not_enough_memory"
        return
    decided = plan_transition(plan, here, origin, **facts)
    assert decided == Transition(plan, here, origin, replaced is not None, moves, expected == "origin first")


def test_a_load_of_what_already_serves_changes_nothing(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    first = bring_up(home, "mlx-a", 7)
    before = home.registry_path.read_bytes()
    for word in (7, "auto"):
        again = bring_up(home, "mlx-a", word)
        assert (again.data["pid"], again.data["ready_s"]) == (first.data["pid"], 0)
        assert f"mlx-a already serves on port {home.base + 7}" in again.messages
    assert home.registry_path.read_bytes() == before


def test_a_load_of_a_model_that_is_down_starts_it_on_its_port(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 22)
    dead = kill(home, 22)
    assert serving(home) == {}
    again = bring_up(home, "mlx-a")
    assert again.data["port"] == home.base + 22
    assert again.data["pid"] != dead
    assert serving(home) == {22: "mlx-a"}


def test_auto_skips_ports_that_strangers_hold_or_commands_work_on(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    recorder = Recorder()
    site = home.site(reporter=recorder)
    with stranger(home.base + 20), site.states.lock(str(home.base + 21), 0, "a test"):
        assert bring_up(home, "mlx-a", site=site).data["port"] == home.base + 22
    assert any(f"port {home.base + 20} is held by" in note for note in recorder.notes)


def test_auto_says_when_no_port_is_left(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    for offset in range(20, 40):
        home.model(f"x{offset}", port=home.base + offset)
    error = refused(home, "mlx-a")
    assert (error.code, error.exit_code) == ("no_free_port", 5)
    assert "mlx-a" not in assigned(home).values()


def test_two_loads_of_one_model_at_once_give_one_process(home: Home) -> None:
    home = home.with_engine("--listen-after", "0.4")
    home.model("a")
    loaded: list[Any] = []
    loads = [threading.Thread(target=lambda: loaded.append(bring_up(home, "mlx-a").data)) for _ in range(3)]
    for thread in loads:
        thread.start()
    for thread in loads:
        thread.join()
    assert {data["port"] for data in loaded} == {home.base + 20}
    assert processes_of(home) == [loaded[0]["pid"]]
    assert serving(home) == {20: "mlx-a"}


def test_unload_leaves_no_process_and_a_free_port(home: Home) -> None:
    home = home.with_engine("--grandchild")
    home.model("a")
    bring_up(home, "mlx-a", 4)
    assert len(processes_of(home)) == 2
    assert unload(home.site(), "mlx-a").data == {
        "port": home.base + 4,
        "model_id": "mlx-a",
        "last_exit": "SIGTERM",
        "stranger": None,
    }
    nothing_left(home, 4)
    assert assigned(home) == {}
    assert is_free(home.base + 4)
    assert "mlx-a" in home.registry().models
