"""A model's folder, as far as it can be judged without loading the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxctl.core.errors import NotFound, NotReady


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of the model in `folder`. Raises `NotFound` without a folder, `NotReady` without a model in it."""
    path = folder / "config.json"
    if not folder.exists():
        raise NotFound(
            "unknown_model", f"there is no folder {folder}", "mend the path, or fetch a model with `mlxctl ensure`"
        )
    if not path.is_file():
        raise NotReady("bad_model", f"{folder} is not a model's folder: it has no config.json", "name another folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotReady("bad_model", f"{path} cannot be read: {error}", "fetch the model again") from error
    if not isinstance(config, dict):
        raise NotReady("bad_model", f"{path} is not a JSON object", "fetch the model again")
    return config
