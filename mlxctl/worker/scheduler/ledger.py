"""The memory that running rows may take: it is set aside before a row joins, and again before it grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SET_ASIDE_TOKENS = 256
"""Room that a row gets ahead of what it has drawn; it asks for more when that is used up."""


@dataclass(slots=True)
class Ledger:
    """`row_bytes(tokens)` is what a row of that many tokens takes."""

    budget: int
    row_bytes: Callable[[int], int]
    reserved: int = 0

    def fits(self, tokens: int, rows: int = 1) -> bool:
        """Whether so many rows could ever run, if they were alone."""
        return rows * self.row_bytes(tokens) <= self.budget

    def has_room(self, tokens: int, rows: int, freed: int) -> bool:
        """Whether so many rows could be reserved once `freed` bytes are given back."""
        return self.reserved - freed + rows * self.row_bytes(tokens) <= self.budget

    def reserve(self, tokens: int, rows: int = 1) -> int | None:
        """Bytes set aside for each row, or None when there is no room now."""
        each = self.row_bytes(tokens)
        if self.reserved + rows * each > self.budget:
            return None
        self.reserved += rows * each
        return each

    def grow(self, held: int, tokens: int) -> int | None:
        """The new reservation of a row that holds `held` bytes; None: no room."""
        wanted = max(held, self.row_bytes(tokens))
        if self.reserved + wanted - held > self.budget:
            return None
        self.reserved += wanted - held
        return wanted

    def release(self, held: int) -> None:
        self.reserved -= held
