"""Progress on standard error: bars and spinners on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from mlxctl.core.report import SilentTask, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class TerminalReporter:
    """A `Reporter` for people. rich is imported with the first task: `list` and `status` never have one."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.running = 0

    def note(self, message: str) -> None:
        # a terminal that was closed, or a pipe that nobody reads: no reason to stop, least of all in a rollback
        with contextlib.suppress(OSError):
            if self.progress is not None and self.running:
                self.progress.console.print(message, style="dim", markup=False, highlight=False)
            else:
                print(message, file=sys.stderr, flush=True)

    def task(self, title: str, total: int | None = None, unit: str = "") -> Task:
        if not sys.stderr.isatty():
            self.note(f"{title} …")
            return SilentTask()
        progress = self._progress()
        if not self.running:
            progress.start()
        self.running += 1
        return TerminalTask(self, progress, progress.add_task(title, total=total, unit=unit))

    def ended(self) -> None:
        self.running -= 1
        if not self.running and self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _progress(self) -> Progress:
        if self.progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            from mlxctl.ui.cli.columns import AmountColumn, LeftColumn

            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                AmountColumn(),
                LeftColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
        return self.progress


class TerminalTask:
    def __init__(self, reporter: TerminalReporter, progress: Progress, number: TaskID) -> None:
        self.reporter, self.progress, self.number = reporter, progress, number
        self.open = True

    def advance(self, amount: int) -> None:
        self.progress.advance(self.number, amount)

    def finish(self) -> None:
        if self.open:
            self.open = False
            self.progress.remove_task(self.number)
            self.reporter.ended()
