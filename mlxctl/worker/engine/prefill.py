"""Reads one job's prompt, a chunk at a time and alone: one row needs no padding, and a chunk is a place to stop."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxctl.worker.engine.chains import Chains
from mlxctl.worker.engine.layout import arrays_of
from mlxctl.worker.engine.sequence import Job, Sequence


class Prefill:
    """A job whose cache is being filled. Its first sequence holds the chain until the others share it."""

    def __init__(self, model: Any, chains: Chains, job: Job) -> None:
        self.model, self.chains, self.job = model, chains, job
        self.target = job.target
        self.caches, self.done = chains.restore(job)
        self.cached = self.done

    @property
    def leader(self) -> Sequence:
        return self.job.sequences[0]

    @property
    def left(self) -> int:
        return self.target - self.done

    def read(self, tokens: int) -> int:
        """Read at most so many tokens; returns how many. Waits until they are in the cache."""
        end = self.chains.chunk_end(self.done, tokens, self.target)
        count = end - self.done
        self.model(mx.array([self.job.tokens[self.done : end]]), cache=self.caches)
        mx.eval(arrays_of(self.caches))
        self.done = end
        self.chains.seal(self.leader, self.caches, end, snapshot=self.chains.is_snapshot(end, self.target))
        return count

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
