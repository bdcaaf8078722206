"""The block store: sealed blocks of cached tokens, shared by all whose prompt begins with them, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxctl.worker.kv.chain import ROOT, DigestFunction, block_digest
from mlxctl.worker.kv.eviction import Eviction, Ledger
from mlxctl.worker.kv.integrity import IntegrityError, check
from mlxctl.worker.kv.tree import Block, Node, Payload, Shape, Tokens, common_length, restorable_chain

__all__ = ["Block", "BlockStore", "Counters", "IntegrityError", "Match", "Payload"]


@dataclass(frozen=True, slots=True)
class Match:
    """A restore point: `blocks` from the first on, `length` tokens in all. The last block is held for the caller."""

    blocks: tuple[Block, ...] = ()
    length: int = 0
    blocks_for_window: tuple[Block, ...] = ()
    """Those at the end of `blocks` whose window parts are needed; the state needed is the last block's."""

    @property
    def last(self) -> Block | None:
        return self.blocks[-1] if self.blocks else None


@dataclass(slots=True)
class Counters:
    """What happened since the start. They only grow."""

    lookups: int = 0
    hits: int = 0
    lookup_tokens: int = 0
    """Tokens that the lookups would have liked to find."""
    hit_tokens: int = 0
    sealed: int = 0
    shared: int = 0
    """Seals that found their block there already."""
    refused: int = 0
    """Seals that found no room, everything being held."""
    stripped: int = 0
    evicted: int = 0
    evicted_bytes: int = 0
    """Stripped parts included."""


class BlockStore:
    """Owned by one thread.

    A reference on a block keeps it and its ancestors, and keeps it restorable. Every sealing and every match that is
    not empty gives the caller one reference, to be given back by `release`.
    """

    def __init__(
        self,
        *,
        block_tokens: int,
        budget_bytes: int,
        window_tokens: int = 0,
        needs_state: bool = False,
        revision: str = "",
        digest: DigestFunction = block_digest,
    ) -> None:
        """`window_tokens` 0: no sliding layers. `needs_state`: a restore point needs a state part."""
        if block_tokens < 1 or budget_bytes < 0 or window_tokens < 0:
            raise ValueError(f"no store has {block_tokens=}, {budget_bytes=}, {window_tokens=}")
        self._shape = Shape(block_tokens, window_tokens, needs_state)
        self._budget_bytes = budget_bytes
        self._revision = revision
        self._digest = digest
        self._roots: dict[str, Node] = {}
        self._ledger = Ledger()
        self._eviction = Eviction(self._shape, self._ledger, budget_bytes)
        self.counters = Counters()

    @property
    def bytes(self) -> int:
        return self._ledger.nbytes

    @property
    def budget_bytes(self) -> int:
        return self._budget_bytes

    @property
    def blocks(self) -> int:
        return self._ledger.blocks

    @property
    def referenced(self) -> int:
        """References that are out."""
        return self._ledger.references

    @property
    def block_tokens(self) -> int:
        return self._shape.block_tokens

    def match(self, tokens: Sequence[int], limit: int, salt: str = "") -> Match:
        """The longest chain with at most `limit` tokens that can be restored. An empty one needs no release."""
        wanted = tuple(tokens[: max(limit, 0)])
        chain = self._find(wanted, salt)
        self.counters.lookups += 1
        self.counters.lookup_tokens += len(wanted)
        if not chain:
            return Match()
        last = chain[-1]
        self.acquire(last)
        now = self._eviction.tick()
        for block in chain:
            parts_used = block is last or self._shape.reaches(block, last.end)
            self._eviction.hit(block, now, parts_used=parts_used)
        self.counters.hits += 1
        self.counters.hit_tokens += last.end
        return Match(tuple(chain), last.end, tuple(block for block in chain if self._shape.reaches(block, last.end)))

    def known_length(self, tokens: Sequence[int], limit: int, salt: str = "") -> int:
        """The length that `match` would have, and no trace left."""
        chain = self._find(tuple(tokens[: max(limit, 0)]), salt)
        return chain[-1].end if chain else 0

    def common_length(self, tokens: Sequence[int], limit: int, salt: str = "") -> int:
        """How many of at most `limit` tokens a chain begins with, also in mid-block: where the next one will part."""
        root = self._roots.get(salt)
        return common_length(root, tuple(tokens[: max(limit, 0)]), self._shape) if root else 0

    def seal(self, parent: Block | None, tokens: Sequence[int], payload: Payload, salt: str = "") -> Block | None:
        """Put a block below `parent` (None: at the start) and hold it for the caller.

        `block_tokens` tokens make a full block; fewer make a tail, which stays a leaf. A block that is there already
        is kept, and takes the parts it lacks as far as there is room. None: what is held leaves no room; nothing was
        kept. `ValueError`: `parent` is a tail, was evicted or has another salt, or the number of tokens is wrong.
        """
        ids = tuple(tokens)
        self._check_place(parent, ids, salt)
        offered = payload.checked()
        is_tail = len(ids) < self._shape.block_tokens
        above = parent if parent is not None else self._roots.get(salt)
        known = (above.tails if is_tail else above.children).get(ids) if above is not None else None
        if known is not None:
            self.acquire(known)
            self._fill(known, offered)
            self.counters.shared += 1
            return known
        if parent is not None:
            self.acquire(parent)
        try:
            if not self._make_room(offered.nbytes):
                self.counters.refused += 1
                return None
            return self._list(parent, ids, offered, salt)
        finally:
            if parent is not None:
                self.release(parent)

    def acquire(self, block: Block) -> None:
        """One more reference. `ValueError`: the block was evicted, which a held one never is."""
        if not block.is_listed:
            raise ValueError(f"{block!r} was evicted")
        block.refs += 1
        self._ledger.references += 1
        pinned: Block | None = block
        while pinned is not None:
            pinned.pins += 1
            if pinned.pins > 1:
                return
            self._ledger.pinned_bytes += pinned.payload.nbytes
            self._eviction.pinned(pinned)
            pinned = pinned.parent

    def release(self, block: Block) -> None:
        """Give one reference back. `IntegrityError`: there is none."""
        if block.refs < 1:
            raise IntegrityError(f"{block!r} is released more often than acquired")
        block.refs -= 1
        self._ledger.references -= 1
        now = self._eviction.tick()
        unpinned: Block | None = block
        while unpinned is not None:
            unpinned.pins -= 1
            if unpinned.pins:
                break
            self._ledger.pinned_bytes -= unpinned.payload.nbytes
            self._eviction.unpinned(unpinned, now)
            unpinned = unpinned.parent
        if not block.refs:
            self._eviction.offer_above(block)

    def shrink(self, to_bytes: int) -> int:
        """Evict until `to_bytes` are held or everything left is referenced; the bytes given back."""
        before = self._ledger.nbytes
        while self._ledger.nbytes > to_bytes and (self._strip_next() or self._evict_next()):
            pass
        return before - self._ledger.nbytes

    def clear(self) -> None:
        """Evict everything that is not referenced."""
        while self._evict_next():
            pass

    def check_integrity(self) -> None:
        """Raise `IntegrityError` if the books, the tree, the digests or the lines of eviction disagree."""
        check(self._roots, self._ledger, self._eviction, self._shape, self._budget_bytes, self._revision, self._digest)

    def _find(self, tokens: Tokens, salt: str) -> list[Block]:
        root = self._roots.get(salt)
        return [] if root is None else restorable_chain(root, tokens, self._shape)

    def _check_place(self, parent: Block | None, tokens: Tokens, salt: str) -> None:
        if not 0 < len(tokens) <= self._shape.block_tokens:
            raise ValueError(f"a block has 1 to {self._shape.block_tokens} tokens, not {len(tokens)}")
        if parent is None:
            return
        if not parent.is_listed:
            raise ValueError(f"{parent!r} was evicted")
        if len(parent.tokens) < self._shape.block_tokens:
            raise ValueError(f"{parent!r} is a tail: nothing goes below it")
        if parent.salt != salt:
            raise ValueError(f"{parent!r} has the salt {parent.salt!r}, not {salt!r}")

    def _fill(self, block: Block, offered: Payload) -> None:
        parts = offered.missing_from(block.payload)
        if self._make_room(parts.nbytes):
            block.payload.fill(parts)
            self._ledger.charge(block, parts.nbytes)

    def _make_room(self, nbytes: int) -> bool:
        """Make sure that `nbytes` fit. False: they cannot; no block was evicted in vain."""
        most = self._budget_bytes - nbytes
        while self._ledger.pinned_bytes > most >= 0 and self._strip_next():
            pass
        if self._ledger.pinned_bytes > most:
            return False
        self.shrink(most)
        return True

    def _list(self, parent: Block | None, tokens: Tokens, payload: Payload, salt: str) -> Block:
        digest = self._digest(ROOT if parent is None else parent.digest, tokens, salt, self._revision)
        block = Block(parent, tokens, digest, payload, salt)
        block.last_used = self._eviction.tick()
        above = parent if parent is not None else self._roots.setdefault(salt, Node())
        (above.tails if len(tokens) < self._shape.block_tokens else above.children)[tokens] = block
        self._ledger.blocks += 1
        self._ledger.charge(block, payload.nbytes)
        self.counters.sealed += 1
        self.acquire(block)
        return block

    def _strip_next(self) -> bool:
        block = self._eviction.next_surplus()
        if block is None:
            return False
        freed = block.payload.strip()
        self._ledger.charge(block, -freed)
        self.counters.stripped += 1
        self.counters.evicted_bytes += freed
        self._eviction.offer_above(block)
        return True

    def _evict_next(self) -> bool:
        block = self._eviction.next_leaf()
        if block is None:
            return False
        above = block.parent if block.parent is not None else self._roots[block.salt]
        del (above.tails if len(block.tokens) < self._shape.block_tokens else above.children)[block.tokens]
        if block.parent is None and not above.fanout:
            del self._roots[block.salt]
        nbytes = block.payload.nbytes
        self._ledger.blocks -= 1
        self._ledger.charge(block, -nbytes)
        # whoever still has the block in a variable must not keep its memory
        block.payload = Payload(None, 0)
        block.is_listed = False
        self._eviction.removed(block)
        self.counters.evicted += 1
        self.counters.evicted_bytes += nbytes
        return True
