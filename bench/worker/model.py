"""The models that are measured: SmolLM2 in float32, whole or its first layers, and a tiny one for what HTTP costs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from mlxctl.control.gguf import dequantize
from mlxctl.control.sample import fetch_sample
from mlxctl.control.site import Site
from mlxctl.core.report import Silent
from mlxctl.core.settings import load_settings
from tests.fakes.tiny_models import tiny_model

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("MLXCTL_TEST_CACHE") or ROOT / ".test-cache")
NAME = "SmolLM2-135M-Instruct"


def smollm2(layers: int | None) -> Path:
    """The folder of SmolLM2 in float32, made on first use; `layers`: only so many, from the bottom."""
    folder = CACHE / "bench" / (f"{NAME}-f32" if layers is None else f"{NAME}-f32-{layers}-layers")
    if not folder.exists():
        staged = folder.with_name(f".{folder.name}")
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(half_precision(), staged, ignore=shutil.ignore_patterns("*.safetensors"))
        rewrite(half_precision(), staged, layers)
        staged.rename(folder)
    return folder


def half_precision() -> Path:
    """As its makers publish it; the end-to-end tests serve the same folder."""
    repo = CACHE / "hub-root" / "HuggingFaceTB" / NAME
    if not repo.exists():
        environ = {**os.environ, "MLXCTL_CACHE_DIR": str(CACHE), "MLXCTL_STATE_DIR": str(CACHE / "state")}
        sample = fetch_sample(Site(load_settings(environ, platform=sys.platform), environ))
        staged = repo.with_name(f".{repo.name}")
        shutil.rmtree(staged, ignore_errors=True)
        staged.parent.mkdir(parents=True, exist_ok=True)
        dequantize(sample, staged, Silent())
        staged.rename(repo)
    return repo


def rewrite(source: Path, target: Path, layers: int | None) -> None:
    """Write the weights as float32 and without the layers that are cut, and `config.json` to match."""
    import mlx.core as mx

    weights: dict[str, Any] = {}
    for part in sorted(source.glob("*.safetensors")):
        loaded: Any = mx.load(str(part))
        weights |= loaded
    kept = {name: array.astype(mx.float32) for name, array in weights.items() if layers is None or layer(name) < layers}
    mx.save_safetensors(str(target / "model.safetensors"), kept, metadata={"format": "mlx"})
    config = json.loads((source / "config.json").read_text())
    config |= {"torch_dtype": "float32"} | ({} if layers is None else {"num_hidden_layers": layers})
    (target / "config.json").write_text(json.dumps(config, indent=2))


def layer(name: str) -> int:
    """Of `model.layers.7.mlp.up_proj.weight`, 7; of weights outside the layers, -1."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else -1


def tiny() -> Path:
    """A model that takes next to no time, so that the rest of a request shows."""
    folder = CACHE / "bench" / "tiny-llama"
    return folder if (folder / "model.safetensors").exists() else tiny_model("llama", folder)


def vocabulary(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["vocab_size"])
