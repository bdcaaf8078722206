"""`mlxctl load`: a model on a port, downloaded and converted when it must be, proven before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxctl.control.backend import require_backend
from mlxctl.control.host import outlived
from mlxctl.control.launch import ENGINES, MLX_LM, WORKER, choose_engine
from mlxctl.control.lifecycle import require_free
from mlxctl.control.site import Site
from mlxctl.control.template import HARMONY
from mlxctl.control.transition import Loaded
from mlxctl.control.transition import load as bring_up
from mlxctl.control.weights import problems_of
from mlxctl.core.errors import UsageError
from mlxctl.core.ports import AUTO
from mlxctl.core.registry import ModelEntry
from mlxctl.core.result import Result

if TYPE_CHECKING:
    from mlxctl.control.convert import Conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    engine: str | None = None
    name: str | None = None
    conversion: Conversion | None = None
    no_offload_og: bool = False
    force: bool = False
    no_sync: bool = False


def load(site: Site, model: str, port: str, flags: LoadFlags) -> Result:
    if port != AUTO:
        site.ports.parse(port)
    if flags.engine is not None and flags.engine not in ENGINES:
        raise UsageError("bad_flag", f"{flags.engine!r} is not an engine", f"choose one of {', '.join(ENGINES)}")
    entry, converted = _whole_entry(site, model, flags), False
    if entry is None:
        _check_before_download(site, model, port, flags)
        entry, converted = _acquired(site, model, flags)
    begun = site.host.monotonic()
    loaded = bring_up(site, entry, port, engine=flags.engine, force=flags.force)
    notices = (
        *loaded.notices,
        *_bind_notices(site, loaded),
        *_harmony_notices(loaded),
        *site.sync_notices(flags.no_sync),
        *site.offload_notices(entry.og_path, entry.cache_path, flags.no_offload_og or not converted),
    )
    return Result("load", load_data(site, loaded, 0.0 if loaded.already else site.host.monotonic() - begun), notices)


def _whole_entry(site: Site, model: str, flags: LoadFlags) -> ModelEntry | None:
    """The entry of a model that is registered and needs nothing: what somebody loads most of the time."""
    if flags.name is not None or flags.conversion is not None:
        return None
    entry = site.store.read().find(model)
    return None if entry is None or any(problems_of(Path(entry.cache_path))) else entry


def _acquired(site: Site, model: str, flags: LoadFlags) -> tuple[ModelEntry, bool]:
    from mlxctl.control.acquire import acquire
    from mlxctl.control.convert import Conversion

    acquired = acquire(site, model, flags.conversion or Conversion(), flags.name)
    return acquired.entry, acquired.converted


def _check_before_download(site: Site, model: str, port: str, flags: LoadFlags) -> None:
    """What would be found wrong after hours of download: no engine, or a stranger on the port."""
    if site.store.read().find(model) is not None:
        return
    number = site.ports.experimental.start if port == AUTO else site.ports.parse(port)
    unknown = ModelEntry(repo_id=model, model_id=model, cache_path="")
    chosen = choose_engine(flags.engine, unknown, site.ports.range_of(number), site.settings, site.which)
    if chosen.kind in (WORKER, MLX_LM):
        require_backend()
    if port != AUTO and not outlived(site.host, number, site.states.read(number).stamp):
        require_free(site, number)


def load_data(site: Site, loaded: Loaded, ready_s: float) -> dict[str, Any]:
    state = loaded.state
    return {
        "model_id": loaded.entry.model_id,
        "port": state.port,
        "engine": state.engine,
        "pid": state.pid,
        "ready_s": round(ready_s, 3),
        "base_url": site.base_url(state.port),
        "request_model": state.request_model,
    }


def _harmony_notices(loaded: Loaded) -> tuple[str, ...]:
    entry = loaded.entry
    if loaded.state.engine != MLX_LM or HARMONY not in (entry.tool_call_parser, entry.reasoning_parser):
        return ()
    return ("mlx_lm.server does not parse harmony: answers may show <|channel|> tags; --engine worker parses them",)


def _bind_notices(site: Site, loaded: Loaded) -> tuple[str, ...]:
    asks_for_key = loaded.state.engine == WORKER and bool(site.settings.worker_api_keys)
    if asks_for_key or site.settings.bind in ("127.0.0.1", "::1", "localhost"):
        return ()
    return (f"bound to {site.settings.bind}: everybody who reaches this address can use the model, without a key",)
