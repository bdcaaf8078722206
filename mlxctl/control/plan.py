"""What a start needs, found and checked before anything is stopped for it or started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxctl.control.backend import require_backend
from mlxctl.control.launch import MLX_LM, WORKER, Dialect, Engine, choose_engine
from mlxctl.control.memory import admission
from mlxctl.control.site import Site
from mlxctl.control.state import PortState
from mlxctl.control.template import check_template, default_parser, template_path
from mlxctl.control.weights import model_family, read_config, require_whole, weight_bytes
from mlxctl.core.registry import ModelEntry


@dataclass(frozen=True, slots=True)
class Plan:
    """A start that passed its checks: nothing is left to find out but whether the model answers."""

    entry: ModelEntry
    port: int
    engine: Engine
    dialect: Dialect
    weight_bytes: int
    operation: dict[str, Any] | None = None
    argv: tuple[str, ...] = ()
    """The command line, where it is known already; otherwise it is made of the rest."""


def plan_return(state: PortState, entry: ModelEntry) -> Plan:
    """To start again exactly what `state` says has run, whatever the settings are by now."""
    engine = Engine(state.engine or MLX_LM, state.argv[:1])
    return Plan(entry, state.port, engine, Dialect(), state.weight_bytes, argv=state.argv)


def plan_start(site: Site, entry: ModelEntry, port: int, engine: str | None = None) -> Plan:
    """Everything that can be found wrong before a process is started. Raises `NotReady`, `UsageError`."""
    folder = Path(entry.cache_path)
    require_whole(folder)
    config = read_config(folder)
    dialect = _dialect(site, entry, folder, model_family(config))
    chosen = choose_engine(engine, entry, site.ports.range_of(port), site.settings, site.which)
    if chosen.kind in (WORKER, MLX_LM):
        require_backend()
    return Plan(entry, port, chosen, dialect, weight_bytes(folder))


def _dialect(site: Site, entry: ModelEntry, folder: Path, family: str) -> Dialect:
    settings = site.settings
    named = entry.chat_template or settings.chat_template
    path = template_path(named, folder) if named else None
    text = check_template(path) if path else ""
    parser = default_parser(family)
    return Dialect(
        path,
        # every server reads the template in the model's own folder by itself
        text if path and path != folder / "chat_template.jinja" else "",
        entry.tool_call_parser or settings.tool_call_parser or parser,
        entry.reasoning_parser or settings.reasoning_parser or parser,
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """What a load does to the ports: what it starts, and what has to stop for it, before or after."""

    plan: Plan
    here: PortState
    origin: PortState | None
    replaces: bool
    moves: bool
    origin_first: bool


def plan_transition(
    plan: Plan, here: PortState, origin: PortState | None, *, replaces: bool, moves: bool, available: int, force: bool
) -> Transition:
    """Decide the order of a load. A moving model stops before it starts only when memory cannot hold it twice.

    `replaces`: something of ours runs on the target port. `moves`: the model runs on another port now. `available` is
    in bytes. Raises `Refused` when the weights do not fit and `force` is off.
    """
    model_id, weight = plan.entry.model_id, plan.weight_bytes
    freed = here.weight_bytes if replaces else 0
    tight = admission(model_id, weight, available, freed)
    if tight and moves and admission(model_id, weight, available, freed + weight) is None:
        return Transition(plan, here, origin, replaces, moves, origin_first=True)
    if tight and not force:
        raise tight
    return Transition(plan, here, origin, replaces, moves, origin_first=False)
