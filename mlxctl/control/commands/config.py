"""`mlxctl config`: every setting, its value, and where the value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlxctl.control.site import Site
from mlxctl.core.options import options
from mlxctl.core.result import Result

HIDDEN = "********"


def config(site: Site) -> Result:
    return Result("config", {"settings": [_row(site, field) for field in options()]})


def _row(site: Site, field: Any) -> dict[str, Any]:
    value = getattr(site.settings, field.name)
    if field.metadata["secret"] and value:
        value = HIDDEN
    return {
        "name": field.name,
        "value": str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value,
        "source": site.settings.sources.get(field.name, "default"),
        "variables": list(field.metadata["env"]),
        "part": field.metadata["part"],
        "meaning": field.metadata["meaning"],
    }
