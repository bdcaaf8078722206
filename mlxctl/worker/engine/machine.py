"""How much memory this machine gives to models, and how much of it is in use."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import psutil

PART_FOR_MODELS = 0.75
"""Of the memory, where no GPU driver says how much of it a process should take."""


def memory_for_models() -> int:
    """Bytes that a process may reasonably take: Metal's recommendation, a GPU's own memory, or a part of RAM."""
    info: dict[str, Any] = mx.device_info()
    total = psutil.virtual_memory().total
    if mx.default_device() == mx.Device(mx.gpu):
        for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if isinstance(info.get(key), int) and info[key] > 0:
                return min(int(info[key]), total) if key != "total_memory" else int(info[key])
    return int(total * PART_FOR_MODELS)


def active_bytes() -> int:
    return int(mx.get_active_memory())


def peak_bytes() -> int:
    return int(mx.get_peak_memory())


SPARE_BYTES, SPARE_PART = 1_000_000_000, 0.02


def bound_spare() -> None:
    """Bound what MLX keeps of freed buffers for later. Its own bound is all of the memory, and chunks of a prompt leave
    buffers of every size behind.
    """
    mx.set_cache_limit(max(SPARE_BYTES, int(memory_for_models() * SPARE_PART)))
