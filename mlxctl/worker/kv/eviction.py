"""What goes first when the cache is full: parts that nobody is likely to restore from, then the leaves of the tree."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from mlxctl.worker.kv.tree import Block, Shape

PROTECTED_SHARE = 0.8
"""The part of the budget that blocks hit twice may keep from newer ones."""
HITS_TO_PROTECT = 2


@dataclass(slots=True)
class Ledger:
    """Sums over all listed blocks, kept at every change."""

    blocks: int = 0
    nbytes: int = 0
    pinned_bytes: int = 0
    protected_bytes: int = 0
    references: int = 0

    def charge(self, block: Block, nbytes: int) -> None:
        """The payload of `block` has grown by `nbytes`, or shrunk."""
        self.nbytes += nbytes
        if block.pins:
            self.pinned_bytes += nbytes
        if block.is_protected:
            self.protected_bytes += nbytes


class LruQueue:
    """Blocks by `last_used`, the oldest first: O(log n) to add and to pop. A block is in it once or not at all."""

    def __init__(self) -> None:
        self._tickets: dict[Block, int] = {}
        self._heap: list[tuple[int, int, Block]] = []
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, block: Block) -> bool:
        return block in self._tickets

    def add(self, block: Block) -> None:
        if block in self._tickets:
            return
        self._next_ticket += 1
        self._tickets[block] = self._next_ticket
        heappush(self._heap, (block.last_used, self._next_ticket, block))

    def discard(self, block: Block) -> None:
        if self._tickets.pop(block, None) is not None and len(self._heap) > 2 * len(self._tickets) + 64:
            self._heap = [entry for entry in self._heap if self._tickets.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def pop(self) -> Block | None:
        """Entries are corrected here, late: what was discarded is dropped, what was used since goes back in line."""
        while self._heap:
            last_used, ticket, block = heappop(self._heap)
            if self._tickets.get(block) != ticket:
                continue
            if block.last_used != last_used:
                heappush(self._heap, (block.last_used, ticket, block))
                continue
            del self._tickets[block]
            return block
        return None


class Eviction:
    """Keeps the candidates in line as blocks are pinned, let go, hit and removed. Removes nothing itself."""

    def __init__(self, shape: Shape, ledger: Ledger, budget_bytes: int) -> None:
        self._shape = shape
        self._ledger = ledger
        self._protected_limit = int(budget_bytes * PROTECTED_SHARE)
        self._clock = 0
        self.surplus = LruQueue()
        self.probation = LruQueue()
        self.protected = LruQueue()

    def tick(self) -> int:
        self._clock += 1
        return self._clock

    def pinned(self, block: Block) -> None:
        """`block` went from unpinned to pinned."""
        self.probation.discard(block)
        self.protected.discard(block)

    def unpinned(self, block: Block, now: int) -> None:
        """`block` went from pinned to unpinned."""
        block.last_used = now
        if block.fanout:
            self.offer(block)
        else:
            self._queue_of(block).add(block)

    def hit(self, block: Block, now: int, *, parts_used: bool) -> None:
        """A match goes through `block`, which is pinned by now."""
        block.last_used = now
        block.hits += 1
        if block.hits >= HITS_TO_PROTECT and not block.is_protected:
            block.is_protected = True
            self._ledger.protected_bytes += block.payload.nbytes
        block.is_parts_used = parts_used
        if not parts_used:
            self.offer(block)

    def removed(self, block: Block) -> None:
        """`block`, a leaf, left the tree."""
        self.surplus.discard(block)
        parent = block.parent
        if parent is None:
            return
        if not parent.fanout:
            if not parent.pins:
                self._queue_of(parent).add(parent)
        elif parent.fanout == 1:
            self._rejoined(parent)

    def offer(self, block: Block) -> None:
        if block.payload.is_strippable:
            self.surplus.add(block)

    def offer_above(self, block: Block) -> None:
        """`block` no longer keeps the windows above it: let them be looked at again."""
        above: Block | None = block
        while above is not None and (above is block or self._keeps_window(block, above)):
            self.offer(above)
            above = above.parent

    def next_surplus(self) -> Block | None:
        """The least recently used block whose window and state may go."""
        while (block := self.surplus.pop()) is not None:
            if self.is_surplus(block):
                return block
        return None

    def next_leaf(self) -> Block | None:
        """The leaf to evict: the least recently used one in probation, or else of the protected."""
        while self._ledger.protected_bytes > self._protected_limit:
            block = self.protected.pop()
            if block is None:
                break
            block.is_protected = False
            block.hits = 0
            self._ledger.protected_bytes -= block.payload.nbytes
            self.probation.add(block)
        return self.probation.pop() or self.protected.pop()

    def is_surplus(self, block: Block) -> bool:
        """Whether window and state of `block` serve no likely restore.

        Likely are: a leaf, a branch point, a block that is held, one whose parts the latest match used. Each keeps the
        windows in its reach, and the nearest state at or above it. In a chain in use every state is kept: it was
        taken where others may join.
        """
        payload = block.payload
        has_state = payload.state is not None
        if block.is_parts_used or block.refs or block.fanout != 1 or not payload.is_strippable:
            return False
        if has_state and block.pins:
            return False
        below = next(block.successors())
        while has_state or self._keeps_window(below, block):
            if below.payload.state is not None:
                return not self._keeps_window(below, block)
            if below.refs or below.fanout != 1:
                return False
            below = next(below.successors())
        return True

    def _keeps_window(self, block: Block, above: Block) -> bool:
        """Whether a restore at `block`, or one block short of it, needs the window of `above`.

        Short of it, for the last token of a prompt is always computed: asking again for just this chain ends there.
        """
        return self._shape.reaches(above, block.end - self._shape.block_tokens)

    def _queue_of(self, leaf: Block) -> LruQueue:
        return self.protected if leaf.is_protected else self.probation

    def _rejoined(self, block: Block) -> None:
        """`block` is no branch point any more: what it kept above itself is looked at again."""
        self.offer_above(block)
        above: Block | None = block
        # one of a chain in use is looked at when that use ends
        while above is not None and not above.pins:
            if above.payload.state is not None:
                self.offer(above)
                return
            above = above.parent
