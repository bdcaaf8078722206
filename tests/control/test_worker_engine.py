"""`load` with the worker as the engine: what it says of itself while it loads, when it fails, and when it drains."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control import launch, probe
from mlxctl.control.commands.chat import Finished, chat
from mlxctl.control.commands.unload import unload
from mlxctl.control.launch import WORKER
from mlxctl.control.lifecycle import child_environment
from mlxctl.control.probe import Answer, ask, worker_phase, worker_requests
from tests.fakes.home import Home
from tests.fakes.story import alive, bring_up, kill, nothing_left, refused, rows, serving, state, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def with_worker(home: Home, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a home whose worker is the one over the echo engine, with faults."""

    def make(*faults: str, **environ: str) -> Home:
        words = (sys.executable, "-m", "tests.fakes.worker_process", *faults, "--")
        monkeypatch.setitem(launch.OWN_PYTHON, WORKER, words)
        made = Home(home.root, home.base, {"PYTHONPATH": str(ROOT), **environ})
        made.model("a")
        return made

    return make


def test_a_team_port_runs_the_worker_and_it_answers_by_the_models_id(with_worker: Any) -> None:
    home = with_worker()
    loaded = bring_up(home, "mlx-a", 0).data
    assert (loaded["engine"], loaded["request_model"]) == ("worker", "mlx-a")
    assert serving(home) == {0: "mlx-a"}
    names = probe.served_names(ask("127.0.0.1", home.base, "/v1/models", timeout_s=5))
    assert names == ["mlx-a"]
    *pieces, end = chat(state(home, 0), [{"role": "user", "content": "hello"}])
    assert "".join(piece.text for piece in pieces if not isinstance(piece, Finished)) == "hello"
    assert isinstance(end, Finished)
    stopped = unload(home.site(), "mlx-a").data
    assert stopped["last_exit"] == "exit code 0"
    nothing_left(home, 0)


def test_the_proof_waits_while_the_worker_says_that_it_loads(with_worker: Any) -> None:
    home = with_worker("--load-s", "1.5")
    assert bring_up(home, "mlx-a", 0).data["ready_s"] > 1.5


def test_a_load_that_never_ends_is_given_up(with_worker: Any) -> None:
    home = with_worker("--load-s", "60", MLXCTL_READY_TIMEOUT_S="1.5")
    begun = time.monotonic()
    error = refused(home, "mlx-a", 0)
    assert time.monotonic() - begun < 12
    assert (error.code, error.exit_code) == ("bad_answer", 7)
    assert "it is loading the model" in error.message
    nothing_left(home, 0)


@pytest.mark.parametrize("fault", ["--fail", "--no-language"])
def test_why_a_model_cannot_be_loaded_is_told_at_once(with_worker: Any, fault: str) -> None:
    home = with_worker("--load-s", "0.3", fault, "Model type llamax not supported.")
    begun = time.monotonic()
    error = refused(home, "mlx-a", 0)
    assert time.monotonic() - begun < 10, "the deadline is 120 s"
    assert (error.code, error.exit_code) == ("died", 7)
    assert "Model type llamax not supported." in error.message
    nothing_left(home, 0)


def test_a_worker_that_refuses_its_flags_tells_why(with_worker: Any) -> None:
    """It ends before anybody can ask it; its last words are in its log."""
    home = with_worker(MLXCTL_WORKER_PRIORITY="urgent")
    error = refused(home, "mlx-a", 0)
    assert error.code == "died"
    assert "(exit code 2) before it answered: the default priority is 'urgent'" in error.message


def test_the_last_words_of_an_earlier_start_are_not_repeated(with_worker: Any) -> None:
    home = with_worker("--fail", "the first cause")
    refused(home, "mlx-a", 0)
    home = with_worker("--load-s", "60")

    def kill_it() -> None:
        until(lambda: alive(home, 0), "it starts")
        kill(home, 0)

    thread = threading.Thread(target=kill_it)
    thread.start()
    error = refused(home, "mlx-a", 0)
    thread.join()
    assert "SIGKILL" in error.message
    assert "the first cause" not in error.message


def test_keys_reach_the_worker_and_are_used_by_us(with_worker: Any) -> None:
    home = with_worker(MLXCTL_WORKER_API_KEYS="k1=high,k2")
    bring_up(home, "mlx-a", 0)
    assert "k1" not in " ".join(state(home, 0).argv)
    key = home.site().key_for(WORKER)
    assert key == "k1"
    assert home.site().key_for("mlx-lm") == ""
    assert ask("127.0.0.1", home.base, "/v1/models", timeout_s=5).status == 401
    assert ask("127.0.0.1", home.base, "/v1/models", timeout_s=5, key=key).status == 200
    assert len(list(chat(state(home, 0), [{"role": "user", "content": "hi"}], key=key))) > 1


@pytest.mark.parametrize(("keys", "told"), [("", True), ("k", False)])
def test_a_wide_address_without_a_key_is_told(with_worker: Any, keys: str, told: bool) -> None:
    home = with_worker(MLXCTL_BIND="0.0.0.0", MLXCTL_WORKER_API_KEYS=keys)
    notices = bring_up(home, "mlx-a", 0).messages
    assert any("without a key" in notice for notice in notices) is told


def test_requests_in_flight_are_shown_and_an_unload_lets_them_finish(with_worker: Any) -> None:
    home = with_worker("--step-s", "0.05")
    bring_up(home, "mlx-a", 0)
    assert rows(home)[0]["requests"] == 0
    said: list[Any] = []
    ask_it = threading.Thread(target=lambda: said.extend(chat(state(home, 0), [{"role": "user", "content": "x" * 60}])))
    ask_it.start()
    until(lambda: rows(home)[0]["requests"] == 1, "the request is seen")
    # the grace of a home is 2 s, and the answer takes 3
    assert unload(home.site(), "mlx-a").data["last_exit"] == "exit code 0"
    ask_it.join(10)
    assert isinstance(said[-1], Finished)
    assert said[-1].reason == "stop"


def test_a_worker_that_does_not_stop_is_killed_after_its_drain_and_a_margin(
    with_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxctl.control.lifecycle.DRAIN_MARGIN_S", 0.5)
    home = with_worker("--wedge", MLX_SERVER_DRAIN_TIMEOUT_SECONDS="1", MLXCTL_STOP_GRACE_S="0.1")
    site = home.site()
    from mlxctl.control.lifecycle import start, stop
    from mlxctl.control.plan import plan_start

    plan = plan_start(site, site.store.read().require("mlx-a"), home.base)
    started = start(site, plan)
    until(lambda: ask("127.0.0.1", home.base, "/health/ready", timeout_s=2).status == 200, "it is ready")
    begun = time.monotonic()
    stopped = stop(site, started)
    assert 1.4 < time.monotonic() - begun < 8
    assert stopped.last_exit == "SIGKILL"


def test_the_worker_opens_blas_itself(home: Home) -> None:
    engine = launch.Engine(WORKER, ())
    assert "LD_PRELOAD" not in child_environment(home.site(), engine)


@pytest.mark.parametrize(
    ("given", "phase", "requests"),
    [
        (
            Answer(503, {"status": "loading", "reason": "the model is being loaded"}),
            ("loading", "the model is being loaded"),
            None,
        ),
        (Answer(503, {"status": "failed", "reason": "no memory", "in_flight": 0}), ("failed", "no memory"), 0),
        (Answer(200, {"status": "ready", "reason": "", "in_flight": 3}), ("ready", ""), 3),
        (Answer(200, {"status": 7, "in_flight": True}), ("", ""), None),
        (Answer(200, ["x"]), ("", ""), None),
        (Answer(0, complaint="refused"), ("", ""), None),
    ],
)
def test_what_a_workers_health_says(given: Answer, phase: tuple[str, str], requests: int | None) -> None:
    assert worker_phase(given) == phase
    assert worker_requests(given) == requests
