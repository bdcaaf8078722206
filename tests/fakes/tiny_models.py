"""Tiny random models of real mlx-lm architectures on disk: lively enough to test with, and loaded in no time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tests.fakes.tiny_tokenizers import FAMILIES, write_tokenizer

TinyKind = Literal["llama", "gpt_oss", "gemma3", "qwen3_next"]
TINY_KINDS: tuple[TinyKind, ...] = get_args(TinyKind)
WINDOW, CONTEXT, HIDDEN = 32, 4096, 64

SHARED: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
SHAPES: dict[TinyKind, dict[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "num_hidden_layers": 4,
        "intermediate_size": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 16,
    },
    "qwen3_next": {
        "model_type": "qwen3_next",
        "architectures": ["Qwen3NextForCausalLM"],
        "num_hidden_layers": 4,
        "full_attention_interval": 2,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 1,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
    },
}
SEEDS: dict[TinyKind, int] = {"llama": 5, "gpt_oss": 7, "gemma3": 1, "qwen3_next": 2}
"""Found by trying: with these, forty greedy tokens from a dozen prompts wander, and no two candidates come close."""


def tiny_model(kind: TinyKind, folder: Path, *, seed: int | None = None) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`, made if absent; returns `folder`.

    Float32, a few hundred kB, the same bytes for the same `kind` and `seed` (None: the one that was chosen for it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[kind]
    ids = write_tokenizer(family, folder)
    stops = [ids[stop] for stop in family.stops]
    config = {**SHARED, **SHAPES[kind], "vocab_size": len(ids), "eos_token_id": stops, "bos_token_id": ids[family.bos]}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generation = {"eos_token_id": stops, "bos_token_id": config["bos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    lone_bytes = [ids[word] for word in ids if len(word) == 1 and not word.isascii() and word not in "ĠĊ"]
    rare = [*stops, *lone_bytes]
    write_weights(config, folder / "model.safetensors", SEEDS[kind] if seed is None else seed, rare)
    return folder


def write_weights(config: dict[str, Any], path: Path, seed: int, rare: list[int]) -> None:
    """`rare` tokens are seldom the likeliest: stops, for answers to be long, and bytes that alone are no text."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    shapes = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    weights = {name: random_weight(name, shape, config, seed) for name, shape in shapes.items()}
    weights["lm_head.weight"][rare] *= 0.4
    arrays = {name: mx.array(array) for name, array in weights.items()}
    mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})


def random_weight(name: str, shape: tuple[int, ...], config: dict[str, Any], seed: int) -> NDArray[np.float32]:
    """Drawn from a generator of its own, by name: no layer's numbers depend on the order or size of another's."""
    source = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])
    noise: NDArray[np.float32] = source.standard_normal(shape).astype(np.float32)
    if name.endswith("norm.weight"):  # gemma's norms multiply by one plus the weight
        centre = 0.0 if config["model_type"].startswith("gemma") else 1.0
        return (centre + 0.1 * noise).astype(np.float32)
    if name.endswith("A_log"):  # how fast the state forgets: from hardly to at once
        return np.linspace(-3.0, 1.0, shape[0], dtype=np.float32)
    if name.endswith("dt_bias"):
        return (0.1 * noise).astype(np.float32)
    if len(shape) == 1 or name.endswith(".bias"):
        return (0.2 * noise).astype(np.float32)
    if name.endswith("embed_tokens.weight"):  # gemma multiplies what it looks up by the root of its width
        scale = 0.5 / np.sqrt(HIDDEN) if config["model_type"].startswith("gemma") else 0.5
    else:
        scale = gain(name) / np.sqrt(shape[1] if name.endswith("conv1d.weight") else shape[-1])
    return np.multiply(scale, noise, dtype=np.float32)


def gain(name: str) -> float:
    """Above one where the usual scale would let the last token alone decide the next: attention is made to matter."""
    if "lm_head" in name:
        return 4.0
    if any(part in name for part in ("q_proj", "k_proj", "qkvz")):
        return 2.0
    return 1.5 if any(part in name for part in ("o_proj", "out_proj")) else 1.0
