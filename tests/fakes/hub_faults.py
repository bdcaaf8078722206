"""What the fake hub can be asked to do wrong. Each fault is data; the hub counts how often it struck.

`pattern` is a glob over `<org>/<name>/<file>` for files, over `api:<org>/<name>` for a repository's description and
over `tree:<org>/<name>` for its listing; `times` is how often the fault strikes, None for always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Fault(Protocol):
    @property
    def pattern(self) -> str: ...

    @property
    def times(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with `code` instead of the file or the metadata."""

    pattern: str
    code: int = 503
    times: int | None = 1


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing for `seconds` once `at` bytes of the file have been passed (for the API: before the answer)."""

    pattern: str
    at: int = 0
    seconds: float = 60.0
    times: int | None = 1


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection at byte `at` of the file, although more was announced."""

    pattern: str
    at: int
    times: int | None = 1


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Send as many bytes as announced, but flip the byte at `at`."""

    pattern: str
    at: int = 0
    times: int | None = 1


@dataclass(frozen=True, slots=True)
class Resize:
    """Announce, in every listing and linked size, `by` bytes more (or fewer) than the file has."""

    pattern: str
    by: int
    times: int | None = None


@dataclass(frozen=True, slots=True)
class NoRange:
    """Answer a request for a range with 200 and the whole file, as some caches on the way do."""

    pattern: str
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """Send at most `bytes_per_s` on each connection."""

    pattern: str
    bytes_per_s: int
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Gated:
    """Metadata is public; files ask for `token`: 401 without any, 403 with another one."""

    pattern: str
    token: str = "hf_accepted"
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Private:
    """Without `token` the repository does not seem to exist."""

    pattern: str
    token: str = "hf_owner"
    times: int | None = None
