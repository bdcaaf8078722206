"""What a person sees: colours and progress on a terminal, plain text in a pipe, and questions with an answer."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.fakes.home import Home
from tests.fakes.story import assigned, bring_up, serving
from tests.fakes.terminal import CTRL_C, Terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def loaded(home: Home) -> Home:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    return home


def test_a_terminal_shows_colours_and_a_pipe_does_not(home: Home) -> None:
    home = loaded(home)
    with Terminal.run(home, "status") as terminal:
        assert terminal.end() == 0
    assert COLOUR.search(terminal.shown)
    assert "mlx-a" in terminal.shown
    for argv in (("status",), ("list",), ("config",), ("load", "mlx-b", "auto")):
        told = home.run(*argv)
        assert "\x1b" not in told.out + told.err, argv


@pytest.mark.parametrize("argv", [("status",), ("load", "mlx-nobody", "auto")])
def test_no_color_is_honoured_on_a_terminal(home: Home, argv: tuple[str, ...]) -> None:
    home = loaded(home)
    with Terminal.run(home, *argv, NO_COLOR="1") as terminal:
        terminal.end()
    colours = {code for code in COLOUR.findall(terminal.shown) if re.search(r"\[(3|4|9|10)\d", code)}
    assert not colours, terminal.shown


def test_progress_is_shown_while_a_model_loads_and_is_gone_afterwards(home: Home) -> None:
    home = home.with_engine("--listen-after", "0.8")
    home.model("a")
    with Terminal.run(home, "load", "mlx-a", str(home.base)) as terminal:
        terminal.wait_for("Waiting for mlx-a to answer on port")
        assert terminal.end() == 0
    last = COLOUR.sub("", terminal.shown).replace("\r", "\n").split("\n")
    assert any(f"mlx-a is ready on port {home.base} after" in line for line in last)
    assert any(f"http://127.0.0.1:{home.base}/v1" in line for line in last)


@pytest.mark.parametrize(
    ("typed", "code", "stays"), [("y\n", 0, False), ("yes\n", 0, False), ("n\n", 0, True), ("\n", 0, True)]
)
def test_unload_all_asks_on_a_terminal(home: Home, typed: str, code: int, stays: bool) -> None:
    home = loaded(home)
    with Terminal.run(home, "unload-all") as terminal:
        terminal.wait_for("Stop every model on this host? [y/N]")
        assert serving(home) == {0: "mlx-a"}
        terminal.type(typed)
        assert terminal.end() == code
    assert ("nothing was changed" in terminal.shown) == stays
    assert serving(home) == assigned(home) == ({0: "mlx-a"} if stays else {})


@pytest.mark.parametrize(("typed", "code"), [(CTRL_C, 130), ("\x04", 0)])
def test_a_question_can_be_left(home: Home, typed: str, code: int) -> None:
    home = loaded(home)
    with Terminal.run(home, "unload-all") as terminal:
        terminal.wait_for("[y/N]")
        terminal.type(typed)
        assert terminal.end() == code
    assert "Traceback" not in terminal.shown
    assert serving(home) == {0: "mlx-a"}


def test_yes_answers_without_a_terminal(home: Home) -> None:
    home = loaded(home)
    told = home.run("unload-all", "--yes", "--json")
    assert told.data["unloaded"] == [{"port": home.base, "model_id": "mlx-a", "last_exit": "SIGTERM"}]
    assert serving(home) == assigned(home) == {}
    assert home.run("unload-all", "--yes").err == "nothing was loaded\n"


@pytest.mark.parametrize("argv", [("list",), ("config",), ("status", "--json"), ("logs", "{port}", "-n", "9999")])
def test_a_reader_who_has_seen_enough(home: Home, argv: tuple[str, ...]) -> None:
    """`mlxctl … | head -1`, with a reader that is gone before the first line."""
    home = loaded(home)
    command = " ".join([sys.executable, "-m", "mlxctl", *argv]).format(port=home.base)
    for reader in ("head -1", "true"):
        piped = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {{ sleep 0.05; {command}; }} | {reader}"],
            env=home.env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (piped.returncode, piped.stderr) == (0, ""), reader


def test_logs_follow_until_ctrl_c(home: Home) -> None:
    home = home.with_engine("--chatter")
    home.model("a")
    bring_up(home, "mlx-a", 0)
    with Terminal.run(home, "logs", "mlx-a", "-f", "-n", "2") as terminal:
        terminal.wait_for("loading")
        lines = terminal.shown.count("\n")
        # more than the last two lines: what is written meanwhile comes, too
        while terminal.shown.count("\n") < lines + 10:
            assert terminal.child.poll() is None
            terminal.read(0.1)
        terminal.type(CTRL_C)
        assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


def test_the_version_and_the_help(home: Home) -> None:
    from mlxctl import __version__

    assert home.run("--version").out == f"mlxctl {__version__}\n"
    shown = home.run("--help")
    assert shown.code == 0
    for verb in ("load", "unload", "status", "reconcile", "verify", "quickstart", "registry", "chat", "logs"):
        assert verb in shown.out
    assert home.run().code == 2
