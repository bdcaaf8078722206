"""Who goes first: classes, age, and whom a more urgent job may push out of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from mlxctl.worker.types import Priority


class Waiting(Protocol):
    @property
    def priority(self) -> Priority: ...
    @property
    def arrived_s(self) -> float: ...
    @property
    def number(self) -> int: ...


class Running(Protocol):
    @property
    def admitted(self) -> int: ...


W = TypeVar("W", bound=Waiting)
R = TypeVar("R", bound=Running)


def aged_class(job: Waiting, now_s: float, ageing_s: float) -> int:
    """Its class, one better for every `ageing_s` that it has waited; so `low` overtakes new `high` in the end."""
    return int(job.priority) - int(max(0.0, now_s - job.arrived_s) / ageing_s)


def in_order(jobs: Iterable[W], now_s: float, ageing_s: float) -> list[W]:
    """The best first: by aged class, then by arrival."""
    return sorted(jobs, key=lambda job: (aged_class(job, now_s, ageing_s), job.number))


def victim(running: Sequence[tuple[R, Priority]], priority: Priority) -> R | None:
    """The row that gives way to a job of `priority`: of a worse class, the worst of them, the latest to come."""
    worse = [(row, other) for row, other in running if other > priority]
    if not worse:
        return None
    return max(worse, key=lambda pair: (pair[1], pair[0].admitted))[0]


def least_deserving(running: Sequence[tuple[R, Priority]]) -> R:
    """The row that goes when memory runs out under those who are in the batch already."""
    return max(running, key=lambda pair: (pair[1], pair[0].admitted))[0]


def next_to_read(jobs: Sequence[tuple[W, int]], turn: int, now_s: float, ageing_s: float) -> W:
    """Whose chunk comes next; `jobs` with the tokens that each still has to read.

    Within the best class short prompts go first, so that a question does not wait for a book; every other turn is
    the oldest one's, so that the book is read as well.
    """
    best = min(aged_class(job, now_s, ageing_s) for job, _ in jobs)
    peers = [(job, left) for job, left in jobs if aged_class(job, now_s, ageing_s) == best]
    if turn % 2:
        return min(peers, key=lambda pair: pair[0].number)[0]
    return min(peers, key=lambda pair: (pair[1], pair[0].number))[0]
