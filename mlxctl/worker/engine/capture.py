"""Cuts one row's caches into payloads of blocks, and puts payloads together into caches again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxctl.worker.engine.layout import Kind, Layout, leaves, new_caches
from mlxctl.worker.kv.blocks import Match, Payload

Slab = tuple[int, int, str]
"""Heads, width and dtype: keys and values of one shape lie in one array, since Metal counts buffers, not bytes."""


def capture(layout: Layout, caches: Sequence[Any], start: int, end: int, *, state: bool) -> Payload | None:
    """The payload of tokens `start` to `end` (exclusive) of a row; `state`: the caches stand exactly at `end`.

    A window that no longer reaches back to `start` is left out. None: a full layer does not hold these tokens.
    """
    full: list[mx.array] = []
    window: list[mx.array] | None = []
    states: list[mx.array] = []
    for leaf, kind in zip(leaves(caches), layout.kinds, strict=True):
        if kind is Kind.STATE:
            states += [array for array in leaf.cache if array is not None]
            continue
        held = _tokens(leaf, start, end)
        if kind is Kind.FULL:
            if held is None:
                return None
            full += held
        elif held is None or window is None:
            window = None
        else:
            window += held
    payload_full = _pack(full)
    payload_window = _pack(window) if window else None
    payload_state = tuple(mx.contiguous(array) for array in states) if state and states else None
    # not waited for: a step may be under way, and what is stored is read much later
    mx.async_eval([array for _, array in (*payload_full, *(payload_window or ()))], payload_state or ())  # type: ignore[no-untyped-call]
    return Payload(
        payload_full,
        _nbytes(payload_full),
        payload_window,
        _nbytes(payload_window),
        payload_state,
        _nbytes(payload_state),
    )


def restore(layout: Layout, model: Any, match: Match) -> list[Any]:
    """Caches of one row that stand after the last token of `match`."""
    caches = new_caches(model)
    if not match.length:
        return caches
    full = _unpack([block.payload.full for block in match.blocks])
    window = _unpack([block.payload.window for block in match.blocks_for_window]) if layout.window else iter(())
    states = iter(match.blocks[-1].payload.state or ())
    for leaf, kind in zip(leaves(caches), layout.kinds, strict=True):
        if kind is Kind.STATE:
            leaf.cache = [next(states) for _ in leaf.cache]
        elif kind is Kind.FULL:
            leaf.keys, leaf.values, leaf.offset = next(full), next(full), match.length
        else:
            keep = min(match.length, leaf.max_size)
            leaf.keys, leaf.values = (next(window)[:, :, -keep:] for _ in range(2))
            leaf.offset, leaf._idx = match.length, keep
    return caches


def _tokens(leaf: Any, start: int, end: int) -> list[mx.array] | None:
    """Keys and values [heads, end - start, width] of a leaf, or None when it has let some of them go."""
    if leaf.keys is None:
        return None
    keys, values = leaf.keys, leaf.values
    if hasattr(leaf, "max_size"):
        keys, values = leaf._temporal_order(keys), leaf._temporal_order(values)
        first = leaf.offset - keys.shape[2]
    else:
        first = 0
    if start < first or end > leaf.offset:
        return None
    return [part[0, :, start - first : end - first] for part in (keys, values)]


def _slab(part: mx.array) -> Slab:
    return part.shape[0], part.shape[-1], str(part.dtype)


def _pack(parts: Sequence[mx.array]) -> tuple[tuple[tuple[int, ...], mx.array], ...]:
    """One array [parts, heads, tokens, width] for each shape, with the places that its parts come from."""
    places: dict[Slab, list[int]] = {}
    for place, part in enumerate(parts):
        places.setdefault(_slab(part), []).append(place)
    return tuple((tuple(found), mx.stack([parts[place] for place in found])) for found in places.values())


def _unpack(packed: Sequence[Any]) -> Any:
    """Parts [1, heads, tokens, width] in their old order, the tokens of all blocks behind each other."""
    parts: dict[int, mx.array] = {}
    for column in zip(*packed, strict=True):
        joined = mx.concatenate([array for _, array in column], axis=2)
        for row, place in enumerate(column[0][0]):
            parts[place] = joined[row : row + 1]
    return iter([parts[place] for place in sorted(parts)])


def _nbytes(packed: Any) -> int:
    if not packed:
        return 0
    return sum(item.nbytes if isinstance(item, mx.array) else item[1].nbytes for item in packed)
