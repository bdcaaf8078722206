"""The parser of models and requests in which nothing is looked for."""

from __future__ import annotations

from collections.abc import Iterator

from mlxctl.worker.parsers.base import Content, Piece


class PlainParser:
    """All of it is content."""

    def push(self, token: int, text: str) -> Iterator[Piece]:
        del token
        return iter((Content(text),) if text else ())

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        del stop_token
        return iter((Content(text),) if text else ())
