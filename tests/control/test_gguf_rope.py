"""How positions are scaled is found out from the file, or the file is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mlxctl.control.gguf import dequantize
from mlxctl.core.errors import NotReady
from mlxctl.core.report import Silent
from tests.fakes.gguf_files import HEAD_DIM, write_tiny_llama_gguf

THETA = 500_000.0


def factors_of_llama3(factor, context=8192, low=1.0, high=4.0, theta=THETA):
    """As llama.cpp's converter writes them, wavelength by wavelength."""
    factors = []
    for pair in range(HEAD_DIM // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / HEAD_DIM)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def scaling(place, *, factors=None, **changes):
    """`rope_scaling` in the config of a model with these frequency factors and entries of `llama.rope`."""
    metadata = {f"llama.rope.{key}": value for key, value in {"freq_base": THETA, **changes}.items()}
    tensors = {} if factors is None else {"rope_freqs.weight": factors}
    model = write_tiny_llama_gguf(place / "tiny.gguf", metadata=metadata, tensors=tensors)
    dequantize(model.path, place / "out", Silent())
    return json.loads((place / "out" / "config.json").read_text())["rope_scaling"]


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_factors_become_its_scaling(tmp_path, factor):
    factors = factors_of_llama3(factor)
    assert len(set(factors.tolist())) > 2, "the middle band must be told apart too"
    assert scaling(tmp_path, factors=factors) == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_another_original_context_is_taken_from_the_metadata(tmp_path):
    found = scaling(tmp_path, factors=factors_of_llama3(8.0, context=4096), **{"scaling.original_context_length": 4096})
    assert found["original_max_position_embeddings"] == 4096


def test_mlx_lm_turns_the_scaling_back_into_the_same_factors(tmp_path):
    from mlx_lm.models.rope_utils import initialize_rope

    factors = factors_of_llama3(32.0)
    rope = initialize_rope(HEAD_DIM, THETA, False, scaling(tmp_path, factors=factors), 512)
    plain = THETA ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    assert np.allclose(np.array(rope._freqs) / plain, factors, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"scaling.type": "none"}, None),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "yarn", "scaling.factor": 1.0}, None),
        ({"scaling.type": "linear", "scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"scaling.factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"scaling.factor": 0.0}, None),
        ({"scale_linear": 8.0}, {"rope_type": "linear", "factor": 8.0}),
    ],
)
def test_linear_scaling_comes_from_the_metadata(tmp_path, changes, expected):
    assert scaling(tmp_path, **changes) == expected


def test_factors_of_one_scale_nothing(tmp_path):
    assert scaling(tmp_path, factors=np.ones(HEAD_DIM // 2, np.float32)) is None


@pytest.mark.parametrize(
    ("factors", "changes", "words"),
    [
        (None, {"scaling.type": "yarn", "scaling.factor": 4.0}, "yarn"),
        (None, {"scaling.type": "longrope", "scaling.factor": 4.0}, "longrope"),
        (np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32), {}, "rope_freqs.weight"),
        (factors_of_llama3(8.0, context=4096), {}, "rope_freqs.weight"),
        (factors_of_llama3(8.0, high=8.0), {}, "rope_freqs.weight"),
        (factors_of_llama3(8.0)[1:], {}, "rope_freqs.weight"),
        (factors_of_llama3(8.0), {"scaling.type": "linear", "scaling.factor": 2.0}, "both"),
        (None, {"dimension_count": HEAD_DIM // 2}, "part of each head"),
    ],
)
def test_scaling_that_could_not_be_repeated_is_refused(tmp_path, factors, changes, words):
    with pytest.raises(NotReady, match=words) as caught:
        scaling(tmp_path, factors=factors, **changes)
    assert caught.value.code == "unsupported_format"
    assert not (tmp_path / "out").exists()
