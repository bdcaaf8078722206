"""What a look at the machine says about the ports: alive or not, whose, and how the last process ended."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlxctl.control import probe
from mlxctl.control.host import outlived
from mlxctl.control.launch import MLX_OPENAI_SERVER, WORKER
from mlxctl.control.listeners import Holder
from mlxctl.control.site import Site
from mlxctl.control.state import BACKOFF, CRASHLOOP, DRAINING, FAILED, QUARANTINED, READY, STARTING, STOPPED, PortState
from mlxctl.core.registry import ModelEntry

REQUESTS_TIMEOUT_S = 2.0


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
    abandoned: bool = False
    """A start or stop is under way, but no command is at work on it any more."""
    survivor: bool = False
    """The process is gone, but something that it started holds the port."""

    @property
    def is_leftover(self) -> bool:
        """Something of ours that the registry does not know of: a command was killed before it could commit."""
        unknown = self.entry is None or self.entry.model_id != self.state.model_id
        under_way = self.phase == STARTING and not self.abandoned
        return unknown and (self.survivor or (self.alive and not under_way))


def observe_all(site: Site) -> list[Observation]:
    registry = site.store.read()
    states = site.states.known()
    assigned = registry.assigned
    seen = [observe(site, port, assigned.get(port), states.get(port) or PortState(port=port)) for port in site.ports]
    return with_requests(site, seen)


def with_requests(site: Site, seen: list[Observation]) -> list[Observation]:
    """`seen` with the requests in flight, where the engine tells. Asked all at once: a busy engine takes its time."""
    telling = [one for one in seen if one.phase == READY and one.state.engine in (WORKER, MLX_OPENAI_SERVER)]
    if not telling:
        return seen
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(telling)) as pool:
        counts = dict(
            zip((one.port for one in telling), pool.map(lambda one: _requests(site, one.state), telling), strict=True)
        )
    return [replace(one, requests=counts.get(one.port)) for one in seen]


def observe(site: Site, port: int, entry: ModelEntry | None, state: PortState, *, held: bool = False) -> Observation:
    """The truth about `port`: a recorded phase counts only while its process is alive and listens.

    `held`: the caller holds the port's lock, so that nobody else is at work on it.
    """
    alive = state.identity is not None and site.host.is_alive(state.identity)
    listening = site.host.is_listening(port, site.settings.bind)
    last_exit = site.states.exit_of(state) or state.last_exit
    if not alive or state.identity is None:
        survivor = listening and state.phase != STOPPED and outlived(site.host, port, state.stamp)
        return Observation(
            port=port,
            entry=entry,
            state=state,
            phase=_phase_of_dead(state),
            listening=listening,
            last_exit=last_exit,
            stranger=(site.host.holder(port) or Holder(None, "a stranger")) if listening and not survivor else None,
            survivor=survivor,
        )
    return Observation(
        port=port,
        entry=entry,
        state=state,
        phase=FAILED if state.phase == READY and not listening else state.phase,
        alive=True,
        listening=listening,
        memory_bytes=site.host.memory_bytes(state.identity),
        last_exit=last_exit,
        abandoned=state.phase in (STARTING, DRAINING) and (held or not site.states.is_held(str(port))),
    )


def _phase_of_dead(state: PortState) -> str:
    """A process that is gone though nobody stopped it has failed, whatever its record says."""
    if state.phase in (FAILED, BACKOFF, CRASHLOOP, QUARANTINED, STOPPED):
        return state.phase
    return FAILED


def _requests(site: Site, state: PortState) -> int | None:
    if state.engine == WORKER:
        return probe.worker_requests(probe.ask(site.settings.bind, state.port, "/health", timeout_s=REQUESTS_TIMEOUT_S))
    answer = probe.ask(site.settings.bind, state.port, "/v1/queue/stats", timeout_s=REQUESTS_TIMEOUT_S)
    stats = answer.body.get("queue_stats") if isinstance(answer.body, dict) else None
    # one counter for requests that run alone, one for those that run in a batch
    parts = [part for part in stats.values() if isinstance(part, dict)] if isinstance(stats, dict) else []
    active = [part["active_requests"] for part in parts if isinstance(part.get("active_requests"), int)]
    return max(active, default=None)
