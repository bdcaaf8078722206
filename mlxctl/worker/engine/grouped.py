"""The decoder over lanes: one linear pass for all rows, attention a group of similar lengths at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from mlxctl.worker.engine.attention import LaneKeys, attend_over_lanes
from mlxctl.worker.engine.lanes import LaneGroup, capacity_for
from mlxctl.worker.engine.layout import Kind, Layout, leaves, new_caches, rebuild

MAX_GROUPS = 4
"""Each group is a further attention call a layer; rows share longer lanes rather than open a fifth."""


class LaneCache(LaneKeys):
    """What the model takes for the cache of one layer."""

    def __init__(self, decoder: GroupedDecoder, layer: int) -> None:
        self._decoder, self._layer = decoder, layer

    @property
    def offset(self) -> mx.array:
        """The position of each row's new token."""
        return self._decoder.offsets

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[LaneCache, LaneCache]:
        for group, start, end in self._decoder.spans():
            group.write(self._layer, keys[start:end], values[start:end])
        return self, self

    def make_mask(self, count: int, window_size: int | None = None, return_array: bool = False) -> int | None:
        """Lanes mask themselves; what comes back is the window that the model asks for, for `attend` to read."""
        if count != 1 or return_array:
            raise ValueError("lanes take one token a row, and give no mask away")
        return window_size

    def attend(self, queries: mx.array, scale: float, mask: Any, sinks: mx.array | None) -> mx.array:
        window = mask if isinstance(mask, int) else None
        parts = [
            group.attend(self._layer, queries[start:end], scale, window, sinks)
            for group, start, end in self._decoder.spans()
        ]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)


class GroupedDecoder:
    """Rows in the order of their groups. Caches of a fixed size (`Kind.STATE`) lie in that order too."""

    name = "grouped"

    def __init__(self, model: Any, layout: Layout) -> None:
        if not layout.divisible or not attend_over_lanes(model):
            raise ValueError("this model's caches do not fit into lanes")
        self.model, self.layout = model, layout
        self.groups: list[LaneGroup] = []
        self.offsets = mx.array([0])
        self._states: dict[int, list[list[mx.array]]] = {}
        self._state_rows: list[Any] = []
        self._template = new_caches(model)
        self._leaves: list[Any] = []
        layer = 0
        for leaf, kind in zip(leaves(self._template), layout.kinds, strict=True):
            if kind is Kind.STATE:
                self._leaves.append(ArraysCache(len(leaf.cache)))
            else:
                self._leaves.append(LaneCache(self, layer))
                layer += 1
        self._caches = rebuild(self._template, iter(self._leaves))
        self._blank: list[Any] = []

    @property
    def rows(self) -> list[Any]:
        return [row for group in self.groups for row in group.rows]

    @property
    def nbytes(self) -> int:
        lanes = sum(group.nbytes for group in self.groups)
        states = [array for state in self._batch_states() for array in state.cache if array is not None]
        return lanes + sum(int(array.nbytes) for array in states)

    def spans(self) -> Iterator[tuple[LaneGroup, int, int]]:
        start = 0
        for group in self.groups:
            yield group, start, start + len(group.rows)
            start += len(group.rows)

    def admit(self, row: Any, caches: Sequence[Any], length: int) -> None:
        if not length and not self._blank:
            self._blank = _blank_leaves(self.model, self.layout)
        found = leaves(caches) if length else self._blank
        parts = []
        for leaf, kind in zip(found, self.layout.kinds, strict=True):
            if kind is not Kind.STATE:
                parts.append(_lane_part(leaf, length))
        self._group_for(length).add(row, length, parts)
        if self.layout.has_state:
            kinds = zip(found, self.layout.kinds, strict=True)
            self._states[id(row)] = [list(leaf.cache) for leaf, kind in kinds if kind is Kind.STATE]

    def remove(self, row: Any) -> None:
        self._leave(self._group_of(row), row)
        self._states.pop(id(row), None)

    def extract(self, row: Any) -> list[Any]:
        group = self._group_of(row)
        length = group.lengths[group.rows.index(row)]
        parts, states = iter(group.parts(row)), iter(self._row_states(row))
        found = []
        for kind in self.layout.kinds:
            if kind is Kind.STATE:
                arrays = next(states)
                leaf: Any = ArraysCache(len(arrays))
                leaf.cache = arrays
            else:
                leaf = _row_leaf(*next(parts), length)
            found.append(leaf)
        return rebuild(self._template, iter(found))

    def forward(self, tokens: mx.array) -> mx.array:
        self._order_states()
        self.offsets = mx.array([length for group in self.groups for length in group.lengths])
        for group in self.groups:
            group.begin_step()
        logits: mx.array = self.model(tokens[:, None], cache=self._caches)[:, -1]
        for group in self.groups:
            group.end_step()
        # not before the step: tokens came, and logits go, in the order in which the rows stood then
        self._move_grown_rows()
        return logits

    def _group_of(self, row: Any) -> LaneGroup:
        return next(group for group in self.groups if any(other is row for other in group.rows))

    def _group_for(self, length: int) -> LaneGroup:
        """The group with the shortest lanes that fit; a new one while there are few."""
        wanted = capacity_for(length)
        fitting = [group for group in self.groups if group.capacity >= wanted]
        closest = min(fitting, key=lambda group: group.capacity, default=None)
        if closest is not None and (closest.capacity == wanted or len(self.groups) >= MAX_GROUPS):
            return closest
        if len(self.groups) >= MAX_GROUPS:
            self._fold_shortest()
        group = LaneGroup(wanted)
        self.groups = sorted([*self.groups, group], key=lambda group: group.capacity)
        return group

    def _fold_shortest(self) -> None:
        """Make room for a group: the rows in the shortest lanes move into the next longer ones."""
        shortest, longer = self.groups[0], self.groups[1]
        for row, length in zip(list(shortest.rows), list(shortest.lengths), strict=True):
            longer.add(row, length, shortest.parts(row))
        self.groups = self.groups[1:]

    def _move_grown_rows(self) -> None:
        """Move each row that has filled its lane into a longer one."""
        while grown := [
            (group, row, length)
            for group in self.groups
            for row, length in zip(group.rows, group.lengths, strict=True)
            if length == group.capacity
        ]:
            group, row, length = grown[0]
            parts = [(window, mx.contiguous(keys), mx.contiguous(values)) for window, keys, values in group.parts(row)]
            mx.eval([array for _, *pair in parts for array in pair])
            self._leave(group, row)
            self._group_for(length).add(row, length, parts)

    def _leave(self, group: LaneGroup, row: Any) -> None:
        group.remove(row)
        self.groups = [group for group in self.groups if group.rows]

    def _batch_states(self) -> list[Any]:
        return [leaf for leaf in self._leaves if isinstance(leaf, ArraysCache)]

    def _row_states(self, row: Any) -> list[list[mx.array]]:
        if id(row) in self._states or not self.layout.has_state:
            return self._states.get(id(row), [])
        place = next(place for place, other in enumerate(self._state_rows) if other is row)
        return [[array[place : place + 1] for array in state.cache] for state in self._batch_states()]

    def _order_states(self) -> None:
        """Bring the batch's states into the order of the rows, with those who joined and without those who left."""
        rows = self.rows
        known = {id(row): place for place, row in enumerate(self._state_rows)}
        if not self.layout.has_state or (not self._states and [id(row) for row in rows] == list(known)):
            return
        for number, state in enumerate(self._batch_states()):
            for part in range(len(state.cache)):
                pieces = [state.cache[part]] if self._state_rows else []
                pieces += [arrays[number][part] for arrays in self._states.values()]
                state.cache[part] = mx.concatenate(pieces)
        places = known | {row: len(known) + place for place, row in enumerate(self._states)}
        order = mx.array([places[id(row)] for row in rows])
        for state in self._batch_states():
            state.cache = [array[order] for array in state.cache]
        self._states, self._state_rows = {}, rows


def _blank_leaves(model: Any, layout: Layout) -> list[Any]:
    """Caches of a row without tokens, but with their shapes: one token is fed, and taken out again."""
    caches = new_caches(model)
    model(mx.array([[0]]), cache=caches)
    blank = leaves(caches)
    for leaf, kind in zip(blank, layout.kinds, strict=True):
        if kind is Kind.STATE:
            leaf.cache = [mx.zeros_like(array) for array in leaf.cache]
        else:
            leaf.keys, leaf.values, leaf.offset = leaf.keys[:, :, :0], leaf.values[:, :, :0], 0
    return blank


def _lane_part(leaf: Any, length: int) -> tuple[int | None, mx.array, mx.array]:
    """A row's keys and values in the columns of a lane: from the left, and for a window at position mod window."""
    if isinstance(leaf, KVCache):
        return None, leaf.keys[:, :, :length], leaf.values[:, :, :length]
    window = leaf.max_size
    held = min(length, window)
    keys, values = (leaf._temporal_order(part)[:, :, -held:] for part in (leaf.keys, leaf.values))
    first = (length - held) % window
    if first:
        # the token at column 0 is the first whose position divides by the window
        keys, values = _rolled(keys, first), _rolled(values, first)
    return window, keys, values


def _row_leaf(window: int | None, keys: mx.array, values: mx.array, length: int) -> Any:
    if window is None:
        leaf: Any = KVCache()
        leaf.keys, leaf.values, leaf.offset = keys, values, length
        return leaf
    leaf = RotatingKVCache(max_size=window)
    first = length % window
    if length > window and first:
        keys, values = _rolled(keys, -first), _rolled(values, -first)
    leaf.keys, leaf.values, leaf.offset, leaf._idx = keys, values, length, min(length, window)
    return leaf


def _rolled(columns: mx.array, places: int) -> mx.array:
    split = -places % columns.shape[2]
    return mx.concatenate([columns[:, :, split:], columns[:, :, :split]], axis=2)
