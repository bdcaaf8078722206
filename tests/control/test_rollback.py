"""A load that fails: nothing of the new model stays, and what was there before serves again."""

from __future__ import annotations

import errno
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxctl.control.commands.load import LoadFlags
from mlxctl.control.commands.load import load as command
from mlxctl.core.errors import MlxctlError
from tests.fakes.home import Home
from tests.fakes.story import (
    FaultyHost,
    alive,
    assigned,
    bring_up,
    is_free,
    nothing_left,
    processes_of,
    refused,
    rows,
    serving,
    state,
    stranger,
    until,
)

QUICK = {"MLXCTL_READY_TIMEOUT_S": "1"}
FAILURES = [
    (("--die-at-once",), {}, "died", "exit code 3"),
    (("--listen-after", "0.2", "--die-after", "0", "--silent"), {}, "died", "SIGSEGV"),
    (("--name", "somebody-else"), {}, "wrong_model", "somebody-else"),
    (("--never-listen",), QUICK, "timeout", "does not listen"),
    (("--chat-status", "500"), QUICK, "bad_answer", "HTTP 500: asked to fail"),
]
NAMES = ["dies at once", "dies after it listened", "another name", "never ready", "HTTP 500"]


@pytest.mark.parametrize(("faults", "settings", "code", "word"), FAILURES, ids=NAMES)
def test_the_old_model_serves_again(
    home: Home, faults: tuple[str, ...], settings: dict[str, str], code: str, word: str
) -> None:
    home = home.with_engine(*faults, "--only", "new", **settings)
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    before = home.registry_path.read_bytes()
    error = refused(home, "mlx-new", 0)
    assert (error.code, error.exit_code) == (code, 7)
    assert word in error.message
    assert f"mlx-old serves on port {home.base} again" in error.hint
    assert serving(home) == {0: "mlx-old"}
    assert home.registry_path.read_bytes() == before
    assert len(processes_of(home)) == 1
    assert state(home, 0).wanted == "up"


@pytest.mark.parametrize(("faults", "settings", "code", "word"), FAILURES, ids=NAMES)
def test_nothing_stays_of_a_first_load(
    home: Home, faults: tuple[str, ...], settings: dict[str, str], code: str, word: str
) -> None:
    home = home.with_engine(*faults, **settings)
    home.model("new")
    error = refused(home, "mlx-new", 20)
    assert (error.code, error.exit_code) == (code, 7)
    nothing_left(home, 20)
    assert assigned(home) == {}
    known = state(home, 20)
    assert (known.phase, known.wanted) == ("failed", "down")
    assert known.last_failure is not None
    assert word in known.last_failure["message"]


def test_what_failed_is_remembered_beside_the_model_that_came_back(home: Home) -> None:
    home = home.with_engine("--die-at-once", "--only", "new")
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    refused(home, "mlx-new", 0)
    known = state(home, 0)
    assert (known.phase, known.model_id) == ("ready", "mlx-old")
    assert known.last_failure is not None
    assert known.last_failure["model_id"] == "mlx-new"


@pytest.mark.parametrize(
    ("mend", "code", "exit_code"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "bad_model", 7),
        (lambda folder: (folder / "config.json").write_text("{"), "bad_model", 7),
    ],
    ids=["weights gone", "config torn"],
)
def test_what_can_be_known_before_is_refused_before_anything_stops(
    home: Home, mend: Callable[[Path], object], code: str, exit_code: int
) -> None:
    home = home.with_engine(HF_HUB_OFFLINE="1")
    home.model("old")
    folder = home.model("new", register=False)
    bring_up(home, str(folder), 20)
    bring_up(home, "mlx-old", 0)
    pid = state(home, 0).pid
    mend(folder)
    error = refused(home, "mlx-new", 0)
    assert (error.code, error.exit_code) == (code, exit_code)
    assert state(home, 0).pid == pid
    assert serving(home) == {0: "mlx-old", 20: "mlx-new"}


def test_a_registry_that_cannot_be_written_at_commit_rolls_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    before = home.registry_path.read_bytes()
    real = tempfile.mkstemp

    def full(*given: object, dir: Path, **more: object) -> tuple[int, str]:
        if Path(dir).is_relative_to(home.hub_cache):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given, dir=dir, **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(tempfile, "mkstemp", full)
    error = refused(home, "mlx-new", 0)
    assert (error.code, error.exit_code) == ("disk_full", 6)
    monkeypatch.undo()
    assert serving(home) == {0: "mlx-old"}
    assert home.registry_path.read_bytes() == before
    assert len(processes_of(home)) == 1


@pytest.mark.parametrize("stays_full", [False, True], ids=["for one write", "from then on"])
def test_a_disk_that_fills_up_at_any_write_of_a_load(
    home: Home, monkeypatch: pytest.MonkeyPatch, stays_full: bool
) -> None:
    """The n-th write of a load fails, for every n: exit 6 and nothing left, or done."""
    home = home.with_engine()
    home.model("a")
    real = tempfile.mkstemp
    codes = []
    for doomed in range(1, 12):
        written = 0

        def full(*given: object, **more: object) -> tuple[int, str]:
            nonlocal written
            written += 1
            if written == doomed or (stays_full and written > doomed):  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given, **more)  # type: ignore[call-overload,no-any-return]

        monkeypatch.setattr(tempfile, "mkstemp", full)
        try:
            command(home.site(), "mlx-a", str(home.base), LoadFlags())
            codes.append("done")
        except MlxctlError as error:
            codes.append(error.code)
        monkeypatch.setattr(tempfile, "mkstemp", real)
        if codes[-1] == "done":
            assert serving(home) == assigned(home) == {0: "mlx-a"}, doomed
            if written < doomed:
                break
            home.site().store.update(lambda registry: registry.unassign(home.base))
            refused_pid = state(home, 0).pid
            assert refused_pid is not None
            home.stop_everything()
        else:
            assert codes[-1] == "disk_full", (doomed, codes)
            assert serving(home) == assigned(home) == {}, doomed
            assert processes_of(home) == [], f"write {doomed} left a process"
        # a process that is being torn down may hold its socket for a moment longer than its memory
        until(lambda: is_free(home.base), "the port is free again")
    assert codes[-1] == "done"
    assert codes.count("disk_full") >= 4


def test_a_replace_on_a_full_disk_leaves_the_old_model_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    pid = bring_up(home, "mlx-old", 0).data["pid"]

    def full(*_: object, **__: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert refused(home, "mlx-new", 0).exit_code == 6
    monkeypatch.undo()
    assert serving(home) == assigned(home) == {0: "mlx-old"}
    assert state(home, 0).pid == pid


def test_a_stranger_on_the_port_is_named_and_nothing_is_stopped(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 20)
    with stranger(home.base + 5):
        error = refused(home, "mlx-a", 5)
        assert (error.code, error.exit_code) == ("port_taken", 5)
        assert Path(sys.executable).name[:6] in error.message
        assert "never moves away" in error.hint
        assert "held by" in str(rows(home)[5]["stranger"] and error.message)
    assert serving(home) == assigned(home) == {20: "mlx-a"}


def test_a_program_that_is_not_there_is_said_and_the_old_one_comes_back(home: Home) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    host = FaultyHost()
    host.doomed[home.base] = ["/nowhere/at-all"]
    host.after_spawn = lambda: None

    def only_once() -> None:
        if len(host.events) > 2:
            host.doomed.clear()

    host.before_spawn = only_once
    error = refused(home, "mlx-new", 0, site=home.site(host=host))
    assert (error.code, error.exit_code) == ("no_engine", 7)
    assert "/nowhere/at-all" in error.message
    assert alive(home, 0)
    assert serving(home) == assigned(home) == {0: "mlx-old"}


def test_an_old_model_that_does_not_come_back_is_told(home: Home) -> None:
    home = home.with_engine()
    home.model("old")
    home.model("new")
    bring_up(home, "mlx-old", 0)
    error = refused(home, "mlx-new", 0, site=home.site(host=FaultyHost(doomed={home.base: ["false"]})))
    assert error.code == "died"
    assert "mlx-old, which served before, did not come back" in error.hint
    nothing_left(home, 0)
    row = rows(home)[0]
    assert (row["phase"], row["model_id"]) == ("failed", "mlx-old")
    assert bring_up(home, "mlx-old").data["port"] == home.base
