"""Jobs on their way into the batch: those that wait for room, and those whose prompts are being read."""

from __future__ import annotations

from collections.abc import Iterator

from mlxctl.worker.engine.prefill import Prefill
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.scheduler.line import in_order, next_to_read

MAX_READING = 4
"""Prompts that are read in turns; more would only make all of them late."""


class Intake:
    def __init__(self, ageing_s: float) -> None:
        self.ageing_s = ageing_s
        self.waiting: list[Job] = []
        self.reading: list[Prefill] = []
        self.turn = 0
        """Chunks read so far."""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.reading)

    @property
    def is_full(self) -> bool:
        return len(self.reading) >= MAX_READING

    @property
    def rows_to_come(self) -> int:
        """Rows that the prompts being read will bring into the batch."""
        return sum(len(prefill.job.sequences) for prefill in self.reading)

    @property
    def coming(self) -> int:
        """Rows that are being read for, and jobs that wait."""
        return self.rows_to_come + len(self.waiting)

    def in_order(self, now_s: float) -> list[Job]:
        return in_order(self.waiting, now_s, self.ageing_s)

    def next_to_read(self, now_s: float) -> Prefill:
        """Whose chunk comes next."""
        lefts = [(prefill.job, prefill.left) for prefill in self.reading]
        job = next_to_read(lefts, self.turn, now_s, self.ageing_s)
        return next(prefill for prefill in self.reading if prefill.job is job)

    def sequences(self) -> Iterator[Sequence]:
        for job in [*self.waiting, *(prefill.job for prefill in self.reading)]:
            yield from job.sequences

    def drop(self, row: Sequence) -> None:
        """Take one sequence out; a job without any is over, and what it read so far stays in the store."""
        for prefill in [prefill for prefill in self.reading if row in prefill.job.sequences]:
            if len(prefill.job.sequences) == 1:
                self.reading.remove(prefill)
                prefill.abandon()
            else:
                prefill.drop(row)
        for job in [job for job in self.waiting if row in job.sequences]:
            job.sequences.remove(row)
            if not job.sequences:
                self.waiting.remove(job)

    def put_back(self, prefill: Prefill) -> list[Sequence]:
        """Let a prompt that is being read wait again; its sequences, whose room is free now."""
        self.reading.remove(prefill)
        prefill.abandon()
        self.waiting.append(prefill.job)
        return prefill.job.sequences
