"""`mlxctl status`: forty rows, the same names in each, and nothing in them that is not true now."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from mlxctl.control.commands.list import list_models
from mlxctl.control.commands.status import status
from mlxctl.control.host import LocalHost
from tests.fakes.home import Home
from tests.fakes.story import bring_up, kill, rows, state, stranger

FIELDS = [
    "port",
    "range",
    "phase",
    "model_id",
    "repo_id",
    "engine",
    "pid",
    "memory_bytes",
    "uptime_s",
    "restarts",
    "requests",
    "last_exit",
    "stranger",
]
EMPTY = dict.fromkeys(("model_id", "repo_id", "engine", "pid", "memory_bytes", "uptime_s", "requests", "last_exit"))


def test_forty_rows_of_the_same_fields(home: Home) -> None:
    told = home.run("status", "--json")
    assert (told.code, set(told.data)) == (0, {"ports", "supervisor", "route_via_optillm"})
    assert [row["port"] - home.base for row in told.data["ports"]] == list(range(40))
    assert [row["range"] for row in told.data["ports"]] == ["team"] * 20 + ["experimental"] * 20
    for row in told.data["ports"]:
        assert list(row) == FIELDS
        assert row | EMPTY == row, "nothing is known of an empty port"
        assert (row["phase"], row["restarts"], row["stranger"]) == ("stopped", 0, None)


def test_a_row_of_what_serves(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    loaded = bring_up(home, "mlx-a", 5).data
    row = rows(home)[5]
    assert (row["phase"], row["model_id"], row["repo_id"], row["engine"]) == ("ready", "mlx-a", "org/a", "command")
    assert row["pid"] == loaded["pid"]
    resident = psutil.Process(row["pid"]).memory_info().rss
    assert resident / 2 < row["memory_bytes"] < resident * 2
    assert 0 <= row["uptime_s"] < 60
    assert (row["last_exit"], row["stranger"], row["requests"]) == (None, None, None)


def test_uptime_counts_from_the_moment_it_was_ready(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 5)
    ready_at = state(home, 5).ready_at
    assert ready_at is not None

    class Later(LocalHost):
        def now(self) -> float:
            assert ready_at is not None
            return ready_at + 3600

    (row,) = [row for row in status(home.site(host=Later())).data["ports"] if row["pid"]]
    assert row["uptime_s"] == 3600.0


def test_a_stranger_is_named_and_not_counted_as_ours(home: Home) -> None:
    with stranger(home.base + 2):
        told = status(home.site())
    row = told.data["ports"][2]
    assert f"(pid {os.getpid()})" in row["stranger"]
    assert (row["phase"], row["pid"], row["model_id"]) == ("stopped", None, None)
    assert told.messages == (f"port {home.base + 2} is held by {row['stranger']}, which mlxctl did not start",)


def test_kill_9_tells_the_truth(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    home.model("b")
    bring_up(home, "mlx-a", 0)
    bring_up(home, "mlx-b", 1)
    kill(home, 0)
    seen = rows(home)
    assert (seen[0]["phase"], seen[0]["last_exit"], seen[0]["pid"]) == ("failed", "SIGKILL", None)
    assert seen[1]["phase"] == "ready"
    shown = home.run("status")
    assert shown.code == 0
    assert f"mlx-a on port {home.base} is down (SIGKILL): `mlxctl load mlx-a {home.base}`" in shown.err


def test_a_shim_that_was_killed_leaves_a_model_that_is_still_ours(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    shim = state(home, 0).shim_pid
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    assert rows(home)[0]["phase"] == "ready"
    assert home.run("unload", "mlx-a", "--json").code == 0
    assert rows(home)[0]["phase"] == "stopped"


def test_a_torn_state_file_is_a_port_of_which_nothing_is_known(home: Home) -> None:
    ports = home.root / "state" / "ports"
    ports.mkdir(parents=True)
    contents = ["", "{", "[]", "null", '{"port": 1}', '{"port": 18000, "argv": "x"}', "\x00" * 10]
    for offset, content in enumerate(contents):
        (ports / f"{home.base + offset}.json").write_text(content)
    (ports / "notes.json").write_text("{}")
    assert {row["phase"] for row in rows(home).values()} == {"stopped"}


def test_status_and_list_write_nothing(home: Home) -> None:
    home.model("a", port=home.base)

    def files() -> set[Path]:
        return {path for path in home.root.rglob("*") if path.is_file()}

    before = files()
    status(home.site())
    list_models(home.site())
    assert files() == before


def test_list_shows_ports_first_and_every_field(home: Home) -> None:
    told = home.run("list")
    assert (told.code, told.out) == (0, "")
    assert "no model is registered" in told.err
    for name, port in (("z", 21), ("b", None), ("a", None), ("y", 3)):
        home.model(name, port=None if port is None else home.base + port)
    told = home.run("list", "--json")
    assert [model["model_id"] for model in told.data["models"]] == ["mlx-y", "mlx-z", "mlx-a", "mlx-b"]
    first = told.data["models"][0]
    assert (first["repo_id"], first["port"], first["context_length"]) == ("org/y", home.base + 3, 4096)
    assert {"cache_path", "max_output_tokens", "format"} <= set(first)
