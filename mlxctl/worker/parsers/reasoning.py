"""Thoughts between tags at the start of an answer; what follows them goes to another parser."""

from __future__ import annotations

from collections.abc import Iterator

from mlxctl.worker.parsers.base import Parser, Piece, Reasoning
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.tape import Script, Steps


class ThinkParser:
    """Reasoning from `start` to `end`, and the rest through `inner`. White space around the tags is dropped.

    `starts_inside`: the prompt ended with `start`. It counts at the start of the answer alone: further on, the text
    only speaks of it.
    """

    def __init__(
        self, inner: Parser, start: str = "<think>", end: str = "</think>", starts_inside: bool = False
    ) -> None:
        self._inner = inner
        self._thoughts = _Thoughts(start, end, starts_inside)

    def push(self, token: int, text: str) -> Iterator[Piece]:
        if self._thoughts.are_over:
            return self._inner.push(token, text)
        pieces = list(self._thoughts.push(token, text))
        if rest := self._thoughts.take_rest():
            pieces.extend(self._inner.push(token, rest))
        return iter(pieces)

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        pieces: list[Piece] = []
        if not self._thoughts.are_over:
            pieces.extend(self._thoughts.finish(stop_token, text))
            text = self._thoughts.take_rest()
        pieces.extend(self._inner.finish(stop_token, text))
        return iter(pieces)


class _Thoughts(Script):
    """Reads up to the end of the thoughts. Then `are_over`, and `take_rest` has what was read too far."""

    def __init__(self, start: str, end: str, starts_inside: bool) -> None:
        super().__init__()
        self._start = start
        self._end = end
        self._inside = starts_inside
        self._rest = ""
        self.are_over = False

    def take_rest(self) -> str:
        if not self.are_over:
            return ""
        text, at = self._tape.ahead()
        rest, self._rest = self._rest + text[at:], ""
        self._tape.take(len(text) - at)
        return rest

    def _read(self) -> Steps[None]:
        self._tape.keep()
        yield from self._tape.skip_blank()
        opened = yield from self._tape.accept(self._start)
        before = self._tape.forget()
        if opened or self._inside:
            yield from self._thought("" if opened else before)
            yield from self._tape.skip_blank()
        else:
            self._rest = before
        self.are_over = True

    def _thought(self, before: str) -> Steps[None]:
        """Reasoning up to its end tag, or the end of the text. Blank text waits until more follows."""
        finder, blank, match, is_first = Finder(patterns((self._end,))), before, None, True
        while match is None:
            text, match = yield from self._tape.until(finder)
            said = (blank + text).rstrip()
            blank = (blank + text)[len(said) :]
            if is_first:
                said = said.lstrip()
            if said:
                is_first = False
                yield Reasoning(said)
