"""What may be imported where a person waits: `list` and `status` start fast only while nothing heavy comes along."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxctl.control import shim
from tests.fakes.home import Home, free_base

HEAVY = {
    "mlx",
    "mlx_lm",
    "huggingface_hub",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gguf",
    "paramiko",
    "pydantic",
    "httpx",
    "fastapi",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "llguidance",
    "jinja2",
    "yaml",
    "asyncio",
    "http.server",
}
ONLY_FOR_WRITES = {"filelock"}
SHIM = Path(shim.__file__)

PROBE = """
import json, sys
from mlxctl.__main__ import _run
code = _run(sys.argv[1:])
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""


def imported_by(home: Home, *argv: str, expect: int = 0) -> set[str]:
    """Every module that one command line has imported at its end."""
    return modules_after(home, PROBE, *argv, expect=expect)


def modules_after(home: Home, source: str, *argv: str, expect: int = 0) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", source, *argv], env=home.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == expect, done.stdout + done.stderr
    return set(told["modules"])


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with forty registered models, one of them really running."""
    home = Home(tmp_path_factory.mktemp("forty"), free_base()).with_engine()
    for number in range(39):
        home.model(f"m{number}", port=home.base + number)
    home.model("real")
    loaded = home.run("load", "mlx-real", str(home.base + 39), "--json")
    assert loaded.code == 0, loaded
    yield home
    home.stop_everything()


@pytest.mark.parametrize("command", ["list", "status"])
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
def test_reading_imports_nothing_heavy(forty: Home, command: str, form: list[str]) -> None:
    imported = imported_by(forty, command, *form)
    assert imported & (HEAVY | ONLY_FOR_WRITES) == set()
    assert f"mlxctl.control.commands.{command}" in imported


@pytest.mark.parametrize("command", ["list", "status"])
def test_reading_an_empty_home_imports_nothing_heavy(home: Home, command: str) -> None:
    assert imported_by(home, command, "--json") & (HEAVY | ONLY_FOR_WRITES) == set()


def test_the_declared_command_line_alone_imports_no_command(home: Home) -> None:
    source = """
import json, sys
import mlxctl.ui.cli.app
print(json.dumps({"code": 0, "modules": sorted(sys.modules)}))
"""
    imported = modules_after(home, source)
    assert imported & (HEAVY | ONLY_FOR_WRITES) == set()
    assert not [name for name in imported if name.startswith("mlxctl.control.commands.")]


def test_a_json_command_needs_no_rendering(home: Home) -> None:
    assert not imported_by(home, "list", "--json") & {"mlxctl.ui.cli.render", "rich"}


def test_the_probe_sees_what_a_writing_command_imports(forty: Home) -> None:
    """Else the assertions above could pass for want of sight."""
    imported = imported_by(forty, "unload", "mlx-m0", "--json")
    assert imported >= {"filelock", "pydantic"}


# --- the shim ---------------------------------------------------------------------------------------------------


def test_the_shim_names_the_standard_library_alone() -> None:
    imports = [
        name.split(".")[0]
        for node in ast.walk(ast.parse(SHIM.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert imports
    assert set(imports) <= sys.stdlib_module_names


def test_the_shim_runs_isolated_and_imports_the_standard_library_alone(tmp_path: Path) -> None:
    record, log = tmp_path / "exit.json", tmp_path / "log"
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-X", "importtime", str(SHIM), "stamp", str(record), str(log), "4096", "2"),
            *("--", sys.executable, "-I", "-c", "print('said'); raise SystemExit(7)"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pid ")
    assert "said" in log.read_text(encoding="utf-8")
    written = json.loads(record.read_text(encoding="utf-8"))
    assert (written["stamp"], written["code"], written["signal"]) == ("stamp", 7, None)
    roots = {line.split("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if line.count("|") == 2}
    # each of these costs the shim of every model as much memory and start-up time as all that it needs
    assert not roots & {"json", "subprocess", "pathlib", "typing", "contextlib"}
    assert "select" in roots
    # names of CPython's own, built in or frozen, that the list of public ones leaves out
    assert {root for root in roots if not root.startswith("_")} - {
        "imported package",
        *sys.stdlib_module_names,
    } == set()
    assert not roots & {"site", "mlxctl", "typing"}
