"""The forty ports: 8100-8119 for teams (8100-8109 OptiLLM models first), 8120-8139 for experiments."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from mlxctl.core.errors import Conflict, UsageError

DEFAULT_BASE = 8100
TEAM_SIZE = 20
COUNT = 40
LAST_BASE = 65536 - COUNT
MAX_DIGITS = 5
AUTO = "auto"

TEAM = "team"
EXPERIMENTAL = "experimental"


@dataclass(frozen=True, slots=True)
class Ports:
    """The range that one host owns. `base` is 8100 except in tests."""

    base: int = DEFAULT_BASE

    def __post_init__(self) -> None:
        if not 1 <= self.base <= LAST_BASE:
            raise UsageError(
                "bad_setting",
                f"there are no forty ports from {self.base}",
                f"set MLXCTL_PORT_BASE to 1-{LAST_BASE}, or leave it unset for {DEFAULT_BASE}",
            )

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.base, self.base + COUNT))

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.base <= port < self.base + COUNT

    @property
    def experimental(self) -> range:
        return range(self.base + TEAM_SIZE, self.base + COUNT)

    @property
    def last(self) -> int:
        return self.base + COUNT - 1

    def range_of(self, port: int) -> str:
        return EXPERIMENTAL if port in self.experimental else TEAM

    def parse(self, word: str) -> int:
        """A port that mlxctl owns, out of what somebody typed. Raises `UsageError`."""
        # int() refuses words of thousands of digits with a ValueError
        if not (word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS) or int(word) not in self:
            raise UsageError(
                "bad_port",
                f"{word!r} is not a port of mlxctl ({self.base}-{self.last})",
                f"use `{AUTO}`, a team port {self.base}-{self.base + TEAM_SIZE - 1}, or an experimental port "
                f"{self.base + TEAM_SIZE}-{self.last}",
            )
        return int(word)

    def free_experimental(self, taken: Container[int]) -> Iterator[int]:
        """Experimental ports not in `taken`, lowest first: what `auto` tries in turn."""
        return (port for port in self.experimental if port not in taken)

    def none_free(self) -> Conflict:
        return Conflict(
            "no_free_port",
            f"every experimental port {self.base + TEAM_SIZE}-{self.last} is in use",
            "see `mlxctl status`, then `mlxctl unload PORT` one of them",
        )
