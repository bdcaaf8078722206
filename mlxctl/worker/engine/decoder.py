"""Three ways to run one step for many rows: lanes of similar length, mlx-lm's padded batch, or one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlxctl.worker.engine.layout import arrays_of


class Decoder(Protocol):
    """Holds the caches of the rows that are being continued. A row may be any object; it is compared by identity."""

    name: str

    @property
    def rows(self) -> list[Any]:
        """The order in which `forward` wants tokens and gives logits. Changes when rows come and go."""
        ...

    def admit(self, row: Any, caches: Sequence[Any], length: int) -> None:
        """Take over the caches [1, …] of a row that holds `length` tokens."""
        ...

    def remove(self, row: Any) -> None: ...

    def extract(self, row: Any) -> list[Any]:
        """The row's caches as mlx-lm has them for one row. The arrays may be views."""
        ...

    def forward(self, tokens: mx.array) -> mx.array:
        """Feed one token a row [rows]; logits [rows, vocabulary], not yet computed."""
        ...

    @property
    def nbytes(self) -> int: ...


class PaddedDecoder:
    """mlx-lm's own batch caches: every row is as long as the longest. For models that lanes do not fit."""

    name = "padded"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Any] = []
        self._caches: list[Any] = []

    def admit(self, row: Any, caches: Sequence[Any], length: int) -> None:  # noqa: ARG002 - lanes need it
        joining = [cache.merge([cache]) for cache in caches]
        if self.rows:
            for batch, one in zip(self._caches, joining, strict=True):
                batch.extend(one)
        else:
            self._caches = joining
        self.rows.append(row)

    def remove(self, row: Any) -> None:
        place = self.rows.index(row)
        self.rows.pop(place)
        if not self.rows:
            self._caches = []
            return
        keep = mx.array([other for other in range(len(self.rows) + 1) if other != place])
        for batch in self._caches:
            batch.filter(keep)

    def extract(self, row: Any) -> list[Any]:
        place = self.rows.index(row)
        return [batch.extract(place) for batch in self._caches]

    def forward(self, tokens: mx.array) -> mx.array:
        logits: mx.array = self.model(tokens[:, None], cache=self._caches)[:, -1]
        for batch in self._caches:
            # counts down for ever, and would grow a graph that nobody computes
            if getattr(batch, "left_padding", None) is not None and hasattr(batch, "advance"):
                batch.left_padding = None
        return logits

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in arrays_of(self._caches))


class SingleDecoder:
    """Each row runs alone, one after the other: slow, and right for every model that mlx-lm can run at all."""

    name = "single"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Any] = []
        self._caches: dict[int, list[Any]] = {}

    def admit(self, row: Any, caches: Sequence[Any], length: int) -> None:  # noqa: ARG002
        self.rows.append(row)
        self._caches[id(row)] = list(caches)

    def remove(self, row: Any) -> None:
        self.rows = [other for other in self.rows if other is not row]
        del self._caches[id(row)]

    def extract(self, row: Any) -> list[Any]:
        return self._caches[id(row)]

    def forward(self, tokens: mx.array) -> mx.array:
        rows = [
            self.model(tokens[place : place + 1, None], cache=self._caches[id(row)])[:, -1]
            for place, row in enumerate(self.rows)
        ]
        return mx.concatenate(rows)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for caches in self._caches.values() for array in arrays_of(caches))
