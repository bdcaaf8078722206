"""Rows of similar length beside each other: for each layer one array of keys and one of values, a lane a row.

A lane is written from the left, so a row joins and leaves without touching its neighbours. Layers with a window of W
tokens keep token p in column p mod W: attention does not mind the order, since positions are in the keys already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

SMALLEST, GROWTH, ROUNDING = 256, 1.5, 64
HEADROOM = 64
"""A row moves to longer lanes at most once in so many tokens."""


def capacity_for(tokens: int) -> int:
    """Columns of the lanes in which a row of `tokens` tokens can stay for a while."""
    capacity = SMALLEST
    while capacity < tokens + HEADROOM:
        capacity = -(-int(capacity * GROWTH) // ROUNDING) * ROUNDING
    return capacity


@dataclass(slots=True)
class Slab:
    """One layer of a group: keys and values [lanes, heads, columns, width]."""

    window: int | None
    keys: mx.array
    values: mx.array

    @property
    def columns(self) -> int:
        return int(self.keys.shape[2])


@dataclass(slots=True)
class Step:
    """Where this step's tokens go in layers of one window, and what each row may look at."""

    columns: list[int]
    lanes: mx.array
    visible: int
    mask: mx.array | None


@dataclass(slots=True)
class LaneGroup:
    """`rows[i]` lies in lane i and holds `lengths[i]` tokens. Lanes behind the last row are spare."""

    capacity: int
    rows: list[Any] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    slabs: list[Slab] = field(default_factory=list)
    steps: dict[int | None, Step] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        return int(self.slabs[0].keys.shape[0]) if self.slabs else 0

    @property
    def nbytes(self) -> int:
        return sum(slab.keys.nbytes + slab.values.nbytes for slab in self.slabs)

    def add(self, row: Any, length: int, parts: Sequence[tuple[int | None, mx.array, mx.array]]) -> None:
        """Lay a row into the first spare lane. `parts`: window, keys and values [1, heads, columns, width] a layer,
        in the columns in which the group keeps them.
        """
        lane = len(self.rows)
        if not self.slabs:
            self.slabs = [self._empty(*part) for part in parts]
        elif lane == self.lanes:
            self._resize(max(lane + 1, int(lane * GROWTH)))
        for slab, (_, keys, values) in zip(self.slabs, parts if length else [], strict=bool(length)):
            slab.keys[lane : lane + 1, :, : keys.shape[2]] = keys
            slab.values[lane : lane + 1, :, : values.shape[2]] = values
        self.rows.append(row)
        self.lengths.append(length)

    def remove(self, row: Any) -> None:
        """Free a lane; the last row takes its place, so that the lanes in use stay together."""
        lane, last = self.rows.index(row), len(self.rows) - 1
        if lane != last:
            held = self.lengths[last]
            for slab in self.slabs:
                columns = min(held, slab.columns)
                # a copy first: an array that is read and written in one go would be copied whole
                slab.keys[lane : lane + 1, :, :columns] = mx.contiguous(slab.keys[last : last + 1, :, :columns])
                slab.values[lane : lane + 1, :, :columns] = mx.contiguous(slab.values[last : last + 1, :, :columns])
            self.rows[lane], self.lengths[lane] = self.rows[last], held
        self.rows.pop()
        self.lengths.pop()
        if self.rows and len(self.rows) * 2 <= self.lanes:
            self._resize(len(self.rows))

    def parts(self, row: Any) -> list[tuple[int | None, mx.array, mx.array]]:
        """The columns in use of one row's lane, a layer each; views, nothing is copied."""
        lane = self.rows.index(row)
        held = self.lengths[lane]
        return [
            (
                slab.window,
                slab.keys[lane : lane + 1, :, : min(held, slab.columns)],
                slab.values[lane : lane + 1, :, : min(held, slab.columns)],
            )
            for slab in self.slabs
        ]

    def begin_step(self) -> None:
        """Work out, once for all layers of one window, where the next token of every row goes."""
        windows = {slab.window: slab.columns for slab in self.slabs}
        self.steps = {window: self._step(columns) for window, columns in windows.items()}

    def end_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Put this step's keys and values [rows, heads, 1, width] into their columns."""
        slab = self.slabs[layer]
        step = self.steps[slab.window]
        count, column = len(self.rows), step.columns[0]
        if all(other == column for other in step.columns):
            slab.keys[:count, :, column : column + 1] = keys
            slab.values[:count, :, column : column + 1] = values
        else:
            slab.keys[step.lanes[0], :, step.lanes[1]] = keys[:, :, 0]
            slab.values[step.lanes[0], :, step.lanes[1]] = values[:, :, 0]

    def attend(
        self, layer: int, queries: mx.array, scale: float, window: int | None, sinks: mx.array | None
    ) -> mx.array:
        """Attention of one new token a row over what its lane holds. `window`: fewer tokens than the layer keeps."""
        slab = self.slabs[layer]
        step = self.steps[slab.window]
        count = len(self.rows)
        mask = step.mask if window is None else self._narrowed(slab, step, window)
        return mx.fast.scaled_dot_product_attention(
            queries,
            slab.keys[:count, :, : step.visible],
            slab.values[:count, :, : step.visible],
            scale=scale,
            mask=mask,
            sinks=sinks,
        )

    def _step(self, columns: int) -> Step:
        places = [length % columns for length in self.lengths]
        held = [min(length + 1, columns) for length in self.lengths]
        visible = max(held)
        mask = None
        if min(held) != visible:
            mask = (mx.arange(visible) < mx.array(held)[:, None])[:, None, None, :]
        return Step(places, mx.array([list(range(len(places))), places]), visible, mask)

    def _narrowed(self, slab: Slab, step: Step, window: int) -> mx.array | None:
        """The mask of a model that asks for a window on a layer that keeps every token."""
        if slab.window is not None:
            if window >= slab.window:
                return step.mask
            raise ValueError(f"a window of {window} tokens over a layer that keeps {slab.window}")
        if max(self.lengths) < window:
            return step.mask
        held, columns = mx.array(self.lengths)[:, None] + 1, mx.arange(step.visible)
        return ((columns < held) & (columns >= held - window))[:, None, None, :]

    def _empty(self, window: int | None, keys: mx.array, values: mx.array) -> Slab:
        columns = min(self.capacity, window) if window else self.capacity
        return Slab(
            window,
            mx.zeros((1, keys.shape[1], columns, keys.shape[3]), keys.dtype),
            mx.zeros((1, values.shape[1], columns, values.shape[3]), values.dtype),
        )

    def _resize(self, lanes: int) -> None:
        for slab in self.slabs:
            slab.keys, slab.values = _with_lanes(slab.keys, lanes), _with_lanes(slab.values, lanes)


def _with_lanes(slab: mx.array, lanes: int) -> mx.array:
    if lanes <= slab.shape[0]:
        # a plain slice would keep the whole array alive
        return mx.contiguous(slab[:lanes])
    more = mx.zeros((lanes - slab.shape[0], *slab.shape[1:]), slab.dtype)
    return mx.concatenate([slab, more])
