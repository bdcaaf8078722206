"""`mlxctl reconcile`: where registry and machine disagree. A dry run, unless told to clear or to heal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxctl.control import lifecycle, probe
from mlxctl.control.observe import Observation, observe, observe_all
from mlxctl.control.site import Site
from mlxctl.control.transition import restart
from mlxctl.core.errors import MlxctlError, UsageError
from mlxctl.core.result import Problem, Result

STALE, LEFTOVER, STRANGER, UNWELL = "stale", "leftover", "stranger", "unwell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement. `kind` decides what may be done about it."""

    port: int
    kind: str
    model_id: str | None
    why: str

    def to_json(self, action: str) -> dict[str, Any]:
        return {"port": self.port, "kind": self.kind, "model_id": self.model_id, "why": self.why, "action": action}


def plan_finding(seen: Observation, answers: bool) -> Finding | None:
    """What is wrong with one port. Stale only when listener, process and HTTP all say no."""
    model_id = seen.entry.model_id if seen.entry else None
    if seen.is_leftover:
        return Finding(seen.port, LEFTOVER, seen.state.model_id, "a command was killed before it could finish")
    if seen.entry is None:
        return None
    if seen.stranger:
        return Finding(seen.port, STRANGER, model_id, f"the port is held by {seen.stranger}")
    if not (seen.listening or seen.alive or answers):
        return Finding(seen.port, STALE, model_id, f"nothing runs ({seen.last_exit or 'not started'})")
    if seen.abandoned:
        return Finding(seen.port, UNWELL, model_id, "the command that started it was killed before it could prove it")
    if seen.survivor:
        return Finding(seen.port, UNWELL, model_id, "its process ended, but something that it started has the port")
    if seen.alive and seen.phase != "starting" and not (seen.listening and answers):
        return Finding(seen.port, UNWELL, model_id, "the process lives but does not answer")
    return None


def reconcile(site: Site, *, apply: bool = False, heal: bool = False, no_sync: bool = False) -> Result:
    if apply and heal:
        raise UsageError("bad_flag", "--apply clears what --restart would heal", "choose one of the two")
    findings = [found for seen in observe_all(site) if (found := plan_finding(seen, _answers(site, seen)))]
    shown, problems, exit_code, changed = [], [], 0, False
    for found in findings:
        action = _action(found, apply, heal)
        try:
            changed |= _act(site, found, action)
        except MlxctlError as error:
            problems.append(Problem.of(error))
            action, exit_code = "failed", error.exit_code
        shown.append(found.to_json(action))
    return Result(
        "reconcile", {"findings": shown}, _notices(site, findings, changed, no_sync), tuple(problems), exit_code
    )


def _notices(site: Site, findings: list[Finding], changed: bool, no_sync: bool) -> tuple[str, ...]:
    if not findings:
        return ("registry and ports agree",)
    if changed:
        return site.sync_notices(no_sync)
    return ("nothing was changed: --restart starts what is down, --apply takes it off its port",)


def _answers(site: Site, seen: Observation) -> bool:
    return (
        seen.listening
        and not seen.stranger
        and probe.ask(site.settings.bind, seen.port, "/v1/models", timeout_s=3).status != 0
    )


def _action(found: Finding, apply: bool, heal: bool) -> str:
    if not (apply or heal) or found.kind == STRANGER:
        return "none"
    if found.kind == LEFTOVER:
        return "stop"
    if heal:
        return "restart"
    return "clear" if found.kind == STALE else "none"


def _act(site: Site, found: Finding, action: str) -> bool:
    if action == "none":
        return False
    if action == "restart":
        restart(site, site.store.read().require(found.model_id or ""), found.port, lambda: _still(site, found))
        return True
    with site.states.lock(str(found.port), site.settings.lock_timeout_s, f"port {found.port}"):
        if not _still(site, found):
            return False
        lifecycle.stop(site, site.states.read(found.port), wanted="down")
        if action == "clear":
            site.store.update(lambda registry: registry.unassign(found.port))
    if action == "stop" and (entry := site.store.read().at(found.port)) is not None:
        # the killed command had stopped the model that belongs here
        restart(site, entry, found.port, lambda: _look(site, found.port) is not None)
    return True


def _look(site: Site, port: int) -> Finding | None:
    """What is wrong with `port`, for who holds its lock."""
    seen = observe(site, port, site.store.read().at(port), site.states.read(port), held=True)
    return plan_finding(seen, _answers(site, seen))


def _still(site: Site, found: Finding) -> bool:
    """Whether `found` is still so: another command may have been at work on the port, and have finished since."""
    now = _look(site, found.port)
    return now is not None and (now.kind, now.model_id) == (found.kind, found.model_id)
