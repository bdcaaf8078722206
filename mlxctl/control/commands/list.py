"""`mlxctl list`: every registered model and its port."""

from __future__ import annotations

from mlxctl.control.site import Site, data_of
from mlxctl.core.result import Result


def list_models(site: Site) -> Result:
    registry = site.store.read()
    # with a port first, in port order; then the rest by id
    entries = sorted(registry.models.values(), key=lambda entry: (entry.port is None, entry.port or 0, entry.model_id))
    messages = (
        ()
        if entries
        else ("no model is registered: try `mlxctl quickstart`, `mlxctl init`, or `mlxctl load ORG/NAME auto`",)
    )
    return Result("list", {"models": [data_of(entry) for entry in entries]}, messages)
