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


SPARE_BYTES = 2_000_000_000


def trim_spare() -> None:
    """Give buffers back that MLX keeps for later, once there are many: each release and renewal costs the driver."""
    if mx.get_cache_memory() > SPARE_BYTES:
        mx.clear_cache()
