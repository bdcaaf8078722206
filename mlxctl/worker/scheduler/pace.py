"""How long prompts are read at a stretch, and when: prefill and decode share the time."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_CHUNK = 16
FIRST_CHUNK = 512
"""Tokens of a chunk before any was timed, while nobody streams."""
MEMORY = 0.7
"""The weight of the past in a running mean."""
STEPS_OF_STALL, STEPS_FOR_OTHERS = 2.0, 1.5
"""While somebody streams, reading may take as long as so many decode steps, though always `SHORTEST_S`; and up to so
many more, the more others wait for their first token than are streaming."""
SHORTEST_S, LONGEST_S = 0.03, 1.0


@dataclass(slots=True)
class Pace:
    """Running means of what was measured, and the time that prefill owes to decode."""

    stall_s: float
    decode_share: float
    prefill_tokens: int
    tokens_per_s: float = 0.0
    step_s: float = 0.0
    debt_s: float = 0.0

    def turn_s(self, *, running: int, coming: int) -> float:
        """How long prompts are read before the next decode step. Without streams: so short that a newcomer is seen."""
        if not running:
            return LONGEST_S
        steps = STEPS_OF_STALL + STEPS_FOR_OTHERS * coming / (running + coming)
        return min(self.stall_s, max(SHORTEST_S, steps * self.step_s))

    def chunk_tokens(self, left_s: float, *, streaming: bool) -> int:
        """Tokens that can be read in `left_s` seconds; 0: too few to be worth a call to the model."""
        if not self.tokens_per_s:
            return min(self.prefill_tokens, SMALLEST_CHUNK if streaming else FIRST_CHUNK)
        tokens = min(self.prefill_tokens, int(self.tokens_per_s * left_s))
        return tokens if tokens >= SMALLEST_CHUNK else 0

    def prefill_due(self, *, streaming: bool) -> bool:
        """Whether decode has had its share since prompts were last read."""
        return not streaming or self.debt_s <= 0.0

    def chunk_took(self, tokens: int, seconds: float) -> None:
        # a few tokens cost a whole call, and say nothing of how fast many are read
        if seconds > 0.0 and tokens >= SMALLEST_CHUNK:
            self.tokens_per_s = _mean(self.tokens_per_s, tokens / seconds)

    def turn_took(self, seconds: float, *, running: int, coming: int) -> None:
        """Prompts were read for `seconds`. The more rows wait for theirs, the less those that run may ask in return."""
        share = self.decode_share * running / max(1, running + coming)
        share = min(max(share, 0.0), 0.95)
        self.debt_s = seconds * share / (1.0 - share)

    def step_took(self, seconds: float) -> None:
        self.step_s = _mean(self.step_s, seconds)
        self.debt_s = max(0.0, self.debt_s - seconds)


def _mean(past: float, now: float) -> float:
    return past * MEMORY + now * (1.0 - MEMORY) if past else now
