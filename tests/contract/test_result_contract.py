"""What scripts may count on: one JSON object on standard output, and an exit code that says the same.

Here every command where nothing is there, and every way to use one wrongly.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from mlxctl.ui.cli.app import app, run
from tests.contract.envelope import envelope
from tests.fakes.home import Home, Ran, free_base

# --- every command, where nothing is there ----------------------------------------------------------------------

EMPTY: list[tuple[str, str, int, str | None]] = [
    # what is typed, the command's name, exit code, code of the error
    ("init", "init", 0, None),
    ("list", "list", 0, None),
    ("status", "status", 0, None),
    ("load mlx-x auto", "load", 4, "unknown_model"),
    ("load mlx-x 8099", "load", 2, "bad_port"),
    ("load mlx-x abc", "load", 2, "bad_port"),
    ("load mlx-x auto --engine vllm", "load", 2, "bad_flag"),
    ("load mlx-x auto --convert perhaps", "load", 2, "bad_flag"),
    ("ensure mlx-x", "ensure", 4, "unknown_model"),
    ("ensure mlx-x --load --port 9", "ensure", 2, "bad_port"),
    ("unload mlx-x", "unload", 4, "unknown_model"),
    ("unload {port}", "unload", 4, "nothing_on_port"),
    ("unload-all --yes", "unload-all", 0, None),
    ("unload-all", "unload-all", 2, "needs_yes"),
    ("reconcile", "reconcile", 0, None),
    ("reconcile --apply --restart", "reconcile", 2, "bad_flag"),
    ("verify", "verify", 0, None),
    ("logs mlx-x", "logs", 4, "unknown_model"),
    ("logs {port}", "logs", 4, "no_log"),
    ("chat mlx-x hello", "chat", 4, "unknown_model"),
    ("chat {port} hello", "chat", 4, "not_serving"),
    ("quickstart --dry-run", "quickstart", 0, None),
    ("config", "config", 0, None),
    ("worker --model no/such/folder --port {port}", "worker", 4, "unknown_model"),
    ("worker --model no/such/folder", "worker", 2, "bad_flag"),
    ("worker --model no/such/folder --port {port} --max-batch 0", "worker", 2, "bad_flag"),
    ("registry validate", "registry validate", 0, None),
    ("registry backup list", "registry backup list", 0, None),
    ("registry restore", "registry restore", 4, "no_backup"),
    ("registry restore 3", "registry restore", 4, "no_backup"),
]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("empty"), free_base())
    home.hub_cache.mkdir()
    return home


@pytest.mark.parametrize(("typed", "command", "exit_code", "code"), EMPTY, ids=[case[0] for case in EMPTY])
def test_a_command_on_an_empty_home(empty: Home, typed: str, command: str, exit_code: int, code: str | None) -> None:
    ran = empty.run(*typed.format(port=empty.base).split(), "--json")
    told = envelope(ran)
    assert (told["command"], ran.code) == (command, exit_code), ran
    assert [error["code"] for error in told["errors"]] == ([code] if code else [])
    assert ran.err == "", "people's text has no place where a script reads"


def test_the_table_has_every_command() -> None:
    def names(group: typer.Typer, prefix: str = "") -> Iterator[str]:
        for command in group.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__.replace("_", "-"))
        for inner in group.registered_groups:
            assert inner.typer_instance is not None
            yield from names(inner.typer_instance, f"{prefix}{inner.name} ")

    assert set(names(app)) == {command for _typed, command, _exit_code, _code in EMPTY}


TYPER = "import sys; from mlxctl.ui.cli.app import run; sys.exit(run(sys.argv[1:]))"


@pytest.mark.parametrize("typed", ["list", "list --json", "status --json", "load mlx-x auto --no-sync --json"])
def test_a_form_that_skips_typer_says_what_typer_would(empty: Home, typed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TYPER, *typed.split()],
        env=empty.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert Ran(done.returncode, done.stdout, done.stderr) == empty.run(*typed.split())


# --- usage errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("load", "load"),
        ("load mlx-x", "load"),
        ("list --jsno", "list"),
        ("list extra", "list"),
        ("loda mlx-x auto", "mlxctl"),
        ("chat mlx-x hello --max-tokens 0", "chat"),
        ("chat mlx-x hello --temperature hot", "chat"),
        ("ensure mlx-x --bits 9", "ensure"),
        ("logs 8100 --lines -1", "logs"),
        ("registry", "registry"),
        ("registry backup", "registry backup"),
        ("registry backup lost", "registry backup"),
        ("registry restore newest", "registry restore"),
        ("--nonsense list", "mlxctl"),
    ],
)
def test_a_usage_error_has_the_same_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, command: str
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    code = run([*typed.split(), "--json"])
    captured = capsys.readouterr()
    told = envelope(Ran(code, captured.out, captured.err))
    assert (code, told["command"], told["errors"][0]["code"]) == (2, command, "bad_flag")
    assert "--help" in told["errors"][0]["hint"]


@pytest.mark.parametrize(
    ("variable", "value", "exit_code", "code"),
    [
        ("MLXCTL_PORT_BASE", "abc", 2, "bad_setting"),
        ("MLXCTL_PORT_BASE", "99999", 2, "bad_setting"),
        ("MLX_REGISTRY_PATH", "{folder}", 9, "registry_corrupt"),
    ],
)
def test_what_is_wrong_before_a_command_begins_has_the_same_shape(
    empty: Home, variable: str, value: str, exit_code: int, code: str
) -> None:
    told = envelope(ran := empty.run("list", "--json", **{variable: value.format(folder=empty.root)}))
    assert (ran.code, told["errors"][0]["code"]) == (exit_code, code)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_locale_and_no_odd_name_can_break_the_object(empty: Home, encoding: str) -> None:
    odd = str(empty.root / "größe-模型-\udcff")
    told = envelope(empty.run("config", "--json", PYTHONIOENCODING=encoding, MLXCTL_CACHE_DIR=odd))
    shown = {row["name"]: row["value"] for row in told["data"]["settings"]}
    assert shown["cache_dir"] == odd
