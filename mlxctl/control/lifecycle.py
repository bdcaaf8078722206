"""One process on one port: start it, prove that it answers, stop it. Callers hold the port's lock."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from mlxctl.control import probe
from mlxctl.control.backend import blas_environment, require_backend
from mlxctl.control.host import Identity, Launch, outlived
from mlxctl.control.launch import MLX_LM, WORKER, Engine, engine_argv, prompt_cache_dir
from mlxctl.control.plan import Plan
from mlxctl.control.signals import held_back
from mlxctl.control.site import Site
from mlxctl.control.state import DRAINING, FAILED, READY, STARTING, STOPPED, PortState, disk_error
from mlxctl.control.watch import GB, Watch, exit_cause
from mlxctl.core.errors import Conflict, MlxctlError, NotReady, Refused, RegistryUnreadable

POLL_S = 0.01
MAX_POLL_S = 0.25
KILL_WAIT_S = 5.0
DRAIN_MARGIN_S = 5.0
"""What a worker gets to end after the time in which it let requests finish."""
RELEASE_S, STRANGER_S = 3.0, 0.5
"""How long a port may stay open after its process ended: ours, and one that a stranger seems to have taken."""
CHAT_TIMEOUT_S = 60.0


def start(site: Site, plan: Plan) -> PortState:
    """Spawn the server of `plan`. Raises `Conflict` when a stranger has the port, `NotReady` when it cannot start."""
    require_free(site, plan.port)
    stamp = os.urandom(16).hex()
    entry, settings = plan.entry, site.settings
    log_path = settings.log_dir / f"mlx-{plan.port}.log"
    _make_room(log_path, site.states.exit_record(plan.port), settings.hub_cache / "models")
    shutil.rmtree(prompt_cache_dir(settings, plan.port), ignore_errors=True)
    state = site.states.read(plan.port)
    known: dict[str, Any] = {
        "phase": STARTING,
        "model_id": entry.model_id,
        "repo_id": entry.repo_id,
        "engine": plan.engine.kind,
        "request_model": plan.engine.request_model(entry),
        "address": settings.bind,
        "stamp": stamp,
        "argv": plan.argv or tuple(engine_argv(plan.engine, entry, plan.port, plan.dialect, settings)),
        "log_path": str(log_path),
        "weight_bytes": plan.weight_bytes,
        "started_at": site.host.now(),
        "ready_at": None,
        "restarts": state.restarts if state.model_id == entry.model_id else 0,
        "operation": plan.operation,
        "last_exit": None,
        "last_failure": None,
    }
    # the stamp is on the disk before the process exists, so a kill between the two leaves nothing unknown
    state = site.states.settle(state, pid=None, **known)
    launch = Launch(
        argv=state.argv,
        env=child_environment(site, plan.engine),
        cwd=site.states.root,
        stamp=stamp,
        exit_record=site.states.exit_record(plan.port),
        log_path=log_path,
        log_max_bytes=settings.log_max_bytes,
        log_files=settings.log_files,
    )
    with held_back():
        # a Ctrl-C in here would leave a shim behind that is about to start a model which nobody knows
        model, shim = site.host.spawn(launch)
        known = {"pid": model.pid, "create_time": model.create_time}
        state = site.states.settle(state, **known, shim_pid=shim.pid, shim_create_time=shim.create_time)
        # the model takes seconds to load; what the commit will need is imported meanwhile. A signal in the middle of
        # this import would come out of pydantic as an error of its own
        importlib.import_module("mlxctl.core.schema")
    return state


def _make_room(log_path: Path, *others: Path) -> None:
    """The folders of these files, and a log that can be written. Raises `Refused`, `RegistryUnreadable`."""
    for path in (log_path, *others):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path.parent) from error
    try:
        log_path.touch(mode=0o600)
    except OSError as error:
        raise disk_error(error, log_path) from error


def child_environment(site: Site, engine: Engine) -> dict[str, str]:
    """What a server inherits: no network for models (downloads are ours), and the BLAS that MLX's CPU backend needs."""
    environ = dict(site.environ)
    environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(site.settings.hub_cache), "PYTHONUNBUFFERED": "1"}
    environ.setdefault("OUTLINES_CACHE_DIR", str(site.settings.cache_dir / "outlines"))
    # the worker opens it by itself, and what it starts does not inherit it
    if engine.kind != WORKER and (engine.kind != MLX_LM or require_backend() == "cpu"):
        environ |= blas_environment(environ.get("LD_PRELOAD", ""))
    return environ


def require_free(site: Site, port: int) -> None:
    """Raise `Conflict`, naming the holder, when somebody else listens on `port`."""
    if not site.host.is_listening(port, site.settings.bind):
        return
    holder = site.host.holder(port)
    raise Conflict(
        "port_taken",
        f"port {port} is held by {holder or 'a process that the system does not name'}, which mlxctl did not start",
        f"end that process, or use another port; mlxctl never moves away from {port} by itself",
    )


def prove(site: Site, plan: Plan, state: PortState) -> PortState:
    """Wait until the server answers a real chat request as the model that we mean; then it is `ready`.

    Raises `NotReady` (died, timeout, wrong_model, bad_answer) with the end of the log.
    """
    identity = state.identity
    assert identity is not None
    watch = Watch(site, plan, state, identity)
    task = site.reporter.task(f"Waiting for {plan.entry.model_id} to answer on port {plan.port}")
    try:
        _await_proof(site, plan, identity, watch)
    finally:
        task.finish()
    return site.states.settle(state, phase=READY, ready_at=site.host.now())


def _await_proof(site: Site, plan: Plan, identity: Identity, watch: Watch) -> None:
    while not site.host.is_listening(plan.port, site.settings.bind):
        watch.check("it does not listen")
        site.host.sleep(POLL_S)
    watch.listens = True
    pause = POLL_S
    while (answer := _unproven(site, plan, identity, watch)) is not None:
        watch.check_refusal(answer)
        watch.check(probe.complaint_of(answer))
        site.host.sleep(pause)
        pause = min(MAX_POLL_S, pause * 1.5)
    if not site.host.is_alive(identity):
        raise watch.died()


def _unproven(site: Site, plan: Plan, identity: Identity, watch: Watch) -> probe.Answer | None:
    """The answer that is no proof yet, or None when our own process has answered as the model that we mean.

    The question comes first: the model is not kept waiting for checks that can be made afterwards. Raises `NotReady`
    when the proof can never come.
    """
    if plan.engine.kind == WORKER and (loading := _loading(site, plan, watch)) is not None:
        return loading
    payload = probe.chat_payload(plan.engine.request_model(plan.entry))
    patience_s = min(CHAT_TIMEOUT_S, watch.deadline_s)
    key = site.key_for(plan.engine.kind)
    answer = probe.ask(site.settings.bind, plan.port, "/v1/chat/completions", payload, timeout_s=patience_s, key=key)
    if not site.host.owns_listener(identity, plan.port):
        return probe.Answer(0, complaint="the process that listens is not the one that was started")
    answered = probe.is_chat_answer(answer)
    if plan.engine.kind != MLX_LM:
        _require_name(site, plan, watch)
    elif not answered and probe.ask(site.settings.bind, plan.port, "/health", timeout_s=5).status == 503:
        # it goes on listening when its model could not be loaded
        raise watch.gave_up("died", f"listens on port {plan.port}, but its model could not be loaded")
    return None if answered else answer


def _loading(site: Site, plan: Plan, watch: Watch) -> probe.Answer | None:
    """What the worker says of its model while it has none to ask; None when it can be asked. Raises `NotReady` when
    loading has failed.
    """
    answer = probe.ask(site.settings.bind, plan.port, "/health", timeout_s=5)
    phase, why = probe.worker_phase(answer)
    if phase == probe.FAILED and site.host.owns_listener(watch.identity, plan.port):
        raise watch.gave_up("died", f"could not load its model: {why}")
    return probe.Answer(503, complaint="it is loading the model") if phase == probe.LOADING else None


def _require_name(site: Site, plan: Plan, watch: Watch) -> None:
    """Raise `NotReady` when the server tells another model's name. mlx_lm.server lists the whole hub cache instead."""
    entry = plan.entry
    key = site.key_for(plan.engine.kind)
    names = probe.served_names(probe.ask(site.settings.bind, plan.port, "/v1/models", timeout_s=5, key=key))
    if names and not probe.names_model(names, entry.model_id, entry.repo_id, entry.cache_path):
        told = f"answers on port {plan.port} as {', '.join(names[:3])}"
        raise watch.gave_up("wrong_model", told, "check MLX_LAUNCH_CMD and the entry's cache_path")


def stop_grace_s(weight_bytes: int, least_s: float) -> float:
    """Time between SIGTERM and SIGKILL: large models take long to give their memory back."""
    return least_s + 0.25 * weight_bytes / GB


def stop(site: Site, state: PortState, **settled: Any) -> PortState:
    """End the process of `state` and everything below it, and prove the port free.

    Raises `NotReady("still_running")` when something does not die. `settled` are further changes to the state.
    """
    identity = state.identity
    if identity is not None and site.host.is_alive(identity):
        state = site.states.settle(state, phase=DRAINING)
        _end(site, state)
        settled = {"last_exit": exit_cause(site, state) or state.last_exit, **settled}
    else:
        _end(site, state)
    if state.stamp and not _released(site, state):
        raise NotReady(
            "still_running",
            f"process {state.pid or 'of ours'} on port {state.port} does not end",
            "end it by hand, then try again",
        )
    return site.states.settle(state, **{"phase": STOPPED, "pid": None, "operation": None, **settled})


def _end(site: Site, state: PortState) -> None:
    """SIGTERM, grace, SIGKILL for the model's group; then whatever left the group and still carries its stamp."""
    identity = state.identity
    grace = stop_grace_s(state.weight_bytes, site.settings.stop_grace_s)
    if state.engine == WORKER:
        grace = max(grace, site.settings.drain_timeout_s + DRAIN_MARGIN_S)
    if identity is not None and site.host.signal_group(identity, signal.SIGTERM) and not _gone(site, identity, grace):
        site.host.signal_group(identity, signal.SIGKILL)
        _gone(site, identity, KILL_WAIT_S)
    if state.stamp and state.phase != STOPPED:
        _sweep(site, state.stamp)


def _gone(site: Site, identity: Identity, within_s: float) -> bool:
    limit = site.host.monotonic() + within_s
    while site.host.is_alive(identity):
        if site.host.monotonic() >= limit:
            return False
        site.host.sleep(0.02)
    return True


def _released(site: Site, state: PortState) -> bool:
    """Whether nothing of ours runs or listens any more. A stranger who was quick to take the port does not count."""
    begun = site.host.monotonic()
    while site.host.is_listening(state.port, state.address):
        waited = site.host.monotonic() - begun
        if waited >= RELEASE_S or (waited >= STRANGER_S and not outlived(site.host, state.port, state.stamp)):
            return not outlived(site.host, state.port, state.stamp)
        site.host.sleep(0.02)
    return state.identity is None or not site.host.is_alive(state.identity)


def _sweep(site: Site, stamp: str) -> None:
    """Kill descendants that left the group and outlived the model: whatever still carries its stamp."""
    for pid in site.host.stamped(stamp):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def fail(site: Site, state: PortState, error: BaseException, **settled: Any) -> PortState:
    """After a start that did not prove itself: nothing left running, and the cause in the state."""
    told = error.message if isinstance(error, MlxctlError) else type(error).__name__
    failure = {"at": site.host.now(), "model_id": state.model_id, "message": told}
    try:
        return stop(site, state, phase=FAILED, last_failure=failure, **settled)
    except (Refused, RegistryUnreadable):
        # the disk takes no more; what the state says of a dead process is not believed anyway
        _end(site, state)
        return state
