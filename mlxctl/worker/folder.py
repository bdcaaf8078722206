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


USUAL_TEMPERATURE = 0.7
"""Where neither the request, nor the registry, nor the model's makers say: small models ramble at OpenAI's 1."""
SAMPLING: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 2.0),
}


def read_sampling(folder: Path) -> dict[str, Any]:
    """How the model's makers would draw its tokens, by their generation_config.json; what they leave out is ours."""
    usual = {"temperature": USUAL_TEMPERATURE}
    try:
        told = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return usual
    if not isinstance(told, dict) or told.get("do_sample") is False:
        return usual
    return usual | {
        name: told[name]
        for name, (least, most) in SAMPLING.items()
        if isinstance(told.get(name), int | float) and least <= told[name] <= most
    }
