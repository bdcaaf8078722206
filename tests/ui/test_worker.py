"""`mlxctl worker`: typer reads the flags as the worker does, and an error ends in one line and an exit code."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from mlxctl.ui.cli import app, worker
from mlxctl.worker.arguments import FLAGS, serve_config
from tests.fakes.home import Home

WORDS = {
    "--model": "/models/a",
    "--port": "8101",
    "--host": "::1",
    "--api-key": "k=high",
    "--request-params": '{"temperature": 0.5}',
    "--cache-gb": "1.5",
    "--kv-gb": "2.0",
    "--default-priority": "low",
    "--log-level": "debug",
    "--block-tokens": "32",
}
"""What each flag is given; 7 or `x` where it is not named."""


def words_of(name: str) -> list[str]:
    flag = next(flag for flag in FLAGS if flag.name == name)
    return [name] if flag.kind is bool else [name, WORDS.get(name, "x" if flag.kind is str else "7")]


def read_by_typer(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> list[str]:
    """What typer hands over to the worker."""
    handed: list[list[str]] = []

    def serve(words: list[str]) -> int:
        handed.append(words)
        return 0

    monkeypatch.setattr(worker, "serve", serve)
    assert app.run(["worker", *argv]) == 0
    return handed[0]


@pytest.mark.parametrize("name", [flag.name for flag in FLAGS])
def test_typer_reads_a_flag_as_the_worker_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    least = [word for flag in FLAGS if flag.required and flag.name != name for word in words_of(flag.name)]
    argv = [*words_of(name), *least]
    handed = read_by_typer(monkeypatch, argv)
    environ = {"HOME": "/home/me"}
    assert serve_config(handed, environ) == serve_config(argv, environ)
    assert name in handed


def test_a_key_may_be_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--model", "m", "--port", "1", "--api-key", "a", "--api-key", "b=low"]
    assert sorted(read_by_typer(monkeypatch, argv)) == sorted(argv)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--model {home}/none --port {port}", 4, "there is no folder"),
        ("--model {home}/hub --port {port}", 7, "has no config.json"),
        ("--model {model} --port {taken}", 5, "is taken by another process"),
        ("--model {model} --port {port} --host 192.0.2.1", 2, "cannot listen on 192.0.2.1"),
        ("--model {model} --port {port} --max-batch none", 2, "--max-batch"),
        ("--model {model}", 2, "--port"),
    ],
)
def test_what_cannot_be_served_ends_with_one_line_and_a_next_step(home: Home, words: str, code: int, said: str) -> None:
    model = home.model("a", register=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"home": home.root, "model": model, "port": home.base, "taken": taken.getsockname()[1]}
        told = home.run("worker", *words.format(**places).split())
        shown = home.run("worker", *words.format(**places).split(), "--json")
    assert (told.code, shown.code) == (code, code)
    assert [line.split(":")[0] for line in told.err.splitlines()] == ["error", "next"]
    assert said in told.err
    assert said in json.loads(shown.out)["errors"][0]["message"]


def test_a_wrong_line_of_config_toml_is_told(home: Home) -> None:
    toml = home.root / "config.toml"
    toml.write_text("max_batch_size = 'many'\n")
    model: Path = home.model("a", register=False)
    told = home.run("worker", "--model", str(model), "--port", str(home.base), MLXCTL_CONFIG=str(toml))
    assert (told.code, "max_batch_size" in told.err) == (2, True)
