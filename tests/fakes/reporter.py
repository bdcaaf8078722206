"""A reporter that remembers what it was told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class RecordedTask:
    title: str
    total: int | None
    unit: str
    done: int = 0
    finished: bool = False
    lowest: int = 0
    highest: int = 0

    def advance(self, amount: int) -> None:
        self.done += amount
        self.lowest, self.highest = min(self.lowest, self.done), max(self.highest, self.done)

    def finish(self) -> None:
        self.finished = True


@dataclass
class Recorder:
    """`noted` is set at the first note, for tests that wait for one."""

    notes: list[str] = field(default_factory=list)
    tasks: list[RecordedTask] = field(default_factory=list)
    noted: threading.Event = field(default_factory=threading.Event)

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.noted.set()

    def task(self, title: str, total: int | None = None, unit: str = "") -> RecordedTask:
        task = RecordedTask(title, total, unit)
        self.tasks.append(task)
        return task
