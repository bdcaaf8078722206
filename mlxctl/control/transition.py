"""`load` as one transaction: start, replace or move, with everything put back when the new model does not answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mlxctl.control import lifecycle
from mlxctl.control.host import outlived
from mlxctl.control.memory import admission
from mlxctl.control.plan import Plan, Transition, plan_return, plan_start, plan_transition
from mlxctl.control.signals import came_too_late
from mlxctl.control.site import Site
from mlxctl.control.state import READY, STOPPED, PortState
from mlxctl.core.errors import MlxctlError, NotFound, Refused, RegistryUnreadable
from mlxctl.core.ports import AUTO
from mlxctl.core.registry import ModelEntry, Registry


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load came to. `notices` are for people: what was replaced, moved or left as it was."""

    state: PortState
    entry: ModelEntry
    already: bool = False
    notices: tuple[str, ...] = ()


@dataclass(slots=True)
class Undo:
    """What a rollback needs: the port as it was, the load's own mark in the state, and the models that it stopped."""

    here: PortState
    operation: dict[str, Any]
    stopped: list[tuple[PortState, ModelEntry]] = field(default_factory=list)


def load(site: Site, entry: ModelEntry, word: str, *, engine: str | None = None, force: bool = False) -> Loaded:
    """Bring `entry` up on the port that `word` names ("auto": the one it has, else the lowest free from 8120 on)."""
    with site.states.lock(entry.model_id, site.settings.lock_timeout_s, entry.model_id):
        while True:
            entry = _newest(site.store.read(), entry)
            with _ports_held(site, entry, word) as port:
                # while we waited for its port, another command may have put its own model there
                if _newest(site.store.read(), entry).port == entry.port:
                    return _load_on(site, entry, port, engine, force)


@contextlib.contextmanager
def _ports_held(site: Site, entry: ModelEntry, word: str) -> Iterator[int]:
    """The port to use, locked together with the one that the model has now, in ascending order."""
    if word == AUTO and entry.port is None:
        with _lowest_free(site) as port:
            yield port
        return
    port = entry.port if word == AUTO and entry.port is not None else site.ports.parse(word)
    with contextlib.ExitStack() as held:
        for number in sorted({port, entry.port or port}):
            _acquire(site, held, number)
        yield port


def _acquire(site: Site, held: contextlib.ExitStack, port: int) -> None:
    try:
        held.enter_context(site.states.lock(str(port), 0, f"port {port}"))
    except MlxctlError:
        site.reporter.note(f"port {port} is busy with another command, or its model is still stopping; waiting")
        held.enter_context(site.states.lock(str(port), site.settings.lock_timeout_s, f"port {port}"))


@contextlib.contextmanager
def _lowest_free(site: Site) -> Iterator[int]:
    """The lowest experimental port that nobody has, locked. A port that a command works on is not free."""
    for port in site.ports.free_experimental(site.store.read().assigned):
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(site.states.lock(str(port), 0, f"port {port}"))
            except MlxctlError:
                continue
            if site.store.read().at(port) is not None:
                continue
            if site.host.is_listening(port, site.settings.bind) and not _runs(site, site.states.read(port)):
                site.reporter.note(f"port {port} is held by {site.host.holder(port) or 'a stranger'}; trying the next")
                continue
            yield port
            return
    raise site.ports.none_free()


def _load_on(site: Site, entry: ModelEntry, port: int, engine: str | None, force: bool) -> Loaded:
    plan = plan_start(site, entry, port, engine)
    here = site.states.read(port)
    if _serves(site, here, plan):
        _commit(site, here, entry)
        return Loaded(here, entry, already=True, notices=(f"{entry.model_id} already serves on port {port}",))
    origin = site.states.read(entry.port) if entry.port not in (None, port) else None
    if origin is not None and origin.model_id != entry.model_id:
        # the model never ran there; whatever does is not ours to stop
        origin = None
    transition = plan_transition(
        plan,
        here,
        origin,
        replaces=_runs(site, here),
        moves=origin is not None and _runs(site, origin),
        available=site.host.available_memory(),
        force=force,
    )
    displaced = site.store.read().at(port)
    state = _carry_out(site, transition)
    if origin is not None:
        lifecycle.stop(site, site.states.read(origin.port), wanted="down", model_id=None)
    notices = _notices(entry, port, displaced, transition)
    return Loaded(state, site.store.read().models[entry.model_id], notices=notices)


def _carry_out(site: Site, transition: Transition) -> PortState:
    """Stop what must, start, prove, commit; everything is put back when one of these fails."""
    plan, here, origin = transition.plan, transition.here, transition.origin
    operation = {"verb": "load", "model_id": plan.entry.model_id, "by": os.getpid(), "at": site.host.now()}
    undo = Undo(here, operation)
    if not transition.replaces:
        if here.phase != STOPPED and here.stamp and site.host.stamped(here.stamp):
            # the process that we knew is gone; what it started is not
            lifecycle.stop(site, here)
        lifecycle.require_free(site, plan.port)
    try:
        if transition.replaces:
            _stop_for_now(site, here, site.store.read().models.get(here.model_id or ""), undo)
        if transition.origin_first and origin is not None:
            _stop_for_now(site, origin, plan.entry, undo)
        started = lifecycle.start(site, replace(plan, operation=operation))
        return _commit(site, lifecycle.prove(site, plan, started), plan.entry)
    except BaseException as error:
        with came_too_late():
            _roll_back(site, undo, error)
        raise


def _commit(site: Site, state: PortState, entry: ModelEntry) -> PortState:
    """From here on the registry says that the model belongs on the port. A signal that comes in here is too late."""
    with came_too_late():
        state = site.states.settle(state, wanted="up")
        site.store.update(
            lambda registry: registry.with_entry(_newest(registry, entry)).assign(entry.model_id, state.port)
        )
        # the registry's write was the commit: what fails after it does not undo it
        with contextlib.suppress(Refused, RegistryUnreadable):
            state = site.states.settle(state, operation=None)
    return state


def _newest(registry: Registry, entry: ModelEntry) -> ModelEntry:
    """The entry as somebody else may have changed it while the model was loading."""
    return registry.models.get(entry.model_id, entry)


def _runs(site: Site, state: PortState) -> bool:
    return state.identity is not None and site.host.is_alive(state.identity)


def _serves(site: Site, state: PortState, plan: Plan) -> bool:
    """Whether exactly what `plan` would start is there already and proven."""
    same = state.model_id == plan.entry.model_id and state.engine == plan.engine.kind and state.phase == READY
    return same and _runs(site, state)


def _stop_for_now(site: Site, state: PortState, entry: ModelEntry | None, undo: Undo) -> None:
    """Stop a model that comes back if the load fails; one that no entry knows of is a leftover and does not."""
    if entry is not None and state.phase == READY:
        undo.stopped.append((state, entry))
        site.reporter.note(f"stopping {state.model_id} on port {state.port}")
    lifecycle.stop(site, state)


def _roll_back(site: Site, undo: Undo, cause: BaseException) -> None:
    """Nothing of the new model stays; what was stopped serves again, the last stopped first, or the error says no."""
    port = undo.here.port
    failed = site.states.read(port)
    if failed.operation == undo.operation:
        # it was started, so there is something to end and a failure to remember
        failed = lifecycle.fail(site, failed, cause, wanted=undo.here.wanted)
    for old, entry in reversed(undo.stopped):
        if site.states.read(old.port) == old and _runs(site, old):
            # it had not been told to stop yet: an interruption, or a disk too full to write that down
            continue
        site.reporter.note(f"starting {entry.model_id} on port {old.port} again")
        try:
            plan = plan_return(old, entry)
            lifecycle.stop(site, site.states.read(old.port))
            state = lifecycle.prove(site, plan, lifecycle.start(site, plan))
            failure = failed.last_failure if old.port == port else old.last_failure
            site.states.settle(state, wanted=old.wanted, last_failure=failure)
        except MlxctlError as error:
            lifecycle.fail(site, site.states.read(old.port), error)
            _add_hint(cause, f"{entry.model_id}, which served before, did not come back: {error.message}")
        else:
            _add_hint(cause, f"{entry.model_id} serves on port {old.port} again")


def _add_hint(error: BaseException, hint: str) -> None:
    if isinstance(error, MlxctlError):
        error.hint = f"{hint}; {error.hint}" if error.hint else hint
    else:
        # an interruption: the command line shows its notes
        error.add_note(hint)


def _notices(entry: ModelEntry, port: int, displaced: ModelEntry | None, transition: Transition) -> tuple[str, ...]:
    told = []
    if displaced is not None and displaced.model_id != entry.model_id:
        told.append(f"replaced {displaced.model_id} on port {port}; it stays registered without a port")
    if transition.moves:
        told.append(f"moved from port {entry.port} to {port}")
    elif entry.port not in (None, port):
        told.append(f"port {entry.port} is given up for {port}")
    return tuple(told)


def unload(site: Site, port: int, model_id: str | None = None) -> tuple[PortState, str | None]:
    """Stop what runs on `port` and clear its assignment. Returns the state and the model's id, if one was there.

    With `model_id`, only that model. Raises `NotFound` when another command was quicker and nothing is left to stop.
    """
    with contextlib.ExitStack() as held:
        _acquire(site, held, port)
        entry = site.store.read().at(port)
        state = site.states.read(port)
        runs = _runs(site, state) or outlived(site.host, port, state.stamp)
        if entry is None and not runs:
            lifecycle.require_free(site, port)
        # a failed load leaves its cause in the state, which an unload clears away
        if (entry is None and not runs and state.phase == STOPPED) or (
            model_id and (entry is None or entry.model_id != model_id)
        ):
            gone = f"{model_id or 'the model'} is no longer on port {port}"
            raise NotFound("nothing_on_port", gone, "see `mlxctl status`")
        stopped = lifecycle.stop(site, state, wanted="down")
        if entry is not None:
            site.store.update(lambda registry: registry.unassign(port))
        return stopped, entry.model_id if entry else state.model_id


def restart(site: Site, entry: ModelEntry, port: int, still: Callable[[], bool]) -> PortState:
    """Start the model that the registry puts on `port`, after ending whatever of ours is left there.

    `still` says, once the port is held, whether that is still to be done.
    """
    with site.states.lock(entry.model_id, site.settings.lock_timeout_s, entry.model_id), contextlib.ExitStack() as held:
        _acquire(site, held, port)
        state = site.states.read(port)
        if _newest(site.store.read(), entry).port != port:
            # unloaded or replaced while we waited: it no longer belongs here
            return state
        if not still():
            return state
        plan = plan_start(site, entry, port, state.engine if state.model_id == entry.model_id else None)
        lifecycle.stop(site, state)
        if refused := admission(entry.model_id, plan.weight_bytes, site.host.available_memory()):
            raise refused
        try:
            started = lifecycle.prove(site, plan, lifecycle.start(site, plan))
        except BaseException as error:
            with came_too_late():
                lifecycle.fail(site, site.states.read(port), error)
            raise
        return site.states.settle(started, wanted="up", operation=None, restarts=state.restarts + 1)
