"""The short way of `list`, `status` and `load` says the same as the long way through typer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mlxctl.ui.cli.fast import run_fast
from tests.fakes.home import Home

LEFT_TO_TYPER = [
    [],
    ["--help"],
    ["list", "--help"],
    ["list", "--bogus"],
    ["status", "extra"],
    ["load"],
    ["load", "a"],
    ["load", "a", "b", "c"],
    ["load", "a", "auto", "--dtype", "float32"],
    ["load", "a", "auto", "--engine"],
    ["load", "a", "auto", "--engine=mlx-lm"],
    ["load", "-x", "auto"],
    ["unload", "8120"],
    ["worker", "--help"],
    ["worker", "--model", "m", "-h"],
    ["--local", "list"],
]


@pytest.mark.parametrize("argv", LEFT_TO_TYPER, ids=" ".join)
def test_whatever_is_not_plain_is_left_to_typer(argv: list[str]) -> None:
    assert run_fast(argv) is None


def through_typer(home: Home, *argv: str) -> tuple[int, dict[str, Any]]:
    program = "import sys; from mlxctl.ui.cli.app import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], env=home.env(), capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one command may differ in: how long, and how much memory by now."""
    for row in document["data"].get("ports", []):
        row.update(uptime_s=None, memory_bytes=None)
    return document


SAME = [
    ["list", "--json"],
    ["status", "--json"],
    ["load", "mlx-a", "auto", "--json"],
    ["load", "mlx-a", "--engine", "command", "--no-sync", "auto", "--force", "--json"],
    ["load", "mlx-a", "auto", "--engine", "bogus", "--json"],
    ["load", "mlx-b", "8099", "--json"],
    ["worker", "--model", "/no/such", "--port", "8120", "--request-params", "{", "--json"],
    ["worker", "--model", "/no/such", "--port", "8120", "--no-batching", "--api-key", "a", "--json"],
    ["load", "mlx-nobody", "auto", "--no-offload-og", "--json"],
]


@pytest.fixture(scope="module")
def loaded_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.fakes.home import free_base

    home = Home(tmp_path_factory.mktemp("fast"), free_base()).with_engine()
    home.hub_cache.mkdir()
    home.model("a")
    home.model("b")
    assert home.run("load", "mlx-a", "auto").code == 0
    yield home
    home.stop_everything()


@pytest.mark.parametrize("argv", SAME, ids=" ".join)
def test_both_ways_say_the_same(loaded_home: Home, argv: list[str]) -> None:
    short = loaded_home.run(*argv)
    code, document = through_typer(loaded_home, *argv)
    assert short.code == code
    assert without_times(short.json) == without_times(document)
