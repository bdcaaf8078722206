"""Whether a model's weights fit into the memory that is free now."""

from __future__ import annotations

from mlxctl.core.errors import Refused


def human_bytes(count: float) -> str:
    """`count` bytes for people: 1.2 GB, 340 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def admission(model_id: str, weight_bytes: int, available_bytes: int, freed_bytes: int = 0) -> Refused | None:
    """Why `model_id` may not be loaded, or None. `freed_bytes` come back when the model that it replaces stops."""
    if weight_bytes <= available_bytes + freed_bytes:
        return None
    return Refused(
        "not_enough_memory",
        f"{model_id} weighs {human_bytes(weight_bytes)}, but only {human_bytes(available_bytes + freed_bytes)} "
        "of memory is available",
        "unload a model (`mlxctl status`), or override with --force",
    )
