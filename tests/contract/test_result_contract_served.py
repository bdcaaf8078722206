"""The JSON of every command beside a running model: the names that scripts read, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control.state import PHASES
from tests.contract.envelope import check_envelope, envelope
from tests.fakes.home import Home, free_base

STATUS_PORT = {
    "port": int,
    "range": str,
    "phase": str,
    "model_id": (str, type(None)),
    "repo_id": (str, type(None)),
    "engine": (str, type(None)),
    "pid": (int, type(None)),
    "memory_bytes": (int, type(None)),
    "uptime_s": (int, float, type(None)),
    "restarts": int,
    "requests": (int, type(None)),
    "last_exit": (str, type(None)),
    "stranger": (str, type(None)),
}
LOAD = {"model_id": str, "port": int, "engine": str, "pid": int, "ready_s": (int, float), "base_url": str}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, dict[str, Any]]]:
    """A home with a model that serves, one that does not, and what `load` said of the first."""
    home = Home(tmp_path_factory.mktemp("served"), free_base()).with_engine()
    home.hub_cache.mkdir()
    home.model("a")
    home.model("b")
    told = envelope(home.run("load", "mlx-a", "auto", "--json"))
    assert told["ok"], told
    yield home, told
    home.stop_everything()


def test_load_has_its_names(served: tuple[Home, dict[str, Any]]) -> None:
    home, told = served
    data = told["data"]
    assert told["command"] == "load"
    for name, kind in LOAD.items():
        assert isinstance(data[name], kind), name
    assert (data["model_id"], data["port"], data["engine"]) == ("mlx-a", home.base + 20, "command")
    assert data["base_url"] == f"http://127.0.0.1:{home.base + 20}/v1"


def test_status_has_its_names_for_all_forty_ports(served: tuple[Home, dict[str, Any]]) -> None:
    home, loaded = served
    data = envelope(home.run("status", "--json"))["data"]
    assert set(data) == {"ports", "supervisor", "route_via_optillm"}
    assert data["route_via_optillm"] is True
    assert [row["port"] for row in data["ports"]] == list(range(home.base, home.base + 40))
    for row in data["ports"]:
        assert list(row) == list(STATUS_PORT)
        assert all(isinstance(row[name], kind) for name, kind in STATUS_PORT.items()), row
        assert row["phase"] in PHASES
        assert row["range"] in ("team", "experimental")
    ready = data["ports"][20]
    assert (ready["phase"], ready["model_id"], ready["repo_id"]) == ("ready", "mlx-a", "org/a")
    assert (ready["engine"], ready["pid"]) == ("command", loaded["data"]["pid"])
    assert ready["memory_bytes"] > 1 << 20
    assert ready["uptime_s"] >= 0


def test_list_is_the_registry_with_ids(served: tuple[Home, dict[str, Any]]) -> None:
    home, _loaded = served
    data = envelope(home.run("list", "--json"))["data"]
    assert set(data) == {"models"}
    entries = json.loads(home.registry_path.read_text(encoding="utf-8"))["models"]
    assert {model["model_id"]: model for model in data["models"]} == entries
    assert [(model["model_id"], model["port"]) for model in data["models"]] == [
        ("mlx-a", home.base + 20),
        ("mlx-b", None),
    ]


SERVED: list[tuple[str, int, set[str]]] = [
    # what is typed, exit code, names in data
    ("load mlx-a {port}", 0, {*LOAD, "request_model"}),
    ("ensure mlx-b", 0, {"model", "created", "converted"}),
    ("reconcile", 0, {"findings"}),
    ("verify", 0, {"checked", "fixed", "problems"}),
    ("logs mlx-a", 0, {"port", "path", "lines"}),
    ("init", 0, {"registry", "added", "known"}),
    ("config", 0, {"settings"}),
    ("registry validate", 0, {"path", "exists", "problems"}),
    ("registry backup list", 0, {"generations"}),
    ("quickstart --dry-run", 0, {"dry_run", "steps"}),
    ("chat mlx-b hello", 4, set()),
    ("unload mlx-b", 4, set()),
]


@pytest.mark.parametrize(("typed", "exit_code", "names"), SERVED, ids=[case[0] for case in SERVED])
def test_a_command_beside_a_running_model(
    served: tuple[Home, dict[str, Any]], typed: str, exit_code: int, names: set[str]
) -> None:
    home, _loaded = served
    ran = home.run(*typed.format(port=home.base + 20).split(), "--json")
    told = envelope(ran)
    assert ran.code == exit_code, ran
    assert set(told["data"]) == names


def test_chat_streams_one_object_a_line_and_ends_with_the_envelope(served: tuple[Home, dict[str, Any]]) -> None:
    home, _loaded = served
    ran = home.run("chat", "mlx-a", "hello", "--json")
    *pieces, last = [json.loads(line) for line in ran.out.splitlines()]
    check_envelope(last, ran.code)
    assert (last["command"], ran.code) == ("chat", 0)
    assert set(last["data"]) == {"finish_reason", "tokens", "first_token_s", "total_s", "tokens_per_s"}
    assert len(pieces) > 1
    assert all(list(piece) in (["content"], ["reasoning"]) for piece in pieces)


def test_drift_is_exit_3_and_no_failure_of_the_command(served: tuple[Home, dict[str, Any]]) -> None:
    home, _loaded = served
    shard = Path(home.registry().require("mlx-b").cache_path) / "model.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    try:
        ran = home.run("verify", "--json")
    finally:
        shard.write_bytes(whole)
    told = envelope(ran)
    assert ran.code == 3
    assert told["data"]["problems"] == told["errors"]
    assert [error["code"] for error in told["errors"]] == ["bad_model"]


def test_a_life_in_json(home: Home) -> None:
    """The commands that end something, in the order in which a script would give them."""
    home = home.with_engine()
    home.model("a")
    home.model("b")
    ensured = envelope(home.run("ensure", "mlx-a", "--load", "--port", str(home.base), "--json"))
    assert set(ensured["data"]) == {"model", "created", "converted", "load"}
    assert set(ensured["data"]["load"]) >= set(LOAD)
    stopped = envelope(home.run("unload", str(home.base), "--json"))
    assert stopped["data"] == {"port": home.base, "model_id": "mlx-a", "last_exit": "SIGTERM", "stranger": None}
    envelope(home.run("load", "mlx-b", "auto", "--json"))
    emptied = envelope(home.run("unload-all", "--yes", "--json"))
    assert emptied["data"]["unloaded"] == [{"port": home.base + 20, "model_id": "mlx-b", "last_exit": "SIGTERM"}]
    restored = envelope(home.run("registry", "restore", "--json"))
    assert set(restored["data"]) == {"generation", "models", "path"}
