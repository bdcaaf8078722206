"""Chains of blocks written as text: four letters a block, and a word per block for the parts that it has."""

from __future__ import annotations

from mlxctl.worker.kv.blocks import Block, BlockStore, Payload

BLOCK = 4
FULL, WINDOW, STATE = 10, 3, 5
"""Sizes in bytes of the parts `f`, `w` and `s`."""


def ids(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def payload(parts: str, content: object = "kv") -> Payload:
    return Payload(
        content if "f" in parts else None,
        FULL if "f" in parts else 0,
        content if "w" in parts else None,
        WINDOW if "w" in parts else 0,
        content if "s" in parts else None,
        STATE if "s" in parts else 0,
    )


def seal(store: BlockStore, text: str, parts: str = "f", *, salt: str = "") -> Block:
    """Seal all of `text` as an engine does, each block held until the next is there. The last stays held."""
    pieces = [text[at : at + BLOCK] for at in range(0, len(text), BLOCK)]
    words = parts.split()
    words = words * len(pieces) if len(words) == 1 else words
    assert len(words) == len(pieces)
    held: Block | None = None
    for at, (piece, word) in enumerate(zip(pieces, words, strict=True)):
        block = store.seal(held, ids(piece), payload(word, (salt, text[: at * BLOCK + len(piece)])), salt)
        if held is not None:
            store.release(held)
        assert block is not None, f"no room for {piece}"
        held = block
    assert held is not None
    return held


def keep(store: BlockStore, text: str, parts: str = "f", *, salt: str = "") -> None:
    """Seal all of `text` and hold nothing."""
    store.release(seal(store, text, parts, salt=salt))


def use(store: BlockStore, text: str, *, salt: str = "") -> int:
    """Restore as much of `text` as there is, and let go: the length."""
    match = store.match(ids(text), len(text), salt)
    if match.last is not None:
        store.release(match.last)
    return match.length


def known(store: BlockStore, text: str, *, salt: str = "") -> int:
    return store.known_length(ids(text), len(text), salt)


def parts_of(last: Block) -> str:
    """The parts of the whole chain, in the words of `seal`."""
    words = []
    block: Block | None = last
    while block is not None:
        held = block.payload
        words.append(
            "".join(
                letter for letter, part in (("f", held.full), ("w", held.window), ("s", held.state)) if part is not None
            )
            or "-"
        )
        block = block.parent
    return " ".join(reversed(words))
