"""What the step loop tells: events for those who asked, and counts of what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mlxctl.worker.engine.prefill import Prefill
from mlxctl.worker.engine.sequence import Sequence
from mlxctl.worker.errors import EngineFailed
from mlxctl.worker.types import Counts, Drawn, Ended, Event, Failed, Prefilled, TokenLogprobs


@dataclass(slots=True)
class Outbox:
    counts: Counts = field(default_factory=Counts)
    _events: list[Event] = field(default_factory=list)

    def take(self) -> list[Event]:
        """Everything since the last time."""
        events, self._events = self._events, []
        return events

    def prefilled(self, prefill: Prefill) -> None:
        # a preempted row told all this when it came for the first time
        if not prefill.job.resumed:
            request_id = prefill.job.generation.request_id
            self._events.append(Prefilled(request_id, prefill.done, prefill.target + 1, prefill.cached))

    def joined(self, prefill: Prefill, rows_now: int) -> None:
        if not prefill.job.resumed:
            self.counts.prompt_tokens += prefill.target + 1
            self.counts.cached_tokens += prefill.cached
        self.counts.largest_batch = max(self.counts.largest_batch, rows_now)

    def drawn(self, row: Sequence, token: int, logprobs: TokenLogprobs | None) -> None:
        self._events.append(Drawn(row.generation.request_id, row.index, token, logprobs))

    def ended(self, row: Sequence, reason: Literal["stop", "length", "aborted"], stop_token: int | None) -> None:
        if reason == "aborted":
            self.counts.aborted += 1
        else:
            self.counts.finished += 1
        self._events.append(Ended(row.generation.request_id, row.index, reason, stop_token))

    def failed(self, request_id: str, error: BaseException) -> None:
        message = f"the model could not go on: {type(error).__name__}: {error}"
        self._events.append(Failed(request_id, EngineFailed(message)))
