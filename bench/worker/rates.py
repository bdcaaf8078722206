"""From the moments at which tokens came to the figures of the tables. Pure."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: when it was asked for, when its pieces came (seconds, rising), and how many tokens they were."""

    sent: float
    times: tuple[float, ...]
    tokens: int

    @property
    def first_wait(self) -> float:
        """Seconds to the first piece of text."""
        return self.times[0] - self.sent


def decode_rate(streams: Sequence[Stream], least_steps: int = 8) -> float:
    """Tokens a second of all together, while all of them run: from the last one's start to the first one's end.

    A piece of text may be several tokens; a stream's tokens are spread evenly over its pieces. Raises `ValueError`
    when fewer than `least_steps` tokens a stream fall into that time, for then it says nothing.
    """
    begin = max(stream.times[0] for stream in streams)
    end = min(stream.times[-1] for stream in streams)
    counted = 0.0
    for stream in streams:
        inside = bisect_right(stream.times, end) - bisect_right(stream.times, begin)
        counted += inside * stream.tokens / len(stream.times)
    if end <= begin or counted < least_steps * len(streams):
        raise ValueError(f"only {counted:.0f} tokens came while all {len(streams)} streams ran; ask for more tokens")
    return counted / (end - begin)


def whole_rate(streams: Sequence[Stream]) -> float:
    """Tokens a second from the first request to the last token, prompts included."""
    begin = min(stream.sent for stream in streams)
    return sum(stream.tokens for stream in streams) / (max(stream.times[-1] for stream in streams) - begin)


def usual_gap(streams: Sequence[Sequence[float]], begin: float, end: float) -> float:
    """The median pause between two pieces of one stream, over all pauses that lie between `begin` and `end`."""
    gaps = [late - early for times in streams for early, late in pairwise(times) if begin <= early and late <= end]
    if not gaps:
        raise ValueError("no two pieces of one stream came in that time")
    return statistics.median(gaps)


def longest_gap(streams: Sequence[Sequence[float]], begin: float, end: float) -> float:
    """The longest pause of any stream that touches the time from `begin` to `end`."""
    gaps = [late - early for times in streams for early, late in pairwise(times) if late > begin and early < end]
    if not gaps:
        raise ValueError("every stream had ended by then; ask for more tokens")
    return max(gaps)
