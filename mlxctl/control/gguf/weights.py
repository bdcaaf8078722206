"""Dequantises tensors into safetensors files, a megabyte at a time, so that memory never holds a whole tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, dequantize
from numpy.typing import NDArray

from mlxctl.control.gguf.header import unsupported
from mlxctl.control.gguf.llama import Weight
from mlxctl.core.errors import NotReady
from mlxctl.core.report import Task

SHARD_BYTES = 4 * 10**9

CHUNK_ELEMENTS = 1 << 18
"""1 MB of float32, which stays in a core's cache; whole tensors take twice as long."""

SAFETENSORS_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""By our name: the format's name, and the bytes of one element."""


def bytes_of(weight: Weight, dtype: str) -> int:
    return math.prod(weight.shape) * SAFETENSORS_DTYPES[dtype][1]


def plan_shards(weights: Sequence[Weight], dtype: str, limit: int) -> list[list[Weight]]:
    """Weights in order, cut where a shard would pass `limit` bytes; a weight larger than that is a shard of its own."""
    shards: list[list[Weight]] = [[]]
    filled = 0
    for weight in weights:
        size = bytes_of(weight, dtype)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(weight)
        filled += size
    return shards


def shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def render_index(shards: Sequence[Sequence[Weight]], dtype: str) -> dict[str, Any]:
    """`model.safetensors.index.json`."""
    return {
        "metadata": {"total_size": sum(bytes_of(weight, dtype) for shard in shards for weight in shard)},
        "weight_map": {
            weight.name: shard_name(number, len(shards))
            for number, shard in enumerate(shards, start=1)
            for weight in shard
        },
    }


def require_dequantizable(path: Path, weights: Sequence[Weight]) -> None:
    """Raises NotReady("unsupported_format") before anything is written, for a quantisation that `gguf` cannot undo."""
    for kind in sorted({weight.stored.tensor_type for weight in weights}):
        block = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
        try:
            dequantize(block, kind)
        except NotImplementedError as error:
            raise unsupported(path, f"its quantisation {kind.name} cannot be undone") from error


def write_shard(path: Path, weights: Sequence[Weight], dtype: str, task: Task) -> None:
    """One safetensors file. `task` advances by the bytes of each weight written.

    Raises OSError, and NotReady("conversion_failed") for a value that `dtype` cannot hold.
    """
    with path.open("wb") as file:
        file.write(render_header(weights, dtype))
        for weight in weights:
            for chunk in _chunks(weight):
                try:
                    file.write(cast(chunk, dtype).data)
                except FloatingPointError as error:
                    raise NotReady(
                        "conversion_failed",
                        f"a value of {weight.name} is too large for {dtype}",
                        "use bfloat16 or float32",
                    ) from error
            task.advance(bytes_of(weight, dtype))


def render_header(weights: Sequence[Weight], dtype: str) -> bytes:
    """The safetensors header: its length in 8 bytes, then JSON padded with spaces so that tensors begin aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for weight in weights:
        end = offset + bytes_of(weight, dtype)
        entries[weight.name] = {
            "dtype": SAFETENSORS_DTYPES[dtype][0],
            "shape": list(weight.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def cast(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """`values` in `dtype`; bfloat16, which numpy lacks, as its bits. Raises FloatingPointError on overflow."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        nearest_even = (bits >> 16) & 1
        return ((bits + 0x7FFF + nearest_even) >> 16).astype(np.uint16)
    with np.errstate(over="raise"):
        return values.astype(dtype)


def _chunks(weight: Weight) -> Iterator[NDArray[np.float32]]:
    """The weight's elements in order, dequantised."""
    kind = weight.stored.tensor_type
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    data = _rows(weight).reshape(-1)
    step = max(1, CHUNK_ELEMENTS // block_elements) * block_bytes
    for start in range(0, data.size, step):
        yield dequantize(data[start : start + step].reshape(1, -1), kind).reshape(-1)


def _rows(weight: Weight) -> NDArray[np.uint8]:
    """The stored bytes, one row of the weight per row.

    llama.cpp stores q and k with the two halves of a head's rows interleaved. Quantisation runs along a row, so rows
    can be put back in order before they are dequantised.
    """
    rows = weight.shape[0]
    data: NDArray[np.uint8] = weight.stored.data.view(np.ndarray).reshape(rows, -1).view(np.uint8)
    if not weight.heads:
        return data
    interleaved = data.reshape(weight.heads, rows // weight.heads // 2, 2, -1)
    return interleaved.swapaxes(1, 2).reshape(rows, -1)
