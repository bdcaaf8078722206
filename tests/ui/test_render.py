"""One Result as people see it: units, collapsed rows, one error and one next step."""

from __future__ import annotations

from typing import Any

import pytest

from mlxctl.control.memory import human_bytes
from mlxctl.core.errors import NotReady
from mlxctl.core.result import Problem, Result
from mlxctl.ui.cli.render import VIEWS, human_seconds, render

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3600, "60 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172799, "47 h"),
        (172800, "2 d"),
        (1e8, "1157 d"),
    ],
)
def test_human_seconds(seconds: float, shown: str) -> None:
    assert human_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (340_000, "340 kB"),
        (1_500_000, "1.5 MB"),
        (999_900_000, "999.9 MB"),
        (62_300_000_000, "62.3 GB"),
        (1.2e12, "1.2 TB"),
        (1e16, "10000.0 TB"),
    ],
)
def test_human_bytes(count: float, shown: str) -> None:
    assert human_bytes(count) == shown


def port(number: int, **facts: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("model_id", "repo_id", "engine", "pid", "memory_bytes", "uptime_s", "requests", "last_exit", "stranger")
    )
    span = "team" if number < 8120 else "experimental"
    return {"port": number, "range": span, "phase": "stopped", "restarts": 0, **row, **facts}


def shown(capsys: Capture, command: str, data: dict[str, Any], **more: Any) -> tuple[list[str], list[str]]:
    render(Result(command, data, **more))
    told = capsys.readouterr()
    return told.out.splitlines(), told.err.splitlines()


def test_ports_without_anything_share_a_row(capsys: Capture) -> None:
    serves = {"phase": "ready", "model_id": "mlx-a", "engine": "mlx-lm", "pid": 42, "memory_bytes": 1_500_000}
    taken = {3: {**serves, "uptime_s": 7200.0}, 5: {"phase": "failed", "model_id": "mlx-b"}}
    other = {39: {"stranger": "nginx (pid 7)"}}
    ports = [port(8100 + n, **{**taken, **other}.get(n, {})) for n in range(40)]
    lines, _ = shown(capsys, "status", {"ports": ports})
    assert [line.split()[0] for line in lines] == [
        "PORT",
        "8100-8102",
        "8103",
        "8104",
        "8105",
        "8106-8119",
        "8120-8138",
        "8139",
    ]
    assert lines[2].split() == ["8103", "team", "ready", "mlx-a", "mlx-lm", "42", "1.5", "MB", "2", "h"]
    assert lines[3].split()[1:3] == ["team", "free"]
    assert lines[4].split()[2:4] == ["failed", "mlx-b"]
    assert lines[7].split()[2:] == ["stranger", "nginx", "(pid", "7)", "-", "-", "-", "-"]


def test_an_idle_host_is_two_rows(capsys: Capture) -> None:
    lines, _ = shown(capsys, "status", {"ports": [port(8100 + n) for n in range(40)]})
    assert [line.split()[:3] for line in lines[1:]] == [
        ["8100-8119", "team", "free"],
        ["8120-8139", "experimental", "free"],
    ]


def test_a_model_that_is_down_and_held_by_a_stranger_shows_both(capsys: Capture) -> None:
    lines, _ = shown(capsys, "status", {"ports": [port(8100, phase="failed", model_id="mlx-a", stranger="x (pid 1)")]})
    assert lines[1].split()[2:4] == ["stranger", "mlx-a"]


def test_an_error_is_one_line_with_its_detail_above_and_the_next_step_below(capsys: Capture) -> None:
    error = NotReady("died", "the server ended [/bold] [red]", "see `mlxctl logs 1`", ("last [words]", "of the log"))
    render(Result.failed("load", error))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "  last [words]",
        "  of the log",
        "error: the server ended [/bold] [red]",
        "next:  see `mlxctl logs 1`",
    ]


def test_messages_are_shown_as_they_are(capsys: Capture) -> None:
    _, told = shown(capsys, "load", {}, messages=("replaced [mlx-a]: see /a/b[1]",), errors=(Problem("x", "y"),))
    assert told == ["replaced [mlx-a]: see /a/b[1]", "error: y"]


@pytest.mark.parametrize(
    ("command", "data", "line"),
    [
        (
            "load",
            {"model_id": "mlx-a", "port": 8120, "engine": "mlx-lm", "ready_s": 2.345, "base_url": "http://h/v1"},
            "mlx-a is ready on port 8120 after 2.3 s (mlx-lm)",
        ),
        (
            "unload",
            {"model_id": "mlx-a", "port": 8120, "stranger": None},
            "stopped mlx-a; port 8120 is free",
        ),
        ("unload", {"model_id": None, "port": 8120}, "stopped what was left; port 8120 is free"),
        (
            "unload",
            {"model_id": "mlx-a", "port": 8120, "stranger": "nginx (pid 7)"},
            "stopped mlx-a; port 8120 is no longer its port",
        ),
        ("unload-all", {"unloaded": [{"model_id": "mlx-a", "port": 8120}]}, "stopped mlx-a; port 8120 is free"),
        ("init", {"added": ["mlx-a"]}, "registered mlx-a"),
        ("verify", {"fixed": ["mlx-a"]}, "set defaults of mlx-a"),
        ("logs", {"lines": ["[1/2] a line"]}, "[1/2] a line"),
        ("registry restore", {"generation": 3, "models": 2}, "generation 3 (2 models) is the registry again"),
        (
            "ensure",
            {"model": {"model_id": "mlx-a", "cache_path": "/m [x]"}, "created": True, "converted": True},
            "mlx-a registered, converted: /m [x]",
        ),
        (
            "ensure",
            {"model": {"model_id": "mlx-a", "cache_path": "/m"}, "created": False, "converted": False},
            "mlx-a is registered: /m",
        ),
    ],
)
def test_a_line_for_each_command(capsys: Capture, command: str, data: dict[str, Any], line: str) -> None:
    assert shown(capsys, command, data)[0][0] == line


def test_a_load_of_what_already_serves_says_only_where(capsys: Capture) -> None:
    data = {"model_id": "mlx-a", "port": 8120, "engine": "mlx-lm", "ready_s": 0.0, "base_url": "http://h/v1"}
    assert shown(capsys, "load", data)[0] == ["http://h/v1"]


def test_tables(capsys: Capture) -> None:
    model = {"model_id": "mlx-a", "port": None, "repo_id": "org/a", "context_length": None}
    lines, _ = shown(capsys, "list", {"models": [{**model, "port": 8120, "context_length": 4096}, model]})
    assert [line.split() for line in lines[1:]] == [["mlx-a", "8120", "4096", "org/a"], ["mlx-a", "-", "-", "org/a"]]
    found = {"port": 8100, "kind": "stale", "model_id": None, "action": "none", "why": "nothing runs"}
    lines, _ = shown(capsys, "reconcile", {"findings": [found]})
    assert lines[1].split() == ["8100", "stale", "-", "none", "nothing", "runs"]
    setting = {"name": "offline", "value": True, "source": "default", "variables": ["HF_HUB_OFFLINE"], "meaning": "m"}
    lines, _ = shown(capsys, "config", {"settings": [setting, {**setting, "value": ["a", "b"]}]})
    assert [line.split()[1] for line in lines[1:]] == ["true", "a,b"]
    kept = {"generation": 2, "written_at": "2025-01-01T00:00:00+00:00", "models": 3}
    lines, _ = shown(capsys, "registry backup list", {"generations": [kept]})
    assert lines[1].split() == ["2", "2025-01-01T00:00:00+00:00", "3"]


@pytest.mark.parametrize(
    ("command", "data"),
    [("list", {"models": []}), ("reconcile", {"findings": []}), ("registry backup list", {"generations": []})],
)
def test_nothing_to_show_is_no_empty_table(capsys: Capture, command: str, data: dict[str, Any]) -> None:
    assert command in VIEWS
    assert shown(capsys, command, data) == ([], [])


def test_a_long_name_is_not_cut_in_a_pipe(capsys: Capture) -> None:
    name = "mlx-" + "x" * 80
    lines, _ = shown(capsys, "list", {"models": [{"model_id": name, "port": 8120, "repo_id": "org/x"}]})
    assert name in lines[1]
