"""The first of several texts in a stream, found in time linear in the stream, however it is cut up."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


class Patterns:
    """The texts to look for, as an Aho-Corasick automaton. Immutable; one serves any number of `Finder`s."""

    __slots__ = ("depth", "fall", "found", "owner", "starts", "step")

    def __init__(self, texts: Sequence[str]) -> None:
        texts = [text for text in texts if text]
        self.step: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.owner = [""]  # a text through this node: its first `depth` characters are the node's path
        self.found = [0]  # length of the longest text that ends here
        self.fall = [0]
        for text in texts:
            self._add(text)
        self._link()
        firsts = "".join(sorted({text[0] for text in texts}))
        self.starts = re.compile(f"[{re.escape(firsts)}]") if firsts else None

    def _add(self, text: str) -> None:
        node = 0
        for place, char in enumerate(text):
            if char not in self.step[node]:
                self.step[node][char] = len(self.step)
                self.step.append({})
                self.depth.append(place + 1)
                self.owner.append(text)
                self.found.append(0)
                self.fall.append(0)
            node = self.step[node][char]
        self.found[node] = len(text)

    def _link(self) -> None:
        waiting = deque(self.step[0].values())
        while waiting:
            node = waiting.popleft()
            self.found[node] = self.found[node] or self.found[self.fall[node]]
            for char, child in self.step[node].items():
                self.fall[child] = self.advance(self.fall[node], char)
                waiting.append(child)

    def advance(self, node: int, char: str) -> int:
        while node and char not in self.step[node]:
            node = self.fall[node]
        return self.step[node].get(char, 0)


@lru_cache(maxsize=256)
def patterns(texts: tuple[str, ...]) -> Patterns:
    """Built once for each set of tags."""
    return Patterns(texts)


@dataclass(frozen=True, slots=True)
class Found:
    """`text` belongs to no match. `match` ended at `end` of what was fed, or is None and all was taken."""

    text: str
    match: str | None
    end: int


class Finder:
    """A walk through one stream. The match that is complete first counts; of those that end together, the longest."""

    __slots__ = ("_node", "_patterns")

    def __init__(self, sought: Patterns) -> None:
        self._patterns = sought
        self._node = 0

    def feed(self, text: str, at: int = 0) -> Found:
        """Read `text[at:]` up to the first match. What may still become one is held back."""
        sought = self._patterns
        if sought.starts is None:
            return Found(text[at:], None, len(text))
        before = self._node
        node, place = before, at
        while place < len(text):
            if node == 0:
                start = sought.starts.search(text, place)
                if start is None:
                    place = len(text)
                    break
                place = start.start()
            node = sought.advance(node, text[place])
            place += 1
            if length := sought.found[node]:
                self._node = 0
                owner, depth = sought.owner[node], sought.depth[node]
                free = self._front(before, text, at, sought.depth[before] + place - at - length)
                return Found(free, owner[depth - length : depth], place)
        self._node = node
        free = self._front(before, text, at, sought.depth[before] + len(text) - at - sought.depth[node])
        return Found(free, None, len(text))

    def held(self) -> str:
        """What was read and not given out: the beginning of a match, so far."""
        return self._patterns.owner[self._node][: self._patterns.depth[self._node]]

    def finish(self) -> str:
        """No more comes: what was held back is no match."""
        held, self._node = self.held(), 0
        return held

    def _front(self, node: int, text: str, at: int, count: int) -> str:
        """The first `count` characters of the path to `node` and `text[at:]`, in time linear in `count`."""
        owner, depth = self._patterns.owner[node], self._patterns.depth[node]
        return owner[:count] if count <= depth else owner[:depth] + text[at : at + count - depth]
