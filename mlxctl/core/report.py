"""How long work tells of itself: a `Reporter` is handed down, the terminal implements it, tests record it."""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """One thing under way, with an amount where it is known."""

    def advance(self, amount: int) -> None:
        """`amount` more units (bytes for downloads) are done; negative when a server made us start a file again."""

    def finish(self) -> None:
        """The task is over; what it showed may vanish."""


class Reporter(Protocol):
    """Receives what a person at a terminal would want to see while a command runs."""

    def note(self, message: str) -> None:
        """One line that stays: a step begun, a thing skipped and why."""

    def task(self, title: str, total: int | None = None, unit: str = "") -> Task:
        """Begin a task. `total` is None when unknown (a spinner); `unit` is "bytes" for downloads."""


class SilentTask:
    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        pass


class Silent:
    """A reporter for `--json` and for callers that do not look."""

    def note(self, message: str) -> None:
        pass

    def task(self, title: str, total: int | None = None, unit: str = "") -> SilentTask:
        return SilentTask()
