"""What is found wrong before a download, what a rollback starts again, and what a failed load leaves to be cleared."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.fakes.home import Home
from tests.fakes.hub import Hub
from tests.fakes.models import write_model


@pytest.fixture
def hub(home: Home) -> Iterator[Hub]:
    with Hub(home.root / "hub-root") as hub:
        write_model(hub.root / "org" / "big")
        yield hub


def row(home: Home, port: int) -> dict[str, object]:
    return next(r for r in home.run("status", "--json").data["ports"] if r["port"] == port)


@pytest.mark.parametrize(
    ("argv", "code", "exit_code"),
    [
        (["--engine", "mlx-openai-server"], "no_engine", 7),
        (["--engine", "command"], "no_engine", 7),
        ([], "port_taken", 5),
    ],
    ids=["no such server", "no command", "a stranger"],
)
def test_nothing_is_downloaded_for_a_load_that_cannot_work(
    home: Home, hub: Hub, argv: list[str], code: str, exit_code: int
) -> None:
    home = Home(home.root, home.base, {"HF_ENDPOINT": hub.url, "PATH": "/usr/bin:/bin"})
    with socket.create_server(("127.0.0.1", home.base)):
        refused = home.run("load", "org/big", str(home.base), *argv, "--json")
    assert (refused.error["code"], refused.code) == (code, exit_code)
    assert not hub.requests()
    assert not home.registry().models


def test_a_rollback_starts_what_really_ran_whatever_the_settings_are_now(home: Home) -> None:
    good = home.with_engine()
    good.model("old")
    good.model("new")
    assert good.run("load", "mlx-old", str(home.base)).code == 0
    before = home.site().states.read(home.base).argv
    broken = Home(home.root, home.base, {"MLX_LAUNCH_CMD": "/nonexistent/server --flag"})
    failed = broken.run("load", "mlx-new", str(home.base), "--json")
    assert failed.code == 7
    assert "mlx-old serves on port" in failed.error["hint"]
    after = row(home, home.base)
    assert (after["phase"], after["model_id"]) == ("ready", "mlx-old")
    assert home.site().states.read(home.base).argv == before


def test_a_failed_load_tells_its_model_until_somebody_clears_it(home: Home) -> None:
    home = home.with_engine("--die-at-once")
    home.model("a")
    port = home.base + 20
    assert home.run("load", "mlx-a", "auto").code == 7
    failed = row(home, port)
    assert (failed["phase"], failed["model_id"], failed["last_exit"]) == ("failed", "mlx-a", "exit code 3")
    assert home.registry().at(port) is None
    cleared = home.run("unload", str(port), "--json")
    assert (cleared.code, cleared.data["model_id"]) == (0, "mlx-a")
    assert (row(home, port)["phase"], row(home, port)["model_id"]) == ("stopped", None)
    assert home.run("unload", str(port), "--json").error["code"] == "nothing_on_port"
