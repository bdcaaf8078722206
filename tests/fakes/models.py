"""Model folders that are whole by every check of mlxctl, but hold no model: for the fake engine alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def write_shard(path: Path, payload: int = 64, metadata: dict[str, str] | None = None) -> None:
    """A valid safetensors file with one tensor of `payload` bytes."""
    header = {"__metadata__": metadata or {"format": "mlx"}}
    header["w"] = {"dtype": "U8", "shape": [payload], "data_offsets": [0, payload]}  # type: ignore[assignment]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(payload))


def write_model(folder: Path, *, shards: int = 1, mlx: bool = True, payload: int = 64, **config: object) -> Path:
    """config.json and shards below `folder`; `config` overrides keys of a small llama's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {"model_type": "llama", "max_position_embeddings": 4096, **config}
    (folder / "config.json").write_text(json.dumps(written))
    metadata = {"format": "mlx" if mlx else "pt"}
    if shards == 1:
        write_shard(folder / "model.safetensors", payload, metadata)
        return folder
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    for name in names:
        write_shard(folder / name, payload, metadata)
    index = {"metadata": {}, "weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
