"""One process on one port: start it, prove that it answers, stop it. Callers hold the port's lock."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Any

from mlxctl.control import probe
from mlxctl.control.backend import blas_environment, require_backend
from mlxctl.control.host import Identity, Launch
from mlxctl.control.launch import COMMAND, MLX_LM, MLX_OPENAI_SERVER, Engine, engine_argv, prompt_cache_dir
from mlxctl.control.logs import last_lines
from mlxctl.control.plan import Plan
from mlxctl.control.site import Site
from mlxctl.control.state import DRAINING, FAILED, READY, STARTING, STOPPED, PortState
from mlxctl.core.errors import Conflict, MlxctlError, NotReady

GB = 1 << 30
POLL_S = 0.03
PROGRESS_WINDOW_S = 60.0
"""A load that shows no progress for this long after its deadline has failed."""
MAX_EXTENSION = 10
"""A load that shows progress may take this many times its deadline, and no longer."""
KILL_WAIT_S = 5.0
CHAT_TIMEOUT_S = 60.0


def start(site: Site, plan: Plan) -> PortState:
    """Spawn the server of `plan`. Raises `Conflict` when a stranger has the port, `NotReady` when it cannot start."""
    require_free(site, plan.port)
    stamp = secrets.token_hex(16)
    entry, settings = plan.entry, site.settings
    log_path = settings.log_dir / f"mlx-{plan.port}.log"
    for folder in (settings.log_dir, site.states.exit_record(plan.port).parent, settings.hub_cache):
        folder.mkdir(parents=True, exist_ok=True)
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
        "argv": tuple(engine_argv(plan.engine, entry, plan.port, plan.dialect, settings)),
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
    model, shim = site.host.spawn(
        Launch(
            argv=state.argv,
            env=child_environment(site, plan.engine),
            cwd=site.states.root,
            stamp=stamp,
            exit_record=site.states.exit_record(plan.port),
            log_path=log_path,
            log_max_bytes=settings.log_max_bytes,
            log_files=settings.log_files,
        )
    )
    return site.states.settle(
        state, pid=model.pid, create_time=model.create_time, shim_pid=shim.pid, shim_create_time=shim.create_time
    )


def child_environment(site: Site, engine: Engine) -> dict[str, str]:
    """What a server inherits: no network for models (downloads are ours), and the BLAS that MLX's CPU backend needs."""
    environ = dict(site.environ)
    environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(site.settings.hub_cache), "PYTHONUNBUFFERED": "1"}
    environ.setdefault("OUTLINES_CACHE_DIR", str(site.settings.cache_dir / "outlines"))
    if engine.kind in (MLX_OPENAI_SERVER, COMMAND) or require_backend() == "cpu":
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
    while not (site.host.is_listening(plan.port, site.settings.bind) and site.host.owns_listener(identity, plan.port)):
        watch.check("it does not listen")
        site.host.sleep(POLL_S)
    while (complaint := _unproven(plan, site.settings.bind)) is not None:
        watch.check(complaint)
        site.host.sleep(POLL_S)
    if not site.host.is_alive(identity):
        raise watch.died()


def _unproven(plan: Plan, bind: str) -> str | None:
    """What is still missing for a proof, or None when the model has answered. Raises `NotReady` on a wrong name."""
    entry = plan.entry
    if plan.engine.kind != MLX_LM:
        # mlx_lm.server lists the whole hub cache there, which proves nothing
        names = probe.served_names(probe.ask(bind, plan.port, "/v1/models", timeout_s=5))
        if names and not probe.names_model(names, entry.model_id, entry.repo_id, entry.cache_path):
            raise NotReady(
                "wrong_model",
                f"the server on port {plan.port} answers as {', '.join(names[:3])}, not as {entry.model_id}",
                "check MLX_LAUNCH_CMD and the entry's cache_path",
            )
    payload = probe.chat_payload(plan.engine.request_model(entry))
    answer = probe.ask(bind, plan.port, "/v1/chat/completions", payload, timeout_s=CHAT_TIMEOUT_S)
    return None if probe.is_chat_answer(answer) else probe.complaint_of(answer)


def ready_deadline_s(weight_bytes: int, least_s: float) -> float:
    """How long a model may take before only progress keeps it: `least_s`, or 6 s/GB when that is more."""
    return max(least_s, 6.0 * weight_bytes / GB)


def stop_grace_s(weight_bytes: int, least_s: float) -> float:
    """Time between SIGTERM and SIGKILL: large models take long to give their memory back."""
    return least_s + 0.25 * weight_bytes / GB


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

    def check(self, complaint: str) -> None:
        """Raise `NotReady` when waiting longer is of no use; `complaint` is what is missing so far."""
        if not self.site.host.is_alive(self.identity):
            raise self.died()
        now = self.site.host.monotonic()
        if now - self.looked_at >= 1.0:
            self._look(now)
        waited = now - self.begun
        stalled = now - self.moved_at > self.window_s
        if waited > self.deadline_s and (stalled or waited > MAX_EXTENSION * self.deadline_s):
            listens = self.site.host.is_listening(self.plan.port, self.site.settings.bind)
            raise NotReady(
                "bad_answer" if listens else "timeout",
                f"{self.plan.entry.model_id} did not answer on port {self.plan.port} in {waited:.0f} s: {complaint}",
                f"see `mlxctl logs {self.plan.port}`; MLXCTL_READY_TIMEOUT_S gives it more time",
                self._log_tail(),
            )

    def _look(self, now: float) -> None:
        """Progress is memory or log that grows: weights being read, a server that tells what it does."""
        self.looked_at = now
        log = Path(self.state.log_path or os.devnull)
        signs = (self.site.host.memory_bytes(self.identity) >> 20, log.stat().st_size if log.exists() else 0)
        if signs[0] > self.signs[0] or signs[1] != self.signs[1]:
            self.signs, self.moved_at = signs, now

    def died(self) -> NotReady:
        ended = exit_cause(self.site, self.state)
        after = self.site.host.monotonic() - self.begun
        return NotReady(
            "died",
            f"the server for {self.plan.entry.model_id} ended after {after:.1f} s ({ended}) before it answered",
            f"the end of its log is above; `mlxctl logs {self.plan.port}` shows all of it",
            self._log_tail(),
        )

    def _log_tail(self) -> tuple[str, ...]:
        return last_lines(Path(self.state.log_path or os.devnull), 12)


def exit_cause(site: Site, state: PortState, wait_s: float = 1.0) -> str:
    """How the process of `state` ended. The shim writes the record right after the death; it is given a moment."""
    limit = site.host.monotonic() + wait_s
    while (ended := site.states.exit_of(state)) is None and site.host.monotonic() < limit:
        site.host.sleep(0.01)
    return ended or "cause unknown"


def stop(site: Site, state: PortState, **settled: Any) -> PortState:
    """End the process of `state` and everything below it, and prove the port free.

    Raises `NotReady("still_running")` when something does not die. `settled` are further changes to the state.
    """
    identity = state.identity
    if identity is not None and site.host.is_alive(identity):
        state = site.states.settle(state, phase=DRAINING)
        grace = stop_grace_s(state.weight_bytes, site.settings.stop_grace_s)
        site.host.signal_group(identity, signal.SIGTERM)
        if not _gone(site, identity, grace):
            site.host.signal_group(identity, signal.SIGKILL)
            _gone(site, identity, KILL_WAIT_S)
        settled = {"last_exit": site.states.exit_of(state) or state.last_exit, **settled}
    if state.stamp and state.phase != STOPPED:
        _sweep(site, state.stamp)
    if identity is not None and (site.host.is_alive(identity) or not _released(site, state)):
        raise NotReady(
            "still_running",
            f"process {identity.pid} on port {state.port} does not end",
            "end it by hand, then try again",
        )
    return site.states.settle(state, **{"phase": STOPPED, "pid": None, "operation": None, **settled})


def _gone(site: Site, identity: Identity, within_s: float) -> bool:
    limit = site.host.monotonic() + within_s
    while site.host.is_alive(identity):
        if site.host.monotonic() >= limit:
            return False
        site.host.sleep(0.02)
    return True


def _released(site: Site, state: PortState, within_s: float = 3.0) -> bool:
    """Whether nothing of ours listens any more. A stranger who was quick to take the port is not our concern here."""
    limit = site.host.monotonic() + within_s
    while site.host.is_listening(state.port, state.address):
        if site.host.monotonic() >= limit:
            holder = site.host.holder(state.port)
            return holder is None or holder.pid not in site.host.stamped(state.stamp)
        site.host.sleep(0.02)
    return True


def _sweep(site: Site, stamp: str) -> None:
    """Kill descendants that left the group and outlived the model: whatever still carries its stamp."""
    for pid in site.host.stamped(stamp):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def fail(site: Site, state: PortState, error: BaseException) -> PortState:
    """After a start that did not prove itself: nothing left running, and the cause in the state."""
    told = error.message if isinstance(error, MlxctlError) else type(error).__name__
    failure = {"at": site.host.now(), "model_id": state.model_id, "message": told}
    return stop(site, state, phase=FAILED, last_failure=failure)
