"""The check that the block store's books agree with its tree. It looks at every block: for idle moments and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlxctl.worker.kv.chain import ROOT, DigestFunction
from mlxctl.worker.kv.eviction import Eviction, Ledger
from mlxctl.worker.kv.tree import Block, Node, Shape


class IntegrityError(RuntimeError):
    """The block store contradicts itself, or a reference was given back that nobody had."""


def walk(roots: Mapping[str, Node]) -> Iterator[tuple[Node, Block]]:
    """Every block with the node above it, parents before children."""
    pending = list(roots.values())
    while pending:
        node = pending.pop()
        for block in node.successors():
            yield node, block
            pending.append(block)


def check(
    roots: Mapping[str, Node],
    ledger: Ledger,
    eviction: Eviction,
    shape: Shape,
    budget_bytes: int,
    revision: str,
    digest: DigestFunction,
) -> None:
    """Raise `IntegrityError` at the first thing that is wrong, naming it."""
    for salt, root in roots.items():
        if not root.fanout:
            raise IntegrityError(f"salt {salt!r} has a root and no blocks")
        for node, block in walk({salt: root}):
            _check_place(node, block, None if node is root else node, salt, shape)
            parent_digest = ROOT if block.parent is None else block.parent.digest
            if block.digest != digest(parent_digest, block.tokens, salt, revision):
                raise IntegrityError(f"{block!r}: its digest is not that of its tokens and parent")
            _check_counts(block)
            _check_lines(block, eviction)
    blocks = [block for _, block in walk(roots)]
    counted = Ledger(
        blocks=len(blocks),
        nbytes=sum(block.payload.nbytes for block in blocks),
        pinned_bytes=sum(block.payload.nbytes for block in blocks if block.pins),
        protected_bytes=sum(block.payload.nbytes for block in blocks if block.is_protected),
        references=sum(block.refs for block in blocks),
    )
    if counted != ledger:
        raise IntegrityError(f"the books say {ledger}, the tree {counted}")
    if ledger.nbytes > budget_bytes:
        raise IntegrityError(f"{ledger.nbytes} bytes are held, {budget_bytes} are allowed")
    _check_strangers(blocks, eviction)


def _check_place(node: Node, block: Block, parent: Node | None, salt: str, shape: Shape) -> None:
    is_tail = len(block.tokens) < shape.block_tokens
    if (node.tails if is_tail else node.children).get(block.tokens) is not block:
        raise IntegrityError(f"{block!r} is not listed under its own tokens")
    if block.parent is not parent:
        raise IntegrityError(f"{block!r} hangs below a block that is not its parent")
    if block.start != (0 if block.parent is None else block.parent.end) or block.end != block.start + len(block.tokens):
        raise IntegrityError(f"{block!r} does not begin where its parent ends")
    if not block.is_listed or block.salt != salt:
        raise IntegrityError(f"{block!r} is in the tree of {salt!r}, and says {block.salt!r}, {block.is_listed=}")
    if is_tail and block.fanout:
        raise IntegrityError(f"{block!r} is a tail and has children")
    if not 0 < len(block.tokens) <= shape.block_tokens:
        raise IntegrityError(f"{block!r} has {len(block.tokens)} tokens")


def _check_counts(block: Block) -> None:
    if block.refs < 0:
        raise IntegrityError(f"{block!r}: references below zero")
    pins = block.refs + sum(1 for child in block.successors() if child.pins)
    if block.pins != pins:
        raise IntegrityError(f"{block!r}: {block.pins} pins, should be {pins}")
    payload = block.payload
    for part, size in (
        (payload.full, payload.full_bytes),
        (payload.window, payload.window_bytes),
        (payload.state, payload.state_bytes),
    ):
        if size < 0 or (part is None and size):
            raise IntegrityError(f"{block!r}: an absent part has {size} bytes")


def _check_lines(block: Block, eviction: Eviction) -> None:
    is_evictable = not block.pins and not block.fanout
    for line, name, belongs in (
        (eviction.probation, "probation", is_evictable and not block.is_protected),
        (eviction.protected, "protected", is_evictable and block.is_protected),
    ):
        if (block in line) != belongs:
            raise IntegrityError(f"{block!r} is {'missing from' if belongs else 'wrongly in'} the {name} line")
    if eviction.is_surplus(block) and block not in eviction.surplus:
        raise IntegrityError(f"{block!r} has parts to spare and is missing from the surplus line")


def _check_strangers(blocks: list[Block], eviction: Eviction) -> None:
    """Each listed block is in the right lines by now; lines that hold more hold something that left the tree."""
    for line, name in (
        (eviction.probation, "probation"),
        (eviction.protected, "protected"),
        (eviction.surplus, "surplus"),
    ):
        known = sum(1 for block in blocks if block in line)
        if known != len(line):
            raise IntegrityError(f"the {name} line holds {len(line) - known} blocks that are not in the tree")
