"""`mlxctl status`: what really is on each of the forty ports, beside what the registry says."""

from __future__ import annotations

from typing import Any

from mlxctl.control.observe import Observation, observe_all
from mlxctl.control.site import Site
from mlxctl.control.state import FAILED
from mlxctl.core.result import Result


def status(site: Site) -> Result:
    observed = observe_all(site)
    return Result(
        "status",
        {
            "ports": [row(site, seen) for seen in observed],
            "supervisor": None,
            "route_via_optillm": site.settings.route_via_optillm,
        },
        tuple(_notices(observed)),
    )


def row(site: Site, seen: Observation) -> dict[str, Any]:
    """One port as `--json` shows it. A name that does not apply is null, never left out."""
    state, entry = seen.state, seen.entry
    # a port that nothing is assigned to tells which model failed there
    told = state if seen.alive or (entry is None and seen.phase == FAILED) else entry
    model_id, repo_id = (told.model_id, told.repo_id) if told is not None else (None, None)
    started = state.ready_at or state.started_at
    return {
        "port": seen.port,
        "range": site.ports.range_of(seen.port),
        "phase": seen.phase,
        "model_id": model_id,
        "repo_id": repo_id,
        "engine": state.engine if seen.alive else None,
        "pid": state.pid if seen.alive else None,
        "memory_bytes": seen.memory_bytes,
        "uptime_s": round(site.host.now() - started, 1) if seen.alive and started else None,
        "restarts": state.restarts,
        "requests": seen.requests,
        "last_exit": seen.last_exit,
        "stranger": str(seen.stranger) if seen.stranger else None,
    }


def _notices(observed: list[Observation]) -> list[str]:
    told = []
    for seen in observed:
        if seen.phase == "failed" and seen.entry and not seen.is_leftover:
            how = f" ({seen.last_exit})" if seen.last_exit else ""
            told.append(
                f"{seen.entry.model_id} on port {seen.port} is down{how}: "
                f"`mlxctl load {seen.entry.model_id} {seen.port}` starts it again"
            )
        if seen.stranger:
            told.append(f"port {seen.port} is held by {seen.stranger}, which mlxctl did not start")
        if seen.abandoned and not seen.is_leftover:
            told.append(
                f"{seen.state.model_id} on port {seen.port} was left {seen.phase} by a command that was killed: "
                "`mlxctl reconcile` shows what to do"
            )
        if seen.is_leftover:
            told.append(
                f"port {seen.port} runs {seen.state.model_id}, which no finished command put there: "
                "`mlxctl reconcile` shows what to do"
            )
    return told
