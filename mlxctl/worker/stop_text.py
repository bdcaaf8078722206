"""Stop strings: cut an answer at the first of them, over any division of its text into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mlxctl.worker.parsers.find_text import Finder, Patterns


@lru_cache(maxsize=16)
def _patterns(stops: tuple[str, ...]) -> Patterns:
    """A request's choices share one."""
    return Patterns(stops)


class StopText:
    """One choice's text on its way out. The stop string that is complete first ends it, and is not given out.

    Of two that are complete at the same character, the longer one is cut. Linear in the text, whatever the strings.
    """

    __slots__ = ("_finder", "_hit")

    def __init__(self, stops: Sequence[str]) -> None:
        self._finder = Finder(_patterns(tuple(stops)))
        self._hit = False

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to release, and whether a stop string was hit. Dropped once one was."""
        if self._hit:
            return "", True
        found = self._finder.feed(text)
        self._hit = found.match is not None
        return found.text, self._hit

    def finish(self) -> str:
        """What was held back in case it became a stop string; empty after a hit."""
        return "" if self._hit else self._finder.finish()
