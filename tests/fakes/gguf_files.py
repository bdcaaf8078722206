"""Writes tiny random llama models as GGUF files, in the layout that llama.cpp's converter gives them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from numpy.typing import NDArray

from tests.fakes.gguf_vocabularies import Vocabulary, byte_level_vocabulary

HIDDEN, LAYERS, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM = 64, 2, 96, 4, 2, 16
ROPE_THETA, NORM_EPS = 10000.0, 1e-5

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TinyLlama:
    """`weights` by their names on the hub; `stored` by those in the file, in the order of rows that llama.cpp uses."""

    path: Path
    weights: dict[str, Array]
    stored: dict[str, Array]
    vocabulary: Vocabulary


def write_tiny_llama_gguf(
    path: Path,
    *,
    quantization: str = "F16",
    tied: bool = True,
    arch: str = "llama",
    vocabulary: Vocabulary | None = None,
    biases: bool = False,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array | None] | None = None,
    parts: int = 1,
    seed: int = 0,
) -> TinyLlama:
    """A random model of two layers. Matrices are in `quantization`, vectors in float32.

    `metadata` and `tensors` replace or add entries, or take them away where the value is None. With `parts` above 1
    the files are `path`'s stem with -00001-of-00002 and so on.
    """
    words = vocabulary or byte_level_vocabulary()
    weights = random_weights(words.size, tied=tied, biases=biases, seed=seed)
    if quantization == "F16":
        weights = {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
    stored = {stored_name(name): as_llama_cpp_stores(name, array) for name, array in weights.items()}
    kept = {name: array for name, array in {**stored, **(tensors or {})}.items() if array is not None}
    entries = {**numbers(arch, words.size), **words.metadata, **(metadata or {})}
    writer = GGUFWriter(path, arch, split_max_tensors=-(-len(kept) // parts) if parts > 1 else 0)
    for key, value in entries.items():
        if value is not None:
            _add(writer, key, value)
    for name, array in kept.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            writer.add_tensor(name, np.asarray(array))
            continue
        kind = GGMLQuantizationType[quantization if array.ndim == 2 else "F32"]
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyLlama(path, weights, stored, words)


def random_weights(vocabulary: int, *, tied: bool, biases: bool, seed: int) -> dict[str, Array]:
    """By their names on the hub."""
    rng = np.random.default_rng(seed)
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    linear = {
        "self_attn.q_proj": (queries, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, queries),
        "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
        "mlp.up_proj": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj": (HIDDEN, FEED_FORWARD),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{norm}.weight"] = (HIDDEN,)
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            if biases:
                shapes[f"{prefix}.{name}.bias"] = shape[:1]
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, HIDDEN)
    return {
        name: (rng.standard_normal(shape) * 0.2 + ("norm" in name)).astype(np.float32) for name, shape in shapes.items()
    }


def stored_name(name: str) -> str:
    """The name that llama.cpp's converter gives a tensor of the hub."""
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    inner = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    stem, _, kind = name.rpartition(".")
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    layer, _, module = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{inner[module]}.{kind}"


def as_llama_cpp_stores(name: str, array: Array) -> Array:
    """q and k with row i of a head's first half followed by row i of its second half; everything else as it is."""
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    if not heads:
        return array
    order = [
        head * HEAD_DIM + half * HEAD_DIM // 2 + row
        for head in range(heads)
        for row in range(HEAD_DIM // 2)
        for half in range(2)
    ]
    return array[order]


def numbers(arch: str, vocabulary: int) -> dict[str, Any]:
    return {
        f"{arch}.block_count": LAYERS,
        f"{arch}.context_length": 512,
        f"{arch}.embedding_length": HIDDEN,
        f"{arch}.feed_forward_length": FEED_FORWARD,
        f"{arch}.attention.head_count": HEADS,
        f"{arch}.attention.head_count_kv": KV_HEADS,
        f"{arch}.attention.layer_norm_rms_epsilon": NORM_EPS,
        f"{arch}.rope.freq_base": ROPE_THETA,
        f"{arch}.rope.dimension_count": HEAD_DIM,
        f"{arch}.vocab_size": vocabulary,
    }


def write_bare_head(path: Path, keys: Mapping[str, str], *, version: int = 3, magic: bytes = b"GGUF") -> None:
    """Only the head of a GGUF file, with texts for metadata, byte for byte after the format's description."""
    head = magic + struct.pack("<IQQ", version, 0, len(keys))
    for key, value in keys.items():
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IQ", 8, len(value)) + value.encode()
    path.write_bytes(head)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
