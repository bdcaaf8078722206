"""One process on one port: how long it may take, how it is stopped, and what is told of how it ended."""

from __future__ import annotations

import time

import psutil
import pytest

from mlxctl.control.commands.unload import unload
from mlxctl.control.lifecycle import GB, stop_grace_s
from mlxctl.control.watch import ready_deadline_s
from tests.fakes.home import Home
from tests.fakes.story import (
    alive,
    assigned,
    bring_up,
    is_free,
    kill,
    nothing_left,
    processes_of,
    refused,
    rows,
    serving,
    state,
    until,
)


@pytest.mark.parametrize(
    ("weight_gb", "least", "seconds"),
    [(0, 120, 120), (1, 120, 120), (20, 120, 120), (21, 120, 126), (120, 120, 720), (1, 2, 6), (0, 0, 0)],
)
def test_the_deadline_scales_with_the_weights(weight_gb: int, least: float, seconds: float) -> None:
    assert ready_deadline_s(weight_gb * GB, least) == seconds


@pytest.mark.parametrize(("weight_gb", "least", "seconds"), [(0, 10, 10), (4, 10, 11), (120, 10, 40), (8, 0, 2)])
def test_the_grace_scales_with_the_weights(weight_gb: int, least: float, seconds: float) -> None:
    assert stop_grace_s(weight_gb * GB, least) == seconds


def test_a_server_that_ignores_sigterm_is_killed_after_its_grace(home: Home) -> None:
    home = home.with_engine("--ignore-term", MLXCTL_STOP_GRACE_S="0.6")
    home.model("a")
    bring_up(home, "mlx-a", 0)
    begun = time.monotonic()
    stopped = unload(home.site(), "mlx-a").data
    assert 0.6 <= time.monotonic() - begun < 4
    assert stopped["last_exit"] == "SIGKILL"
    nothing_left(home, 0)


def test_a_server_that_drains_within_its_grace_is_let_be(home: Home) -> None:
    home = home.with_engine("--drain", "0.5")
    home.model("a")
    bring_up(home, "mlx-a", 0)
    assert unload(home.site(), "mlx-a").data["last_exit"] == "exit code 0"
    nothing_left(home, 0)


def test_a_grandchild_in_a_session_of_its_own_is_swept(home: Home) -> None:
    home = home.with_engine("--grandchild", "--ignore-term", MLXCTL_STOP_GRACE_S="0.2")
    home.model("a")
    pid = bring_up(home, "mlx-a", 0).data["pid"]
    (grandchild,) = set(processes_of(home)) - {pid}
    unload(home.site(), "mlx-a")
    until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie", "it is gone")
    nothing_left(home, 0)


def test_a_grandchild_that_outlived_its_server_is_swept_too(home: Home) -> None:
    home = home.with_engine("--grandchild")
    home.model("a")
    bring_up(home, "mlx-a", 0)
    kill(home, 0)
    assert len(processes_of(home)) == 1
    again = bring_up(home, "mlx-a", 0)
    assert len(processes_of(home)) == 2
    assert again.data["pid"] in processes_of(home)
    unload(home.site(), "mlx-a")
    nothing_left(home, 0)


def test_a_server_that_dies_later_is_told_by_status(home: Home) -> None:
    home = home.with_engine("--die-after", "0.6")
    home.model("a")
    bring_up(home, "mlx-a", 20)
    assert serving(home) == {20: "mlx-a"}
    until(lambda: rows(home)[20]["phase"] == "failed", "it dies")
    until(lambda: rows(home)[20]["last_exit"] == "SIGSEGV", "its end is recorded")
    row = rows(home)[20]
    assert (row["model_id"], row["pid"], row["memory_bytes"]) == ("mlx-a", None, None)
    assert assigned(home) == {20: "mlx-a"}


def test_a_slow_load_that_shows_progress_is_waited_for(home: Home) -> None:
    home = home.with_engine("--listen-after", "3.2", "--chatter", MLXCTL_READY_TIMEOUT_S="1")
    home.model("a")
    assert bring_up(home, "mlx-a", 0).data["ready_s"] > 3
    assert serving(home) == {0: "mlx-a"}


def test_a_load_that_stalls_is_given_up(home: Home) -> None:
    home = home.with_engine("--listen-after", "60", MLXCTL_READY_TIMEOUT_S="1")
    home.model("a")
    begun = time.monotonic()
    error = refused(home, "mlx-a", 0)
    assert time.monotonic() - begun < 6
    assert (error.code, error.exit_code) == ("timeout", 7)
    assert "it does not listen" in error.message
    assert "MLXCTL_READY_TIMEOUT_S" in error.hint
    nothing_left(home, 0)


@pytest.mark.parametrize(
    ("faults", "cause"),
    [(("--die-at-once",), "exit code 3"), (("--listen-after", "0.3", "--die-after", "0", "--silent"), "SIGSEGV")],
)
def test_a_death_is_noticed_at_once_with_its_cause_and_its_last_words(
    home: Home, faults: tuple[str, ...], cause: str
) -> None:
    home = home.with_engine(*faults)
    home.model("a")
    begun = time.monotonic()
    error = refused(home, "mlx-a", 0)
    assert time.monotonic() - begun < 4
    assert error.code == "died"
    assert f"({cause})" in error.message
    assert 1 <= len(error.detail) <= 12
    assert any("fake engine starts for" in line for line in error.detail)
    assert f"mlxctl logs {home.base}" in error.hint
    assert state(home, 0).last_exit in (None, cause)
    assert rows(home)[0]["last_exit"] == cause


def test_a_server_of_another_name_is_refused_at_once(home: Home) -> None:
    home = home.with_engine("--name", "org/other")
    home.model("a")
    begun = time.monotonic()
    error = refused(home, "mlx-a", 0)
    assert time.monotonic() - begun < 4
    assert (error.code, error.exit_code) == ("wrong_model", 7)
    assert "org/other" in error.message
    assert "mlx-a" in error.message
    nothing_left(home, 0)


@pytest.mark.parametrize("name", ["mlx-a", "org/a", "a"])
def test_the_names_by_which_a_server_may_call_our_model(home: Home, name: str) -> None:
    home = home.with_engine("--name", name)
    home.model("a")
    assert bring_up(home, "mlx-a", 0).data["port"] == home.base


def test_a_listener_that_is_not_ours_proves_nothing(home: Home) -> None:
    """Our process lives but never listens, and a stranger takes the port meanwhile: not ready, and nobody is killed."""
    import threading

    from tests.fakes.story import stranger

    home = home.with_engine("--never-listen", MLXCTL_READY_TIMEOUT_S="1")
    home.model("a")
    errors = []
    load = threading.Thread(target=lambda: errors.append(refused(home, "mlx-a", 0)))
    load.start()
    until(lambda: alive(home, 0), "it has begun")
    with stranger(home.base):
        load.join()
        assert errors[0].code in ("timeout", "bad_answer")
        assert processes_of(home) == []
    assert is_free(home.base)


def test_a_server_gets_what_it_needs_and_no_network(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    pid = bring_up(home, "mlx-a", 0).data["pid"]
    environ = psutil.Process(pid).environ()
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert environ["HF_HUB_CACHE"] == str(home.hub_cache)
    assert environ["MLXCTL_STAMP"] == state(home, 0).stamp
    argv = psutil.Process(pid).cmdline()
    assert argv[-6:] == ["--model-type", "lm", "--host", "127.0.0.1", "--port", str(home.base)]
    shim = psutil.Process(state(home, 0).shim_pid)
    assert psutil.Process(pid).ppid() == shim.pid
    assert state(home, 0).stamp in shim.cmdline()


@pytest.mark.parametrize("where", ["MLX_LOG_DIR", "MLXCTL_STATE_DIR"])
def test_a_folder_that_cannot_be_made_is_told_and_nothing_starts(home: Home, where: str) -> None:
    blocker = home.root / "a-file"
    blocker.write_text("")
    home.model("a")
    broken = home.with_engine(**{where: str(blocker / "below")})
    error = refused(broken, "mlx-a", 0)
    assert error.exit_code == 9
    assert str(blocker) in error.message
    assert assigned(home) == {}
    nothing_left(home, 0)
