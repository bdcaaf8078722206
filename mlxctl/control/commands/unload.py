"""`mlxctl unload` and `unload-all`: stop a model, prove its port free, clear its assignment."""

from __future__ import annotations

from mlxctl.control.observe import observe_all
from mlxctl.control.site import Site
from mlxctl.control.state import STOPPED
from mlxctl.control.transition import unload as stop_and_clear
from mlxctl.core.errors import MlxctlError, NotFound
from mlxctl.core.result import Problem, Result


def unload(site: Site, word: str, *, no_sync: bool = False) -> Result:
    named = None if word.isdigit() else site.store.read().require(word).model_id
    while True:
        port = port_of(site, word)
        try:
            state, model_id = stop_and_clear(site, port, named)
            break
        except NotFound:
            # moved or replaced while we waited for its port: look again, which raises when it is nowhere
            continue
    stranger = site.host.holder(port) if site.host.is_listening(port, site.settings.bind) else None
    data = {
        "port": port,
        "model_id": model_id,
        "last_exit": state.last_exit,
        "stranger": str(stranger) if stranger else None,
    }
    told = (f"port {port} is held by {stranger}, which mlxctl did not start",) if stranger else ()
    return Result("unload", data, (*told, *site.sync_notices(no_sync)))


def port_of(site: Site, word: str) -> int:
    """The port that `word`, a port or a model, means. Raises `NotFound` when nothing of ours is there."""
    registry = site.store.read()
    if not word.isdigit():
        entry = registry.require(word)
        if entry.port is None:
            raise NotFound("nothing_on_port", f"{entry.model_id} is on no port", "see `mlxctl status`")
        return entry.port
    port = site.ports.parse(word)
    state = site.states.read(port)
    # a failed load leaves its cause behind; an unload clears it away
    known = state.phase != STOPPED
    if registry.at(port) is None and not known and not site.host.is_listening(port, site.settings.bind):
        raise NotFound("nothing_on_port", f"no model is on port {port}", "see `mlxctl status`")
    return port


def unload_all(site: Site, *, no_sync: bool = False) -> Result:
    """Every port, one after the other; a port that fails is told and does not keep the others up."""
    unloaded, problems, exit_code = [], [], 0
    for seen in observe_all(site):
        if seen.entry is None and not seen.alive:
            continue
        try:
            state, model_id = stop_and_clear(site, seen.port)
            unloaded.append({"port": seen.port, "model_id": model_id, "last_exit": state.last_exit})
        except NotFound:
            # another command has just unloaded it
            continue
        except MlxctlError as error:
            problems.append(Problem.of(error))
            exit_code = error.exit_code
    notices = site.sync_notices(no_sync) if unloaded else ("nothing was loaded",)
    return Result("unload-all", {"unloaded": unloaded}, notices, tuple(problems), exit_code)
