"""Where a JSON value ends, found while it streams in: strings, escapes and nesting, each character looked at once."""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'[^"\\]*')
_STRUCTURE = re.compile(r"[^\"\[\]{}<>'`;|()]*")
"""What may stand between two strings or brackets. The excluded rest cannot occur in JSON outside of strings."""
_SCALAR = re.compile(r"[\w.+-]*")
_CLOSERS = {"{": "}", "[": "]"}


class JsonScanner:
    """Walks one value. `is_done`: its end was found. `is_broken`: a character came that no JSON has there.

    It knows nesting, not grammar: `[1 2]` passes.
    """

    __slots__ = ("_closers", "_escaped", "_in_string", "_scalar", "is_broken", "is_done")

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False
        self._scalar = False
        self.is_done = False
        self.is_broken = False

    def scan(self, text: str, at: int = 0) -> int:
        """Where in `text` the value ends, or the text does. White space before the value belongs to it."""
        place = at
        while place < len(text) and not self.is_done and not self.is_broken:
            if self._in_string:
                place = self._string(text, place)
            elif self._closers:
                place = self._inside(text, place)
            else:
                place = self._outside(text, place)
        return place

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        match = _IN_STRING.match(text, place)
        place = match.end() if match else place
        if place == len(text):
            return place
        if text[place] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.is_done = not self._closers
        return place + 1

    def _inside(self, text: str, place: int) -> int:
        match = _STRUCTURE.match(text, place)
        place = match.end() if match else place
        if place == len(text):
            return place
        char = text[place]
        if char == '"':
            self._in_string = True
        elif char in _CLOSERS:
            self._closers.append(_CLOSERS[char])
        elif char == self._closers[-1]:
            self._closers.pop()
            self.is_done = not self._closers
        else:
            self.is_broken = True
            return place
        return place + 1

    def _outside(self, text: str, place: int) -> int:
        """Before the value, or within a number or word."""
        char = text[place]
        if not self._scalar and char.isspace():
            return place + 1
        if not self._scalar and char == '"':
            self._in_string = True
            return place + 1
        if not self._scalar and char in _CLOSERS:
            self._closers.append(_CLOSERS[char])
            return place + 1
        match = _SCALAR.match(text, place)
        end = match.end() if match else place
        if end > place:
            self._scalar = True
            return end
        self.is_done = self._scalar
        self.is_broken = not self._scalar
        return place
