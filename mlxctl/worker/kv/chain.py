"""Digests of blocks: each names the block's tokens and everything before them, within one model and one tenant."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b

Digest = bytes
DigestFunction = Callable[[Digest, Sequence[int], str, str], Digest]
"""(digest of the parent, tokens, salt, revision) -> digest."""

DIGEST_BYTES = 16
ROOT: Digest = b"\0" * DIGEST_BYTES
"""Stands for the parent of a chain's first block."""


def block_digest(parent: Digest, tokens: Sequence[int], salt: str, revision: str) -> Digest:
    """blake2b-128 of the parts. Ids are signed 64 bits (media have negative ones); wider ones raise `OverflowError`.

    Each part that varies in length is led by its length, so that no two sets of parts read the same.
    """
    names = [name.encode("utf-8", "surrogatepass") for name in (salt, revision)]
    lengths = array("q", (len(tokens), *(len(name) for name in names)))
    return blake2b(b"".join((parent, lengths, array("q", tokens), *names)), digest_size=DIGEST_BYTES).digest()
