"""Progress: columns of amounts and time, lines where there is no terminal, and never a reason to fail."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.progress import Progress, Task

from mlxctl.ui.cli.columns import AmountColumn, LeftColumn
from mlxctl.ui.cli.progress import TerminalReporter, TerminalTask


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A terminal that was closed, or a pipe without a reader."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def task(*, total: float | None, done: int, unit: str = "bytes") -> Task:
    progress = Progress()
    progress.add_task("x", total=total, completed=done, unit=unit)
    return progress.tasks[0]


@pytest.mark.parametrize(
    ("facts", "speed", "shown"),
    [
        ({"total": 4e9, "done": 1_200_000_000}, None, "1.2 GB of 4.0 GB"),
        ({"total": 4e9, "done": 1_200_000_000}, 85e6, "1.2 GB of 4.0 GB, 85.0 MB/s"),
        ({"total": None, "done": 1_200_000_000}, None, "1.2 GB"),
        ({"total": 4e9, "done": 0}, None, "0 B of 4.0 GB"),
        ({"total": None, "done": 0}, None, ""),
        ({"total": 10, "done": 5, "unit": ""}, 85e6, ""),
    ],
)
def test_amounts(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], speed: float | None, shown: str) -> None:
    monkeypatch.setattr(Task, "speed", property(lambda _: speed))
    assert AmountColumn().render(task(**facts)).plain == shown


@pytest.mark.parametrize(
    ("total", "remaining", "shown"),
    [(100, 65.0, "1:05 left"), (100, 0.4, "0:00 left"), (100, 3725, "62:05 left"), (None, 5.0, ""), (100, None, "")],
)
def test_time_left(monkeypatch: pytest.MonkeyPatch, total: float | None, remaining: float | None, shown: str) -> None:
    monkeypatch.setattr(Task, "time_remaining", property(lambda _: remaining))
    assert LeftColumn().render(task(total=total, done=1)).plain == shown


def test_without_a_terminal_a_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    begun = reporter.task("Downloading x", total=100, unit="bytes")
    begun.advance(50)
    begun.finish()
    reporter.note("done [bold]")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "Downloading x …\ndone [bold]\n")
    assert reporter.progress is None


def test_on_a_terminal_tasks_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    reporter = TerminalReporter()
    first = reporter.task("Downloading x", total=4_000_000, unit="bytes")
    second = reporter.task("Converting x")
    assert isinstance(first, TerminalTask)
    first.advance(1_000_000)
    assert reporter.progress is not None
    assert [one.completed for one in reporter.progress.tasks] == [1_000_000, 0]
    first.advance(-400_000)
    assert reporter.progress.tasks[0].completed == 600_000
    reporter.progress.refresh()
    reporter.note("a note [1]")
    first.finish()
    first.finish()
    assert reporter.running == 1
    second.finish()
    assert (reporter.running, reporter.progress) == (0, None)
    told = screen.getvalue()
    for word in ("Downloading x", "Converting x", "4.0 MB", "a note [1]"):
        assert word in told
    again = reporter.task("Waiting")
    again.finish()
    assert "Waiting" in screen.getvalue() or reporter.progress is None


def test_a_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Gone())
    reporter = TerminalReporter()
    reporter.note("nobody reads this")
    reporter.task("nor this").finish()
