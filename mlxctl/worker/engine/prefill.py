"""Reads one job's prompt, a chunk at a time and alone: one row needs no padding, and a chunk is a place to stop."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxctl.worker.engine.chains import LEAST_GAIN, Chains
from mlxctl.worker.engine.layout import arrays_of
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.kv.tree import agreeing


class Prefill:
    """A job whose cache is being filled. Its first sequence holds the chain until the others share it."""

    def __init__(self, model: Any, chains: Chains, job: Job) -> None:
        self.model, self.chains, self.job = model, chains, job
        self.target = job.target
        self.caches, self.done = chains.restore(job)
        self.cached = self.done
        self.stops = chains.stops(job, self.done)
        self._shared: dict[Job, int] = {}

    @property
    def leader(self) -> Sequence:
        return self.job.sequences[0]

    @property
    def left(self) -> int:
        return self.target - self.done

    def read(self, tokens: int) -> int:
        """Read at most so many tokens; returns how many. Waits until they are in the cache."""
        end = min([self.done + tokens, self.target, *(stop for stop in self.stops if stop > self.done)])
        count = end - self.done
        self.model(mx.array([self.job.tokens[self.done : end]]), cache=self.caches)
        mx.eval(arrays_of(self.caches))
        self.done = end
        if end in self.stops:
            self.chains.seal_branch(self.leader, self.caches, end)
        else:
            self.chains.seal(self.leader, self.caches, end)
        return count

    def is_worth_waiting_for(self, job: Job) -> bool:
        """Whether this will soon bring a good part of another job's beginning: waiting is cheaper than reading it
        twice. If so it will pause where the two part.
        """
        mine, yours = self.job.generation, job.generation
        if mine.salt != yours.salt or mine.priority > yours.priority:
            return False
        if job not in self._shared:
            self._shared[job] = min(agreeing(self.job.tokens, job.tokens), self.target, job.target)
        shared = self._shared[job]
        if shared <= self.done or shared - self.chains.known_length(job) < LEAST_GAIN:
            return False
        if shared not in self.stops:
            self.stops.append(shared)
        return True

    def drop(self, row: Sequence) -> None:
        """Go on without one of several sequences."""
        leader = self.leader
        self.job.sequences.remove(row)
        if row is leader:
            self.chains.share(row, self.leader)
            self.chains.let_go(row)

    def abandon(self) -> None:
        """Stop reading. What was sealed stays in the store."""
        self.chains.let_go(self.leader)
