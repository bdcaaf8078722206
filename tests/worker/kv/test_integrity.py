"""Each lie that the books could tell is found, and named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxctl.worker.kv.blocks import Block, BlockStore, IntegrityError
from mlxctl.worker.kv.integrity import walk
from mlxctl.worker.kv.tree import Node, Payload
from tests.worker.kv.stories import BLOCK, ids, payload, seal


class Scene:
    """A chain of six blocks with windows and a tail, of which the fourth is held, and one of another salt."""

    def __init__(self) -> None:
        self.store = BlockStore(block_tokens=BLOCK, budget_bytes=1_000, window_tokens=4, revision="rev")
        self.tail = seal(self.store, "aaaabbbbccccddddeeee" + "ff", "fw")
        self.leaf = seal(self.store, "aaaabbbbccccddddgggg", "fw")
        self.held = self.leaf.parent
        self.store.acquire(self.held)
        self.store.release(self.tail)
        self.store.release(self.leaf)
        self.first = self.held.parent.parent.parent
        self.other = seal(self.store, "aaaa", "fw", salt="you")
        self.store.release(self.other)

    @property
    def roots(self) -> dict[str, Node]:
        return self.store._roots

    def set(self, block: str, **values: object) -> None:
        for name, value in values.items():
            setattr(getattr(self, block), name, value)

    def ledger(self, **values: int) -> None:
        for name, value in values.items():
            setattr(self.store._ledger, name, getattr(self.store._ledger, name) + value)


def test_the_scene_is_in_order():
    scene = Scene()
    scene.store.check_integrity()
    assert [(block.tokens, block.refs, block.pins) for block in (scene.first, scene.held, scene.leaf)] == [
        (ids("aaaa"), 0, 1),
        (ids("dddd"), 1, 1),
        (ids("gggg"), 0, 0),
    ]
    assert {block for _, block in walk(scene.roots)} >= {scene.first, scene.held, scene.leaf, scene.tail, scene.other}


def move_child(scene: Scene) -> None:
    scene.first.children[scene.leaf.tokens] = scene.leaf
    del scene.held.children[scene.leaf.tokens]


def list_under_other_tokens(scene: Scene) -> None:
    scene.held.children[ids("hhhh")] = scene.held.children.pop(ids("gggg"))


def hang_below_the_tail(scene: Scene) -> None:
    child = Block(scene.tail, ids("hhhh"), b"", Payload(None, 0), "")
    scene.tail.children[child.tokens] = child


def lose_a_subtree(scene: Scene) -> None:
    del scene.held.children[ids("eeee")]


LIES = [
    pytest.param(move_child, "not its parent", id="a child of two"),
    pytest.param(list_under_other_tokens, "own tokens", id="listed under other tokens"),
    pytest.param(lambda s: s.set("leaf", tokens=ids("hhhh")), "own tokens", id="tokens changed"),
    pytest.param(lambda s: s.set("leaf", digest=b"?" * 16), "its digest", id="digest changed"),
    pytest.param(lambda s: s.set("first", digest=b"?" * 16), "its digest", id="first digest changed"),
    pytest.param(lambda s: setattr(s.store, "_revision", "new"), "its digest", id="another model"),
    pytest.param(lambda s: s.set("leaf", start=17), "parent ends", id="a gap between blocks"),
    pytest.param(lambda s: s.set("tail", end=99), "parent ends", id="an end out of nowhere"),
    pytest.param(lambda s: s.set("leaf", salt="you"), "in the tree of ''", id="a block of another tenant"),
    pytest.param(lambda s: s.set("leaf", is_listed=False), "is_listed", id="a block that is evicted, and is there"),
    pytest.param(hang_below_the_tail, "is a tail", id="a child of a tail"),
    pytest.param(lambda s: s.set("leaf", refs=-1), "below zero", id="references below zero"),
    pytest.param(lambda s: s.set("leaf", refs=1), "0 pins, should be 1", id="a reference that pins nothing"),
    pytest.param(lambda s: s.set("held", refs=2, pins=2), "the books say", id="a reference not in the books"),
    pytest.param(lambda s: s.set("first", pins=0), "0 pins, should be 1", id="pins lost on the way up"),
    pytest.param(lambda s: s.set("leaf", payload=payload("f")), "the books say", id="a part dropped by the way"),
    pytest.param(
        lambda s: s.set("leaf", payload=replace(s.leaf.payload, window=None)), "absent part", id="size of nothing"
    ),
    pytest.param(lambda s: s.ledger(nbytes=1), "the books say", id="bytes"),
    pytest.param(lambda s: s.ledger(blocks=-1), "the books say", id="blocks"),
    pytest.param(lambda s: s.ledger(pinned_bytes=1), "the books say", id="pinned bytes"),
    pytest.param(lambda s: s.ledger(protected_bytes=1), "the books say", id="protected bytes"),
    pytest.param(lambda s: s.ledger(references=1), "the books say", id="references"),
    pytest.param(lambda s: setattr(s.store, "_budget_bytes", 50), "50 are allowed", id="over the budget"),
    pytest.param(lambda s: s.store._eviction.probation.discard(s.leaf), "missing from the probation", id="not in line"),
    pytest.param(lambda s: s.store._eviction.probation.add(s.held), "wrongly in the probation", id="pinned in line"),
    pytest.param(lambda s: s.store._eviction.protected.add(s.tail), "wrongly in the protected", id="in two lines"),
    pytest.param(lambda s: s.set("leaf", is_protected=True), "wrongly in the probation", id="in the wrong line"),
    pytest.param(lambda s: s.store._eviction.surplus.discard(s.first), "parts to spare", id="surplus forgotten"),
    pytest.param(lambda s: s.roots.__setitem__("new", Node()), "no blocks", id="an empty root"),
    pytest.param(lose_a_subtree, "the books say", id="a subtree lost"),
    pytest.param(
        lambda s: s.store._eviction.probation.add(Block(None, (1,), b"", Payload(None, 0), "")),
        "1 blocks that are not in the tree",
        id="a stranger in line",
    ),
]


@pytest.mark.parametrize(("lie", "word"), LIES)
def test_a_lie_is_found(lie, word):
    scene = Scene()
    lie(scene)
    with pytest.raises(IntegrityError, match=word):
        scene.store.check_integrity()


def test_the_error_is_one_that_stops_an_engine():
    assert issubclass(IntegrityError, RuntimeError)


def test_a_chain_of_many_thousand_blocks_can_be_checked():
    store = BlockStore(block_tokens=1, budget_bytes=10_000)
    held = None
    for at in range(5_000):
        block = store.seal(held, (at,), Payload("kv", 1))
        if held is not None:
            store.release(held)
        held = block
    store.check_integrity()
    assert held.end == 5_000
