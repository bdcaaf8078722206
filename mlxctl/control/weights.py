"""A model's folder: its config.json, its shards, what it weighs, and whether all of it is there."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxctl.core.errors import NotReady
from mlxctl.core.registry import DEFAULT_CONTEXT_LENGTH

INDEX = "model.safetensors.index.json"
CONTEXT_KEYS = ("max_position_embeddings", "model_max_length", "n_positions", "max_sequence_length", "max_seq_len")
MAX_CONTEXT = 100_000_000
"""Some configurations hold 1e30 for "no limit"; nothing above this is taken for a context length."""
MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file. `missing_bytes` is how much the header promises beyond what the file holds."""

    path: Path
    size: int
    missing_bytes: int
    metadata: Mapping[str, str]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of `folder`. Raises `NotReady` when it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotReady("bad_model", f"{folder} has no config.json", _AGAIN) from None
    except (OSError, ValueError) as error:
        raise NotReady("bad_model", f"{path} cannot be read: {error}", _AGAIN) from error
    if not isinstance(config, dict):
        raise NotReady("bad_model", f"{path} is not a JSON object", _AGAIN)
    return config


_AGAIN = "download or convert it again with `mlxctl ensure MODEL --convert force`"


def context_length(config: Mapping[str, Any]) -> int:
    """The largest context length that `config` names, in its own keys or in a nested `text_config`."""
    nested = config.get("text_config")
    named = [part.get(key) for part in (config, nested if isinstance(nested, dict) else {}) for key in CONTEXT_KEYS]
    lengths = [int(n) for n in named if isinstance(n, int | float) and not isinstance(n, bool) and 1 <= n < MAX_CONTEXT]
    return max(lengths, default=DEFAULT_CONTEXT_LENGTH)


def model_family(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type") or "")


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def weight_bytes(path: Path) -> int:
    """Bytes on disk of a folder's weights, or of a single weight file."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in weight_files(path) if file.exists())


def folder_bytes(folder: Path) -> int:
    """Bytes below `folder`; links are counted as what they point to."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def read_shard(path: Path) -> Shard:
    """Size and header of one safetensors file. Raises `NotReady` when the header itself is torn."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
            if length > MAX_HEADER_BYTES:
                raise NotReady("bad_model", f"{path} is no safetensors file, or only its beginning", _AGAIN)
            header = json.loads(file.read(length))
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise NotReady("bad_model", f"{path} cannot be read: {error}", _AGAIN) from error
    return Shard(path, size, max(0, 8 + length + end - size), header.get("__metadata__") or {})


def indexed_shards(folder: Path) -> set[str]:
    """File names that the index lists; empty when the model is a single file without an index."""
    path = folder / INDEX
    if not path.exists():
        return set()
    try:
        mapped = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name) for name in mapped.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotReady("bad_model", f"{path} cannot be read: {error}", _AGAIN) from error


def problems_of(folder: Path) -> Iterator[NotReady]:
    """Everything that keeps `folder` from being a whole model; nothing when it is whole."""
    if not folder.is_dir():
        yield NotReady("bad_model", f"the model's folder {folder} does not exist", _AGAIN)
        return
    try:
        read_config(folder)
    except NotReady as problem:
        yield problem
    try:
        missing = sorted(name for name in indexed_shards(folder) if not (folder / name).exists())
    except NotReady as problem:
        yield problem
        missing = []
    for name in missing:
        yield NotReady("bad_model", f"{folder / name} is missing, though {INDEX} lists it", _AGAIN)
    shards = weight_files(folder)
    if not shards and not missing:
        yield NotReady("bad_model", f"{folder} holds no safetensors weights", _AGAIN)
    for path in shards:
        try:
            shard = read_shard(path)
        except NotReady as problem:
            yield problem
            continue
        if shard.missing_bytes:
            yield NotReady("bad_model", f"{path} is torn: {shard.missing_bytes} bytes are missing", _AGAIN)


def require_whole(folder: Path) -> None:
    """Raise the first problem of `folder`."""
    for problem in problems_of(folder):
        raise problem


def is_mlx(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the files themselves say that MLX wrote them: its mark in the shards, or its way of quantising."""
    quantization = config.get("quantization")
    if isinstance(quantization, dict) and "group_size" in quantization:
        return True
    shards = weight_files(folder)
    return bool(shards) and read_shard(shards[0]).metadata.get("format") == "mlx"
