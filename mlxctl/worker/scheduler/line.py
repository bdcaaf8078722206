"""Who goes first: classes, age, and whom a more urgent job may push out of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from mlxctl.worker.types import Priority


class Waiting(Protocol):
    @property
    def priority(self) -> Priority: ...
    @property
    def number(self) -> int: ...

    def waited_s(self, now_s: float) -> float: ...


class Running(Protocol):
    @property
    def admitted(self) -> int: ...


W = TypeVar("W", bound=Waiting)
R = TypeVar("R", bound=Running)


def aged_class(priority: Priority, waited_s: float, ageing_s: float) -> int:
    """A class, one better for every `ageing_s` of waiting; so `low` overtakes new `high` in the end."""
    return int(priority) - int(waited_s / ageing_s)


def in_order(jobs: Iterable[W], now_s: float, ageing_s: float) -> list[W]:
    """The best first: by aged class, then by arrival."""
    return sorted(jobs, key=lambda job: (aged_class(job.priority, job.waited_s(now_s), ageing_s), job.number))


def weaker(running: Iterable[tuple[R, int]], priority: Priority) -> list[R]:
    """The rows that may give way to a job of `priority`, the first to go first: the worst class, the latest to come.

    `running`: rows with their aged classes. What a row waited counts, or it would give way again and again.
    """
    worse = [(row, its_class) for row, its_class in running if its_class > priority]
    return [row for row, _ in sorted(worse, key=lambda pair: (-pair[1], -pair[0].admitted))]


def least_deserving(running: Sequence[tuple[R, int]]) -> R:
    """The row that goes when memory runs out under those who are in the batch already."""
    return max(running, key=lambda pair: (pair[1], pair[0].admitted))[0]


def next_to_read(jobs: Sequence[tuple[W, int]], turn: int, now_s: float, ageing_s: float) -> W:
    """Whose chunk comes next; `jobs` with the tokens that each still has to read.

    Within the best class short prompts go first, so that a question does not wait for a book; every other turn is
    the oldest one's, so that the book is read as well.
    """
    classes = [aged_class(job.priority, job.waited_s(now_s), ageing_s) for job, _ in jobs]
    peers = [pair for pair, its_class in zip(jobs, classes, strict=True) if its_class == min(classes)]
    if turn % 2:
        return min(peers, key=lambda pair: pair[0].number)[0]
    return min(peers, key=lambda pair: (pair[1], pair[0].number))[0]
