"""Waits for a starting model, and knows when waiting is of no use: it died, it refuses, or nothing moves any more."""

from __future__ import annotations

import os
from pathlib import Path

from mlxctl.control import probe
from mlxctl.control.host import Identity
from mlxctl.control.launch import WORKER
from mlxctl.control.logs import last_lines
from mlxctl.control.plan import Plan
from mlxctl.control.site import Site
from mlxctl.control.state import PortState
from mlxctl.core.errors import NotReady

GB = 1 << 30
PROGRESS_WINDOW_S = 60.0
"""A load that shows no progress for this long after its deadline has failed."""
LOOK_S = 1.0
"""Between two looks for progress; more often where the window is so short that it would be missed."""
MAX_EXTENSION = 10
"""A load that shows progress may take this many times its deadline, and no longer."""
ASKED_PATHS = ('"POST /v1/chat/completions', '"GET /v1/models', '"GET /health')
"""How servers log the questions that we ask while we wait."""
TOLD = "error: "
"""How the worker begins the line that says why it ends."""
REFUSAL_LIMIT_S = 5.0
"""A server that loads may refuse for a moment; one that refuses for this long has failed to load."""


def ready_deadline_s(weight_bytes: int, least_s: float) -> float:
    """How long a model may take before only progress keeps it: `least_s`, or 6 s/GB when that is more."""
    return max(least_s, 6.0 * weight_bytes / GB)


def exit_cause(site: Site, state: PortState, wait_s: float = 1.0) -> str | None:
    """How the process of `state` ended. The shim writes the record right after the death; it is given a moment."""
    limit = site.host.monotonic() + wait_s
    while (ended := site.states.exit_of(state)) is None and site.host.monotonic() < limit:
        site.host.sleep(0.01)
    return ended


class Watch:
    """Ends the wait of `prove`: at once when the process is dead, in time when nothing moves."""

    def __init__(self, site: Site, plan: Plan, state: PortState, identity: Identity) -> None:
        self.site, self.plan, self.state, self.identity = site, plan, state, identity
        least = site.settings.ready_timeout_s
        self.begun = site.host.monotonic()
        self.deadline_s = ready_deadline_s(plan.weight_bytes, least)
        self.window_s = min(PROGRESS_WINDOW_S, least / 2)
        self.moved_at = self.looked_at = self.begun
        self.signs = (0, 0)
        self.listens = False
        self.refused_since: float | None = None

    def check(self, complaint: str) -> None:
        """Raise `NotReady` when waiting longer is of no use; `complaint` is what is missing so far."""
        if not self.site.host.is_alive(self.identity):
            raise self.died()
        now = self.site.host.monotonic()
        if now - self.looked_at >= min(LOOK_S, self.window_s / 4):
            self._look(now)
        waited = now - self.begun
        stalled = now - self.moved_at > self.window_s
        if waited > self.deadline_s and (stalled or waited > MAX_EXTENSION * self.deadline_s):
            raise self.gave_up(
                "bad_answer" if self.listens else "timeout",
                f"did not answer on port {self.plan.port} in {waited:.0f} s: {complaint}",
                f"see `mlxctl logs {self.plan.port}`; MLXCTL_READY_TIMEOUT_S gives it more time",
            )

    def check_refusal(self, answer: probe.Answer) -> None:
        """Raise `NotReady` when the server keeps saying no: an answer that will not change by waiting."""
        if answer.status in (0, 429, 503):
            self.refused_since = None
            return
        now = self.site.host.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        if now - self.refused_since > REFUSAL_LIMIT_S:
            raise self.gave_up(
                "bad_answer", f"listens on port {self.plan.port} but refuses: {probe.complaint_of(answer)}"
            )

    def _look(self, now: float) -> None:
        """Progress is memory that grows, and log until it listens: after that, our own questions fill the log."""
        self.looked_at = now
        log = Path(self.state.log_path or os.devnull)
        signs = (self.site.host.memory_bytes(self.identity) >> 20, log.stat().st_size if log.exists() else 0)
        if signs[0] > self.signs[0] or (signs[1] != self.signs[1] and not self.listens):
            self.moved_at = now
        self.signs = (max(signs[0], self.signs[0]), signs[1])

    def died(self) -> NotReady:
        ended = exit_cause(self.site, self.state) or "cause unknown"
        after = self.site.host.monotonic() - self.begun
        told = f"ended after {after:.1f} s ({ended}) before it answered"
        if self.plan.engine.kind == WORKER and ended.startswith("exit code"):
            lines = [line for line in self._last_lines() if line.startswith(TOLD)]
            told = f"{told}: {lines[-1].removeprefix(TOLD)}" if lines else told
        return self.gave_up("died", told)

    def _last_lines(self) -> tuple[str, ...]:
        return last_lines(Path(self.state.log_path or os.devnull), 400)

    def gave_up(self, code: str, what: str, hint: str = "") -> NotReady:
        """The error that ends the wait: `what` the server did, and the end of its log without our own questions."""
        told = [line for line in self._last_lines() if not any(path in line for path in ASKED_PATHS)]
        hint = hint or f"the end of its log is above; `mlxctl logs {self.plan.port}` shows all of it"
        return NotReady(code, f"the server for {self.plan.entry.model_id} {what}", hint, tuple(told[-12:]))
