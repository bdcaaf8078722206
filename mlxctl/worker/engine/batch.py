"""The rows that are being continued, and the one draw that is always under way while the last one is read."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Several
from typing import Any

import mlx.core as mx

from mlxctl.worker.engine.decoder import Decoder
from mlxctl.worker.engine.sampler import Draw, Sampler
from mlxctl.worker.engine.sequence import Sequence
from mlxctl.worker.types import TokenLogprobs

Taken = list[tuple[Sequence, int, TokenLogprobs | None]]


class Batch:
    """Steps go in two halves, so that the device has work while Python reads: `launch` feeds the tokens of the last
    draw before they are known here, `read` fetches them, `draw` samples the launched step.
    """

    def __init__(self, make_decoder: Callable[[], Decoder], sampler: Sampler) -> None:
        self.decoder, self.sampler = make_decoder(), sampler
        self._make_decoder = make_decoder
        self._drawing: tuple[list[Sequence], Draw] | None = None
        self._launched: tuple[list[Sequence], mx.array] | None = None

    @property
    def rows(self) -> list[Sequence]:
        return self.decoder.rows

    @property
    def is_drawing(self) -> bool:
        return self._drawing is not None

    def admit(self, row: Sequence, caches: Several[Any], length: int) -> None:
        row.cached = length
        self.decoder.admit(row, caches, length)

    def remove(self, row: Sequence) -> None:
        self.decoder.remove(row)

    def clear(self) -> None:
        """Begin anew, without rows."""
        self.decoder = self._make_decoder()
        self._drawing = self._launched = None

    def launch(self) -> None:
        """Feed every row its next token."""
        rows = list(self.rows)
        logits = self.decoder.forward(self._next_tokens(rows))
        mx.async_eval(logits)  # type: ignore[no-untyped-call]
        for row in rows:
            row.cached += 1
        self._launched = rows, logits

    def read(self) -> Taken:
        """Wait for the draw that is under way; the tokens of those rows that are still there."""
        if self._drawing is None:
            return []
        rows, draw = self._drawing
        self._drawing = None
        return [(row, *drawn) for row, drawn in zip(rows, draw.read(), strict=True) if not row.ended]

    def draw(self) -> None:
        """Sample the launched step, for the rows that did not end meanwhile."""
        if self._launched is None:
            return
        rows, logits = self._launched
        self._launched = None
        going_on = [place for place, row in enumerate(rows) if not row.ended]
        if not going_on:
            return
        if len(going_on) < len(rows):
            logits, rows = logits[mx.array(going_on)], [rows[place] for place in going_on]
        draw = self.sampler.draw(logits, rows)
        mx.async_eval(draw.arrays)  # type: ignore[no-untyped-call]
        self._drawing = rows, draw

    def _next_tokens(self, rows: list[Sequence]) -> mx.array:
        if self._drawing is None:
            return mx.array([row.tokens[-1] for row in rows])
        drawing, draw = self._drawing
        if len(drawing) == len(rows) and all(one is other for one, other in zip(drawing, rows, strict=True)):
            return draw.tokens
        # those who joined know their token; the others' is on its way
        places = {id(row): place for place, row in enumerate(drawing)}
        joined = [row for row in rows if id(row) not in places]
        places |= {id(row): len(drawing) + place for place, row in enumerate(joined)}
        tokens = draw.tokens
        if joined:
            tokens = mx.concatenate([tokens, mx.array([row.tokens[-1] for row in joined], dtype=tokens.dtype)])
        return tokens[mx.array([places[id(row)] for row in rows])]
