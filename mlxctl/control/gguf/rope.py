"""`rope_scaling` of config.json, out of the metadata or, for Llama 3, out of the frequency factors in the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxctl.control.gguf.header import unsupported
from mlxctl.control.gguf.source import Source

FREQUENCY_FACTORS = "rope_freqs.weight"

LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0
LLAMA3_CONTEXT = 8192
"""What every Llama 3 release was trained with; the file only has the factors that follow from it."""

TOLERANCE = 1e-3


def rope_scaling(source: Source, theta: float, head_dim: int) -> dict[str, Any] | None:
    """None where positions are not scaled. Raises NotReady("unsupported_format") for what mlx-lm could not repeat."""
    kind = source.text("llama.rope.scaling.type", "linear")
    factor = source.number("llama.rope.scaling.factor", source.number("llama.rope.scale_linear", 1.0)) or 1.0
    scaled = kind != "none" and factor != 1.0
    if scaled and kind != "linear":
        raise unsupported(source.path, f"it scales positions by {kind!r}, and only linear and llama3 are known")
    stored = source.tensors.get(FREQUENCY_FACTORS)
    factors = np.ones(1) if stored is None else np.asarray(stored.data, np.float64)
    if np.allclose(factors, 1.0):
        return {"rope_type": "linear", "factor": factor} if scaled else None
    if scaled:
        raise unsupported(source.path, "it scales positions both linearly and by frequency")
    return _llama3(source, factors, theta, head_dim)


def llama3_factors(factor: float, context: float, theta: float, head_dim: int) -> NDArray[np.float64]:
    """What each of the `head_dim / 2` wavelengths is stretched by: 1 for short ones, `factor` for long ones."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = np.clip((context / wavelengths - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), np.float64)


def _llama3(source: Source, factors: NDArray[np.float64], theta: float, head_dim: int) -> dict[str, Any]:
    factor = float(factors.max())
    contexts = {LLAMA3_CONTEXT, int(source.number("llama.rope.scaling.original_context_length", LLAMA3_CONTEXT))}
    for context in sorted(contexts):
        expected = llama3_factors(factor, context, theta, head_dim)
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LLAMA3_LOW,
                "high_freq_factor": LLAMA3_HIGH,
                "original_max_position_embeddings": context,
            }
    raise unsupported(source.path, f"the factors in {FREQUENCY_FACTORS} are not those of a Llama 3 model")
