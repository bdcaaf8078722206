"""Commands that meet on one port or one model: each result is one that some order of the commands would give."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from mlxctl.control.commands.reconcile import reconcile
from mlxctl.control.commands.unload import unload
from mlxctl.core.errors import Conflict, MlxctlError
from tests.fakes.home import Home
from tests.fakes.reporter import Recorder
from tests.fakes.story import alive, assigned, bring_up, nothing_left, refused, serving, state, until

SLOW = ("--listen-after", "0.7", "--only", "slow")


def begin(work: Callable[[], Any]) -> Future[Any]:
    """Run `work` in a thread of its own; its result or error is in the future."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except MlxctlError as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def loading(home: Home, offset: int) -> Future[Any]:
    """A load of mlx-slow, at the moment when its process is there but does not serve yet."""
    under_way = begin(lambda: bring_up(home, "mlx-slow", offset))
    until(lambda: state(home, offset).model_id == "mlx-slow" and alive(home, offset), "the slow one has begun")
    return under_way


def test_a_load_waits_for_a_process_of_ours_that_still_stops(home: Home) -> None:
    home = home.with_engine("--drain", "0.6", "--only", "slow")
    home.model("slow")
    home.model("b")
    bring_up(home, "mlx-slow", 0)
    stopping = begin(lambda: unload(home.site(), "mlx-slow"))
    until(lambda: state(home, 0).phase == "draining", "the old one stops")
    recorder = Recorder()
    bring_up(home, "mlx-b", 0, site=home.site(reporter=recorder))
    assert stopping.result().data["last_exit"] == "exit code 0"
    assert any("still stopping" in note for note in recorder.notes)
    assert serving(home) == assigned(home) == {0: "mlx-b"}


def test_an_unload_of_a_port_waits_for_the_load_on_it(home: Home) -> None:
    home = home.with_engine(*SLOW)
    home.model("slow")
    under_way = loading(home, 20)
    stopped = unload(home.site(), str(home.base + 20))
    assert under_way.result().data["port"] == home.base + 20
    assert stopped.data["model_id"] == "mlx-slow"
    assert serving(home) == assigned(home) == {}
    nothing_left(home, 20)


def test_an_unload_of_a_model_that_is_just_replaced_leaves_the_new_one_alone(home: Home) -> None:
    home = home.with_engine(*SLOW)
    home.model("slow")
    home.model("old")
    bring_up(home, "mlx-old", 0)
    under_way = loading(home, 0)
    with pytest.raises(MlxctlError) as caught:
        unload(home.site(), "mlx-old")
    assert caught.value.code == "nothing_on_port"
    under_way.result()
    assert serving(home) == assigned(home) == {0: "mlx-slow"}


def test_a_model_that_is_just_replaced_can_be_loaded_elsewhere(home: Home) -> None:
    home = home.with_engine(*SLOW)
    home.model("slow")
    home.model("old")
    bring_up(home, "mlx-old", 0)
    under_way = loading(home, 0)
    bring_up(home, "mlx-old", 25)
    under_way.result()
    assert serving(home) == assigned(home) == {0: "mlx-slow", 25: "mlx-old"}


def test_auto_does_not_throw_out_who_took_the_models_port_meanwhile(home: Home) -> None:
    home = home.with_engine(*SLOW)
    home.model("slow")
    home.model("old")
    bring_up(home, "mlx-old", 0)
    under_way = loading(home, 0)
    assert bring_up(home, "mlx-old", "auto").data["port"] == home.base + 20
    under_way.result()
    assert serving(home) == assigned(home) == {0: "mlx-slow", 20: "mlx-old"}


@pytest.mark.parametrize("offset", [0, 20])
@pytest.mark.parametrize("heal", [False, True], ids=["apply", "restart"])
def test_reconcile_does_not_undo_a_load_that_is_under_way(home: Home, offset: int, heal: bool) -> None:
    home = home.with_engine(*SLOW)
    home.model("slow")
    home.model("old", port=home.base)
    under_way = loading(home, offset)
    told = reconcile(home.site(), apply=not heal, heal=heal).data["findings"]
    under_way.result()
    assert serving(home)[offset] == assigned(home)[offset] == "mlx-slow", told


def test_reconcile_looks_again_once_it_holds_the_port(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was down when reconcile looked, and serves when reconcile comes to act."""
    home = home.with_engine()
    home.model("a", port=home.base)
    site = home.site()
    from mlxctl.control.commands import reconcile as module

    real = module.observe_all

    def late(given: Any) -> Any:
        seen = real(given)
        bring_up(home, "mlx-a", 0)
        return seen

    monkeypatch.setattr(module, "observe_all", late)
    reconcile(site, apply=True)
    monkeypatch.undo()
    assert serving(home) == assigned(home) == {0: "mlx-a"}


def test_who_waits_too_long_is_told(home: Home) -> None:
    home = home.with_engine(MLXCTL_LOCK_TIMEOUT_S="0.2")
    home.model("a")
    site = home.site()
    with site.states.lock(str(home.base), 0, "a test"):
        error = refused(home, "mlx-a", 0)
        assert isinstance(error, Conflict)
        assert error.code == "port_busy"
        assert str(home.base) in error.message
    with site.states.lock("mlx-a", 0, "a test"):
        assert refused(home, "mlx-a", 0).code == "model_busy"
    assert bring_up(home, "mlx-a", 0).data["port"] == home.base
