"""What a model keeps between tokens: the kinds of its caches, layer by layer, and what they weigh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache


class Kind(Enum):
    FULL = "full"
    """Keys and values of every token."""
    WINDOW = "window"
    """Keys and values of the last `window` tokens."""
    STATE = "state"
    """Arrays of a fixed size that stand for everything so far."""
    OTHER = "other"
    """A cache that can be neither cut into blocks nor put into lanes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The leaves of a model's cache, in order. Bytes are those of one row."""

    kinds: tuple[Kind, ...]
    windows: tuple[int, ...]
    full_bytes_per_token: int
    window_bytes_per_token: int
    state_bytes: int

    @property
    def window(self) -> int:
        """Tokens of the widest window; 0 without sliding layers."""
        return max(self.windows, default=0)

    @property
    def has_state(self) -> bool:
        return Kind.STATE in self.kinds

    @property
    def divisible(self) -> bool:
        """Whether it can be cut into blocks and put into lanes."""
        return Kind.OTHER not in self.kinds

    def row_bytes(self, tokens: int) -> int:
        """What one row of `tokens` tokens takes."""
        held = min(tokens, self.window) if self.window else 0
        return tokens * self.full_bytes_per_token + held * self.window_bytes_per_token + self.state_bytes


def leaves(caches: Sequence[Any]) -> list[Any]:
    """The caches that hold arrays; lists of caches are opened."""
    return list(_leaves(caches))


def _leaves(caches: Sequence[Any]) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _leaves(cache.caches)
        else:
            yield cache


def rebuild(caches: Sequence[Any], new_leaves: Iterator[Any]) -> list[Any]:
    """The same nesting as `caches`, with other leaves."""
    return [
        CacheList(*rebuild(cache.caches, new_leaves)) if isinstance(cache, CacheList) else next(new_leaves)
        for cache in caches
    ]


def kind_of(cache: Any) -> Kind:
    # exact types: a subclass may keep its tokens in another order
    if type(cache) is KVCache:
        return Kind.FULL
    if type(cache) is RotatingKVCache:
        return Kind.WINDOW if cache.keep == 0 else Kind.OTHER
    if type(cache) is ArraysCache:
        return Kind.STATE
    return Kind.OTHER


def new_caches(model: Any) -> list[Any]:
    """Empty caches for one row."""
    return list(make_prompt_cache(model))


def arrays_of(caches: Sequence[Any]) -> list[mx.array]:
    """Every array that `caches` hold, so that they can be computed together."""
    found: list[mx.array] = []
    for leaf in leaves(caches):
        _collect(leaf.state, found)
    return found


def _collect(value: Any, found: list[mx.array]) -> None:
    if isinstance(value, mx.array):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect(part, found)


def measure_layout(model: Any, probe_token: int = 0) -> Layout:
    """Feed two tokens and look at what was kept."""
    caches = new_caches(model)
    model(mx.array([[probe_token, probe_token]]), cache=caches)
    found = leaves(caches)
    mx.eval(arrays_of(caches))
    kinds = tuple(kind_of(leaf) for leaf in found)
    full = window = state = 0
    for leaf, kind in zip(found, kinds, strict=True):
        if kind is Kind.STATE:
            state += leaf.nbytes
        elif kind is not Kind.OTHER and leaf.keys is not None:
            keys, values = leaf.keys, leaf.values
            per_token = (keys.nbytes // keys.shape[2]) + (values.nbytes // values.shape[2])
            full += per_token if kind is Kind.FULL else 0
            window += per_token if kind is Kind.WINDOW else 0
        else:
            # unknown: count it as if it grew with every token
            full += sum(array.nbytes for array in arrays_of([leaf])) // 2
    windows = tuple(leaf.max_size for leaf, kind in zip(found, kinds, strict=True) if kind is Kind.WINDOW)
    return Layout(kinds, windows, full, window, state)
