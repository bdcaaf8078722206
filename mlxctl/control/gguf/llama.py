"""The llama family: its numbers, the `config.json` they make, and the folder's name for each tensor of the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gguf import ReaderTensor

from mlxctl.control.gguf.header import torn, unsupported
from mlxctl.control.gguf.rope import FREQUENCY_FACTORS, rope_scaling
from mlxctl.control.gguf.source import Source

BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True, slots=True)
class Llama:
    """The numbers of one model."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    def config(self, dtype: str) -> dict[str, Any]:
        """`config.json`, less the ids of the special tokens."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.feed_forward,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "tie_word_embeddings": self.tied,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "torch_dtype": dtype,
        }


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the folder: `stored` in the file, `shape` as rows and columns.

    `heads` is not 0 where llama.cpp interleaved the two halves of each head's rows, which has to be undone.
    """

    name: str
    stored: ReaderTensor
    shape: tuple[int, ...]
    heads: int = 0


def read_llama(source: Source) -> Llama:
    """Raises NotReady: "bad_model" for absent metadata, "unsupported_format" for what mlx-lm's llama does not have."""
    if source.number("llama.expert_count", 0):
        raise unsupported(source.path, "it is a mixture of experts, and only dense models are known")
    hidden, heads = source.count("llama.embedding_length"), source.count("llama.attention.head_count")
    head_dim = source.count("llama.attention.key_length", hidden // heads)
    if source.count("llama.attention.value_length", head_dim) != head_dim:
        raise unsupported(source.path, "its keys and values differ in width")
    if source.count("llama.rope.dimension_count", head_dim) != head_dim:
        raise unsupported(source.path, "it rotates only a part of each head")
    theta = source.number("llama.rope.freq_base", 10000.0)
    layers = source.count("llama.block_count")
    if not 1.0 <= theta < math.inf or head_dim % 2 or layers > len(source.tensors):
        raise torn(source.path, f"{layers} layers, heads of {head_dim} and a base of {theta} make no model")
    embedding = source.tensors.get("token_embd.weight")
    if embedding is None:
        raise torn(source.path, "the tensor token_embd.weight is missing")
    return Llama(
        hidden=hidden,
        layers=layers,
        feed_forward=source.count("llama.feed_forward_length"),
        heads=heads,
        kv_heads=source.count("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        vocabulary=_shape(embedding)[0],
        context=source.count("llama.context_length"),
        norm_eps=_shortest(source.number("llama.attention.layer_norm_rms_epsilon")),
        rope_theta=_shortest(theta),
        rope_scaling=rope_scaling(source, theta, head_dim),
        tied="output.weight" not in source.tensors,
        attention_bias="blk.0.attn_q.bias" in source.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in source.tensors,
    )


def plan_weights(source: Source, model: Llama) -> list[Weight]:
    """Every tensor that the folder gets, in the order of the layers.

    Raises NotReady: "bad_model" where tensors are missing or of the wrong shape, "unsupported_format" where the file
    has tensors that the family does not.
    """
    names = _names(model)
    absent = [stored for stored in names if stored not in source.tensors]
    if absent:
        raise torn(source.path, f"{len(absent)} tensors are missing: {', '.join(absent[:3])}")
    strange = sorted(set(source.tensors) - set(names) - {FREQUENCY_FACTORS})
    if strange:
        raise unsupported(source.path, f"its tensors {', '.join(strange[:3])} are not of the llama family")
    weights = [Weight(name, source.tensors[stored], shape, heads) for stored, (name, shape, heads) in names.items()]
    for weight in weights:
        if _shape(weight.stored) != weight.shape:
            raise torn(
                source.path,
                f"the tensor {weight.stored.name} has the shape {_shape(weight.stored)}, not {weight.shape}",
            )
    return weights


def _names(model: Llama) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Name in the file: name in the folder, shape, and heads whose rows are interleaved."""
    names: dict[str, tuple[str, tuple[int, ...], int]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (model.vocabulary, model.hidden), 0)
    }
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    linear = {
        "attn_q": ("self_attn.q_proj", queries, model.hidden, model.heads),
        "attn_k": ("self_attn.k_proj", keys, model.hidden, model.kv_heads),
        "attn_v": ("self_attn.v_proj", keys, model.hidden, 0),
        "attn_output": ("self_attn.o_proj", model.hidden, queries, 0),
        "ffn_gate": ("mlp.gate_proj", model.feed_forward, model.hidden, 0),
        "ffn_up": ("mlp.up_proj", model.feed_forward, model.hidden, 0),
        "ffn_down": ("mlp.down_proj", model.hidden, model.feed_forward, 0),
    }
    norms = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    biased = (BIASED if model.attention_bias else ()) + (MLP if model.mlp_bias else ())
    for layer in range(model.layers):
        here, there = f"blk.{layer}", f"model.layers.{layer}"
        for stored, name in norms.items():
            names[f"{here}.{stored}.weight"] = (f"{there}.{name}.weight", (model.hidden,), 0)
        for stored, (name, rows, columns, heads) in linear.items():
            names[f"{here}.{stored}.weight"] = (f"{there}.{name}.weight", (rows, columns), heads)
            if name in biased:
                names[f"{here}.{stored}.bias"] = (f"{there}.{name}.bias", (rows,), heads)
    names["output_norm.weight"] = ("model.norm.weight", (model.hidden,), 0)
    if not model.tied:
        names["output.weight"] = ("lm_head.weight", (model.vocabulary, model.hidden), 0)
    return names


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    """Rows first; the file has the innermost dimension first."""
    return tuple(int(length) for length in reversed(tensor.shape.tolist()))


def _shortest(value: float) -> float:
    """A float32 of the metadata as its author wrote it: 1e-05, not 9.999999747378752e-06."""
    return float(f"{value:.7g}")
