"""The step loop's side of the block store: what a row brings in, what it keeps hold of, what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

from mlxctl.worker.engine.capture import capture, restore
from mlxctl.worker.engine.layout import Layout, new_caches
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.kv.blocks import BlockStore

LEAST_GAIN = 16
"""Tokens for which it is worth to stop, or to wait for another who reads them."""
SNAPSHOT_TOKENS = 1024
"""A model with recurrent state can be restored only where its state was kept: this often, and at a prompt's end."""


class Chains:
    """Seals blocks of rows into a store and restores rows from it. `store` None: nothing is kept."""

    def __init__(self, model: Any, layout: Layout, store: BlockStore | None) -> None:
        self.model, self.layout = model, layout
        self.store = store if layout.divisible else None

    def stops(self, job: Job, done: int) -> list[int]:
        """Where reading a job's prompt should pause, to keep what others will want to go on from: where the prompt
        parts from what is sealed, and where a recurrent state is kept.
        """
        if self.store is None:
            return []
        parting = self.store.common_length(job.tokens, job.target, job.generation.salt)
        stops = [parting] if parting - done >= LEAST_GAIN else []
        if self.layout.has_state:
            stops += range(SNAPSHOT_TOKENS, job.target, SNAPSHOT_TOKENS)
            stops.append(job.target - job.target % self.store.block_tokens)
        return sorted(stop for stop in set(stops) if stop > done)

    def known_length(self, job: Job) -> int:
        return self.store.known_length(job.tokens, job.target, job.generation.salt) if self.store else job.target

    def restore(self, job: Job) -> tuple[list[Any], int]:
        """Caches that hold the longest known beginning of the job's tokens, and its length. The job's first sequence
        holds the chain from then on.
        """
        row = job.sequences[0]
        row.lease, row.sealed, row.sealing = None, 0, True
        if self.store is None:
            return new_caches(self.model), 0
        match = self.store.match(job.tokens, job.target, job.generation.salt)
        block = match.last
        if block is not None and len(block.tokens) < self.store.block_tokens:
            # nothing can hang on a tail: what follows begins again at the last full block
            row.lease, row.sealed = block.parent, block.start
            if block.parent is not None:
                self.store.acquire(block.parent)
            self.store.release(block)
        elif block is not None:
            row.lease, row.sealed = block, block.end
        # last: what the row holds by now is given back if this fails
        return restore(self.layout, self.model, match), match.length

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

    def seal_branch(self, row: Sequence, caches: Several[Any], held: int) -> None:
        """Keep a row's last block as far as it goes, for others to go on from; the row itself goes on below."""
        self.seal(row, caches, held, snapshot=True)
        if self.store is None or not row.sealing or row.sealed == held:
            return
        payload = capture(self.layout, caches, row.sealed, held, state=True)
        if payload is None:
            return
        block = self.store.seal(row.lease, row.tokens[row.sealed : held], payload, row.generation.salt)
        if block is not None:
            self.store.release(block)

    def share(self, source: Sequence, row: Sequence) -> None:
        """Let `row`, which continues the same tokens, hold the same chain."""
        if self.store is not None and source.lease is not None:
            self.store.acquire(source.lease)
        row.lease, row.sealed, row.sealing = source.lease, source.sealed, source.sealing

    def let_go(self, row: Sequence) -> None:
        if self.store is not None and row.lease is not None:
            self.store.release(row.lease)
        row.lease = None

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
