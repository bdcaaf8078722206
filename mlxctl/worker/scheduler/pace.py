"""How much of a prompt is read at once, and when: prefill and decode share the time."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_CHUNK = 16
MEMORY = 0.7
"""The weight of the past in a running mean."""
STEPS_OF_STALL = 2.0
"""A chunk may take as long as so many decode steps, though it may always take `SHORTEST_S`."""
SHORTEST_S = 0.02


@dataclass(slots=True)
class Pace:
    """Running means of what was measured, and the debt of time that prefill owes to decode."""

    stall_s: float
    decode_share: float
    prefill_tokens: int
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    debt_s: float = 0.0

    def chunk_tokens(self, *, streaming: bool) -> int:
        """Tokens of the next chunk. While somebody streams it is cut by time, else only by `prefill_tokens`."""
        if not streaming:
            return self.prefill_tokens
        if not self.tokens_per_s:
            return min(SMALLEST_CHUNK * 2, self.prefill_tokens)
        allowed_s = min(self.stall_s, max(SHORTEST_S, STEPS_OF_STALL * self.step_s))
        return max(SMALLEST_CHUNK, min(self.prefill_tokens, int(self.tokens_per_s * allowed_s)))

    def prefill_due(self, *, streaming: bool) -> bool:
        """Whether decode has had its share since the last chunk."""
        return not streaming or self.debt_s <= 0.0

    def chunk_took(self, tokens: int, seconds: float, *, streaming: bool) -> None:
        if seconds > 0.0:
            self.tokens_per_s = _mean(self.tokens_per_s, tokens / seconds)
        share = min(max(self.decode_share, 0.0), 0.95)
        self.debt_s = seconds * share / (1.0 - share) if streaming else 0.0

    def step_took(self, seconds: float) -> None:
        self.step_s = _mean(self.step_s, seconds)
        self.debt_s = max(0.0, self.debt_s - seconds)


def _mean(past: float, now: float) -> float:
    return past * MEMORY + now * (1.0 - MEMORY) if past else now
