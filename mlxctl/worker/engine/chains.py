"""The step loop's side of the block store: what a row brings in, what it keeps hold of, what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

from mlxctl.worker.engine.capture import capture, restore
from mlxctl.worker.engine.layout import Layout, new_caches
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.kv.blocks import BlockStore
from mlxctl.worker.scheduler.line import waits_for

SNAPSHOT_TOKENS = 1024
"""A model with recurrent state can be restored only where its state was kept: this often, and at a prompt's end."""


class Chains:
    """Seals blocks of rows into a store and restores rows from it. `store` None: nothing is kept."""

    def __init__(self, model: Any, layout: Layout, store: BlockStore | None) -> None:
        self.model, self.layout = model, layout
        self.store = store if layout.divisible else None

    def hashes(self, job: Job) -> list[bytes]:
        return self.store.chain_hashes(job.tokens, job.generation.salt) if self.store else []

    def should_wait(self, job: Job, reading: Several[Job]) -> bool:
        """Whether somebody is reading this job's beginning just now: waiting is cheaper than reading it twice."""
        others = [other.hashes for other in reading if other.generation.salt == job.generation.salt]
        if self.store is None or not others or not job.hashes:
            return False
        known = self.store.known_length(job.tokens, job.target, job.generation.salt) // self.store.block_tokens
        return waits_for(job.hashes, known, others)

    def restore(self, job: Job) -> tuple[list[Any], int]:
        """Caches that hold the longest known beginning of the job's tokens, and its length. The job's first sequence
        holds the chain from then on.
        """
        row = job.sequences[0]
        row.lease, row.sealed, row.sealing = None, 0, True
        if self.store is None:
            return new_caches(self.model), 0
        match = self.store.match(job.tokens, job.target, job.generation.salt)
        caches = restore(self.layout, self.model, match)
        block = match.last
        if block is not None and len(block.tokens) < self.store.block_tokens:
            # nothing can hang on a tail: what follows begins again at the last full block
            row.lease, row.sealed = block.parent, block.start
            if block.parent is not None:
                self.store.acquire(block.parent)
            self.store.release(block)
        elif block is not None:
            row.lease, row.sealed = block, block.end
        return caches, match.length

    def chunk_end(self, done: int, tokens: int, target: int) -> int:
        """Where a chunk of `tokens` tokens ends: earlier, where the state has to be kept."""
        end = min(done + tokens, target)
        if self.store is None or not self.layout.has_state:
            return end
        stops = [(done // SNAPSHOT_TOKENS + 1) * SNAPSHOT_TOKENS, self._last_block(target)]
        return min([end, *(stop for stop in stops if done < stop < end)])

    def is_snapshot(self, done: int, target: int) -> bool:
        """Whether a prompt of `target` tokens keeps its state after `done` of them."""
        return self.layout.has_state and (done % SNAPSHOT_TOKENS == 0 or done == self._last_block(target))

    def seal(self, row: Sequence, caches: Several[Any], held: int, *, snapshot: bool = False) -> None:
        """Seal the full blocks of a row whose caches stand after `held` tokens; `snapshot`: with the state there."""
        if self.store is None:
            return
        size = self.store.block_tokens
        while row.sealing and row.sealed + size <= held:
            self._seal_next(row, caches, row.sealed + size, state=snapshot and row.sealed + size == held)

    def seal_tail(self, row: Sequence, caches: Several[Any], held: int) -> None:
        """Keep what a row leaves behind, down to its last token, for the turn that follows."""
        self.seal(row, caches, held, snapshot=True)
        if self.store is not None and row.sealing and row.sealed < held:
            self._seal_next(row, caches, held, state=True)

    def share(self, source: Sequence, row: Sequence) -> None:
        """Let `row`, which continues the same tokens, hold the same chain."""
        if self.store is not None and source.lease is not None:
            self.store.acquire(source.lease)
        row.lease, row.sealed, row.sealing = source.lease, source.sealed, source.sealing

    def let_go(self, row: Sequence) -> None:
        if self.store is not None and row.lease is not None:
            self.store.release(row.lease)
        row.lease = None

    def _last_block(self, target: int) -> int:
        return target - target % self.store.block_tokens if self.store else 0

    def _seal_next(self, row: Sequence, caches: Several[Any], end: int, *, state: bool) -> None:
        if self.store is None:
            return
        payload = capture(self.layout, caches, row.sealed, end, state=state)
        block = None
        if payload is not None:
            block = self.store.seal(row.lease, row.tokens[row.sealed : end], payload, row.generation.salt)
        if block is None:
            row.sealing = False
            return
        self.let_go(row)
        row.lease, row.sealed = block, end
