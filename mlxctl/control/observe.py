"""What a look at the machine says about the ports: alive or not, whose, and how the last process ended."""

from __future__ import annotations

from dataclasses import dataclass

from mlxctl.control import probe
from mlxctl.control.launch import MLX_OPENAI_SERVER
from mlxctl.control.listeners import Holder
from mlxctl.control.site import Site
from mlxctl.control.state import BACKOFF, CRASHLOOP, FAILED, QUARANTINED, READY, STARTING, STOPPED, PortState
from mlxctl.core.registry import ModelEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One port: the registry's entry, the recorded state, and what is true now."""

    port: int
    entry: ModelEntry | None
    state: PortState
    phase: str
    alive: bool = False
    listening: bool = False
    memory_bytes: int | None = None
    requests: int | None = None
    last_exit: str | None = None
    stranger: Holder | None = None

    @property
    def is_leftover(self) -> bool:
        """A process of ours that the registry does not know of: a command was killed before it could commit."""
        return (
            self.alive and self.phase != STARTING and (self.entry is None or self.entry.model_id != self.state.model_id)
        )


def observe_all(site: Site) -> list[Observation]:
    registry = site.store.read()
    states = site.states.known()
    assigned = registry.assigned
    return [observe(site, port, assigned.get(port), states.get(port) or PortState(port=port)) for port in site.ports]


def observe(site: Site, port: int, entry: ModelEntry | None, state: PortState) -> Observation:
    """The truth about `port`: a recorded phase counts only while its process is alive and listens."""
    alive = state.identity is not None and site.host.is_alive(state.identity)
    listening = site.host.is_listening(port, site.settings.bind)
    last_exit = site.states.exit_of(state) or state.last_exit
    if not alive or state.identity is None:
        return Observation(
            port=port,
            entry=entry,
            state=state,
            phase=_phase_of_dead(state),
            listening=listening,
            last_exit=last_exit,
            stranger=(site.host.holder(port) or Holder(None, "a stranger")) if listening else None,
        )
    return Observation(
        port=port,
        entry=entry,
        state=state,
        phase=FAILED if state.phase == READY and not listening else state.phase,
        alive=True,
        listening=listening,
        memory_bytes=site.host.memory_bytes(state.identity),
        requests=_requests(site, state) if listening and state.phase == READY else None,
        last_exit=last_exit,
    )


def _phase_of_dead(state: PortState) -> str:
    """A process that is gone though nobody stopped it has failed, whatever its record says."""
    if state.phase in (FAILED, BACKOFF, CRASHLOOP, QUARANTINED, STOPPED):
        return state.phase
    return FAILED


def _requests(site: Site, state: PortState) -> int | None:
    """Requests in flight, where the engine tells."""
    if state.engine != MLX_OPENAI_SERVER:
        return None
    answer = probe.ask(site.settings.bind, state.port, "/v1/queue/stats", timeout_s=0.5)
    stats = answer.body.get("queue_stats") if isinstance(answer.body, dict) else None
    # one counter for requests that run alone, one for those that run in a batch
    parts = [part for part in stats.values() if isinstance(part, dict)] if isinstance(stats, dict) else []
    active = [part["active_requests"] for part in parts if isinstance(part.get("active_requests"), int)]
    return max(active, default=None)
