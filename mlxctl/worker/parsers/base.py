"""What every parser takes and gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call begins with its `name` and `call_id`; what follows for the same `index` carries `arguments` alone."""

    index: int
    arguments: str = ""
    name: str | None = None
    call_id: str | None = None


Piece = Content | Reasoning | ToolCall


class Parser(Protocol):
    """One choice's output. `text` is what the detokenizer gave out for `token`; it may be empty, and lag behind.

    Special tokens are in `text` as their own spelling, so that a parser may look at either.
    """

    def push(self, token: int, text: str) -> Iterator[Piece]: ...

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        """The end: `text` is the detokenizer's rest. A call cut short is handed out as far as it got."""
        ...
