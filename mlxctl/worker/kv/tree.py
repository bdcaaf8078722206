"""The tree of blocks: what a block is, and which chain of blocks a prompt can be restored from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlxctl.worker.kv.chain import Digest

Tokens = tuple[int, ...]


@dataclass(slots=True)
class Payload:
    """What a block holds, in three parts. None: the part is not there, and its size is 0."""

    full: Any
    full_bytes: int
    window: Any = None
    """Of the layers with a sliding window."""
    window_bytes: int = 0
    state: Any = None
    """Recurrent state after the block's last token."""
    state_bytes: int = 0

    @property
    def nbytes(self) -> int:
        return self.full_bytes + self.window_bytes + self.state_bytes

    @property
    def is_strippable(self) -> bool:
        return self.window is not None or self.state is not None

    def checked(self) -> Payload:
        """A copy, which the caller cannot change under the store. `ValueError`: a size that cannot be."""
        for part, size in (
            (self.full, self.full_bytes),
            (self.window, self.window_bytes),
            (self.state, self.state_bytes),
        ):
            if size < 0 or (part is None and size):
                raise ValueError(f"a part of {size} bytes that is {'absent' if part is None else 'present'}")
        return Payload(self.full, self.full_bytes, self.window, self.window_bytes, self.state, self.state_bytes)

    def missing_from(self, other: Payload) -> Payload:
        """The parts that are here and not in `other`."""
        parts = Payload(None, 0)
        if other.full is None:
            parts.full, parts.full_bytes = self.full, self.full_bytes
        if other.window is None:
            parts.window, parts.window_bytes = self.window, self.window_bytes
        if other.state is None:
            parts.state, parts.state_bytes = self.state, self.state_bytes
        return parts

    def fill(self, parts: Payload) -> None:
        """Take every part that `parts` has."""
        if parts.full is not None:
            self.full, self.full_bytes = parts.full, parts.full_bytes
        if parts.window is not None:
            self.window, self.window_bytes = parts.window, parts.window_bytes
        if parts.state is not None:
            self.state, self.state_bytes = parts.state, parts.state_bytes

    def strip(self) -> int:
        """Drop window and state; the bytes that this gave back."""
        freed = self.window_bytes + self.state_bytes
        self.window = self.state = None
        self.window_bytes = self.state_bytes = 0
        return freed


class Node:
    """A place in the tree from which chains go on. One per salt is the root of that salt's blocks.

    Children are found by their token ids themselves, so a digest that collides can never lead to another's block.
    """

    __slots__ = ("children", "tails")

    def __init__(self) -> None:
        self.children: dict[Tokens, Block] = {}
        self.tails: dict[Tokens, Block] = {}

    @property
    def fanout(self) -> int:
        return len(self.children) + len(self.tails)

    def successors(self) -> Iterator[Block]:
        yield from self.children.values()
        yield from self.tails.values()


class Block(Node):
    """The cache of tokens `start` to `end` of a chain; `parent` None: the chain begins here.

    Place, tokens and digest never change. `refs` counts the holders; `pins` adds to them the children that are pinned.
    """

    __slots__ = (
        "digest",
        "end",
        "hits",
        "is_listed",
        "is_parts_used",
        "is_protected",
        "last_used",
        "parent",
        "payload",
        "pins",
        "refs",
        "salt",
        "start",
        "tokens",
    )

    def __init__(self, parent: Block | None, tokens: Tokens, digest: Digest, payload: Payload, salt: str) -> None:
        super().__init__()
        self.parent = parent
        self.tokens = tokens
        self.digest = digest
        self.salt = salt
        self.start: int = 0 if parent is None else parent.end
        self.end: int = self.start + len(tokens)
        self.payload = payload
        self.refs = 0
        self.pins = 0
        self.hits = 0
        self.last_used = 0
        self.is_listed = True
        self.is_protected = False
        self.is_parts_used = False
        """The latest match that went through here restored from this block's window or state."""

    def __repr__(self) -> str:
        return f"<Block {self.digest.hex()[:8]} tokens {self.start}-{self.end} refs {self.refs}>"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the model asks of a restore point. `window_tokens` 0: no sliding layers."""

    block_tokens: int
    window_tokens: int = 0
    needs_state: bool = False

    def reaches(self, block: Block, end: int) -> bool:
        """Whether a restore at position `end` needs the window of `block`, a block before it."""
        return self.window_tokens > 0 and block.end > end - self.window_tokens

    def is_restorable(self, block: Block, gap: int) -> bool:
        """`gap`: the end of the last block down to this one that has no window. Full parts are the caller's matter."""
        has_window = not self.window_tokens or gap <= block.end - self.window_tokens
        return has_window and (block.payload.state is not None or not self.needs_state)


def restorable_chain(root: Node, tokens: Tokens, shape: Shape) -> list[Block]:
    """The longest chain within `tokens` that the model can go on from; empty: none."""
    path: list[Block] = []
    # the end of the last block without a window, per depth; so far back that no restore point reaches it: none yet
    gaps = [-shape.window_tokens]
    node = root
    for end in range(shape.block_tokens, len(tokens) + 1, shape.block_tokens):
        block = node.children.get(tokens[end - shape.block_tokens : end])
        if block is None or block.payload.full is None:
            break
        path.append(block)
        gaps.append(gaps[-1] if block.payload.window is not None else block.end)
        node = block
    for depth in range(len(path), -1, -1):
        above: Node = path[depth - 1] if depth else root
        for tail in tails_within(above, tokens[depth * shape.block_tokens :], shape.block_tokens):
            gap = gaps[depth] if tail.payload.window is not None else tail.end
            if tail.payload.full is not None and shape.is_restorable(tail, gap):
                return [*path[:depth], tail]
        if depth and shape.is_restorable(path[depth - 1], gaps[depth]):
            return path[:depth]
    return []


def tails_within(node: Node, rest: Tokens, block_tokens: int) -> Iterator[Block]:
    """The tails of `node` that `rest` begins with, the longest first."""
    if not node.tails:
        return
    for length in range(min(len(rest), block_tokens - 1), 0, -1):
        tail = node.tails.get(rest[:length])
        if tail is not None:
            yield tail


MOST_COMPARED = 64
"""Of the chains that go on from one place, so many are looked at for where a prompt parts from them."""


def common_length(root: Node, tokens: Tokens, shape: Shape) -> int:
    """How many of `tokens` some sealed chain begins with, to the token; it need not be restorable there."""
    node, end = root, 0
    while (block := node.children.get(tokens[end : end + shape.block_tokens])) is not None:
        node, end = block, block.end
    rest = tokens[end : end + shape.block_tokens]
    others = islice(node.successors(), MOST_COMPARED)
    return end + max((agreeing(rest, other.tokens) for other in others), default=0)


def agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
