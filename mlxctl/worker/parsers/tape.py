"""The text that a parser has still to read, and parsers written as one plain reading of it from start to end."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import TypeAlias, TypeVar

from mlxctl.worker.parsers.base import Piece
from mlxctl.worker.parsers.find_text import Finder

Result = TypeVar("Result")
Steps: TypeAlias = Generator[Piece | None, None, Result]
"""A reading: it gives pieces as they are known, and None when it needs more text."""

BLANK = re.compile(r"\s*")


class Malformed(Exception):
    """What was read is not of the format, or was cut short. Caught where the call began."""


class Tape:
    """Text comes in at one end and is taken at the other. Nothing taken is looked at twice.

    Between `keep` and `forget` what is taken is also kept, for a call that turns out to be none.
    """

    __slots__ = ("_at", "_kept", "_text", "is_over")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._kept: list[str] | None = None
        self.is_over = False

    def add(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def keep(self, before: str = "") -> None:
        """Keep what is taken from now on, behind `before`."""
        self._kept = [before]

    def forget(self) -> str:
        """What was kept; no more is."""
        kept = "".join(self._kept or ())
        self._kept = None
        return kept

    def take(self, count: int = 1) -> str:
        """The next characters, which must be there."""
        taken = self._text[self._at : self._at + count]
        self._at += count
        if self._kept is not None:
            self._kept.append(taken)
        return taken

    def peek(self) -> Steps[str]:
        """The next character, empty at the end of the text."""
        while self._at >= len(self._text):
            if self.is_over:
                return ""
            yield None
        return self._text[self._at]

    def look(self, count: int) -> Steps[str]:
        """The next `count` characters without taking them; fewer at the end of the text."""
        while len(self._text) - self._at < count and not self.is_over:
            yield None
        return self._text[self._at : self._at + count]

    def run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Take what `pattern` matches in the text at hand: possibly a part of what it would match with more."""
        if not (yield from self.peek()):
            return ""
        match = pattern.match(self._text, self._at)
        return self.take(match.end() - self._at) if match else ""

    def all_of(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Take all that `pattern`, a repeated class of characters, matches. It ends at another character or the end."""
        taken: list[str] = []
        while text := (yield from self.run(pattern)):
            taken.append(text)
        return "".join(taken)

    def skip_blank(self) -> Steps[str]:
        """Take white space; the character behind it, empty at the end."""
        yield from self.all_of(BLANK)
        return (yield from self.peek())

    def accept(self, literal: str) -> Steps[bool]:
        """Take `literal` if it comes next."""
        while True:
            ahead = self._text[self._at : self._at + len(literal)]
            if ahead == literal:
                self.take(len(literal))
                return True
            if self.is_over or not literal.startswith(ahead):
                return False
            yield None

    def is_cut_in(self, *literals: str) -> bool:
        """Whether the text is over, in the middle of one of these or before it. Takes what there is of it."""
        rest = self._text[self._at :]
        if not self.is_over or not any(literal.startswith(rest) for literal in literals):
            return False
        self.take(len(rest))
        return True

    def until(self, finder: Finder) -> Steps[tuple[str, str | None]]:
        """Take text up to the next match: (text, match). Match None: more of the same follows; empty: the end."""
        if not (yield from self.peek()):
            return finder.finish(), ""
        found = finder.feed(self._text, self._at)
        self.take(found.end - self._at)
        return found.text, found.match

    def all_until(self, finder: Finder) -> Steps[tuple[str, str]]:
        """All text up to the next match: (text, match), match empty at the end."""
        parts: list[str] = []
        match = None
        while match is None:
            text, match = yield from self.until(finder)
            parts.append(text)
        return "".join(parts), match

    def ahead(self) -> tuple[str, int]:
        """The text at hand, and where in it the next character stands."""
        return self._text, self._at


class Script(ABC):
    """A parser whose `_read` reads the whole answer from `_tape`, and so never sees how it was cut up."""

    def __init__(self) -> None:
        self._tape = Tape()
        self._steps = self._read()

    def push(self, token: int, text: str) -> Iterator[Piece]:
        del token
        if not text:
            return iter(())
        self._tape.add(text)
        return self._advance()

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        del stop_token
        self._tape.add(text)
        self._tape.is_over = True
        return self._advance()

    @abstractmethod
    def _read(self) -> Steps[None]: ...

    def _advance(self) -> Iterator[Piece]:
        """Read as far as the text goes. Not lazily: the text must be read even if nobody looks at the pieces."""
        pieces: list[Piece] = []
        for piece in self._steps:
            if piece is None:
                break
            pieces.append(piece)
        return iter(pieces)
