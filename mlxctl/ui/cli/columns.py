"""The columns of a progress bar that depend on whether amounts are bytes and whether the total is known."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text

from mlxctl.control.memory import human_bytes


class AmountColumn(ProgressColumn):
    """ "1.2 GB of 4.0 GB, 85.0 MB/s", or what is known of it."""

    def render(self, task: Task) -> Text:
        if task.fields.get("unit") != "bytes" or not (task.completed or task.total):
            return Text("")
        amount = human_bytes(task.completed)
        if task.total is not None:
            amount += f" of {human_bytes(task.total)}"
        return Text(f"{amount}, {human_bytes(task.speed)}/s" if task.speed else amount, style="cyan")


class LeftColumn(ProgressColumn):
    """Time left, where a total is known."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.time_remaining is None:
            return Text("")
        minutes, seconds = divmod(int(task.time_remaining), 60)
        return Text(f"{minutes}:{seconds:02d} left", style="cyan")
