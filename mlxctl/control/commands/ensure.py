"""`mlxctl ensure`: a model downloaded, converted and registered, without starting it unless asked."""

from __future__ import annotations

from mlxctl.control.acquire import acquire
from mlxctl.control.commands.load import LoadFlags, load
from mlxctl.control.convert import Conversion
from mlxctl.control.site import Site, data_of
from mlxctl.core.ports import AUTO
from mlxctl.core.result import Result


def ensure(site: Site, model: str, flags: LoadFlags, *, start: bool = False, port: str = AUTO) -> Result:
    if port != AUTO:
        site.ports.parse(port)
    acquired = acquire(site, model, flags.conversion or Conversion(), flags.name)
    entry = acquired.entry
    data = {"model": data_of(entry), "created": acquired.created, "converted": acquired.converted}
    if not start:
        notices = site.offload_notices(entry.og_path, entry.cache_path, flags.no_offload_og)
        return Result("ensure", data, (*notices, *site.sync_notices(flags.no_sync)))
    loaded = load(
        site,
        entry.model_id,
        port,
        LoadFlags(engine=flags.engine, force=flags.force, no_sync=flags.no_sync, no_offload_og=flags.no_offload_og),
    )
    return Result("ensure", {**data, "load": dict(loaded.data)}, loaded.messages)
