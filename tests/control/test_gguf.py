"""A GGUF file of the llama family becomes a folder that mlx-lm loads, with the very weights it was made of."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.numpy import load_file

from mlxctl.control.gguf import dequantize, read_family, weights
from mlxctl.control.gguf.llama import Weight
from mlxctl.core.report import Silent
from tests.fakes.gguf_files import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    NORM_EPS,
    ROPE_THETA,
    write_bare_head,
    write_tiny_llama_gguf,
)
from tests.fakes.gguf_vocabularies import CHAT_TEMPLATE

TOKENS = [1, 40, 77, 300, 12, 5, 2, 99]


class Recorder:
    """A reporter that adds up what it is told."""

    def __init__(self):
        self.notes, self.title, self.total, self.steps, self.finished = [], "", None, [], 0

    def note(self, message):
        self.notes.append(message)

    def task(self, title, total=None, unit=""):
        self.title, self.total, self.unit = title, total, unit
        return self

    def advance(self, amount):
        self.steps.append(amount)

    def finish(self):
        self.finished += 1


def convert(model, dest, dtype="float32"):
    dequantize(model.path, dest, Silent(), dtype=dtype)
    return dest


def weights_in(folder):
    return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


def config_in(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("quantization", "dtype", "tolerance"),
    [
        ("F32", "float32", 0.0),
        ("F16", "float32", 0.0),
        ("F16", "float16", 0.0),
        ("F32", "float16", 5e-4),
        ("BF16", "float32", 1e-2),
        ("Q8_0", "float32", 5e-3),
        ("Q4_1", "float32", 6e-2),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_come_back_under_their_names_in_their_order(tmp_path, quantization, dtype, tolerance, tied):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", quantization=quantization, tied=tied)
    folder = convert(model, tmp_path / "out", dtype)
    found = weights_in(folder)
    assert found.keys() == model.weights.keys()
    for name, array in found.items():
        assert array.dtype == dtype
        expected = model.weights[name]
        if tolerance == 0.0:
            assert (array == expected.astype(dtype)).all(), name
        else:
            assert np.abs(array - expected).max() <= tolerance * max(1, np.abs(expected).max()), name
    assert config_in(folder)["tie_word_embeddings"] is tied


@pytest.mark.parametrize("tied", [True, False])
def test_biases_are_kept_and_put_back_in_order(tmp_path, tied):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", biases=True, tied=tied)
    folder = convert(model, tmp_path / "out")
    found = weights_in(folder)
    assert found.keys() == model.weights.keys()
    assert all((found[name] == model.weights[name]).all() for name in found)
    config = config_in(folder)
    assert config["attention_bias"] is True and config["mlp_bias"] is True


@pytest.mark.parametrize("quantization", ["Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q6_K", "IQ4_XS", "TQ2_0", "MXFP4"])
def test_blocks_are_undone_alike_whatever_chunk_they_fall_into(tmp_path, quantization):
    kind = GGMLQuantizationType[quantization]
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = 4400, 256
    stored = np.random.default_rng(0).integers(0, 48, (rows, columns // block * size), np.uint8)
    tensor = SimpleNamespace(tensor_type=kind, data=stored, name="x")
    weight = Weight("x", tensor, (rows, columns))
    assert rows * columns > weights.CHUNK_ELEMENTS
    weights.require_dequantizable(tmp_path, [weight])
    weights.write_shard(tmp_path / "model.safetensors", [weight], "float32", Recorder())
    assert (load_file(tmp_path / "model.safetensors")["x"] == gguf.dequantize(stored, kind)).all()


def test_the_numbers_of_the_model_reach_the_config(tmp_path):
    config = config_in(convert(write_tiny_llama_gguf(tmp_path / "tiny.gguf"), tmp_path / "out"))
    expected = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 96,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": 422,
        "max_position_embeddings": 512,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": [2, 0],
        "pad_token_id": 2,
    }
    assert {key: config[key] for key in expected} == expected


def test_the_folder_has_all_files_and_nothing_else(tmp_path):
    folder = convert(write_tiny_llama_gguf(tmp_path / "tiny.gguf"), tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_a_base_model_without_a_template_gets_none(tmp_path):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": None})
    assert not (convert(model, tmp_path / "out") / "chat_template.jinja").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_mlx_lm_computes_what_llama_cpp_would_from_the_file(tmp_path, tied, biases):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", tied=tied, biases=biases)
    loaded, _ = load_model(convert(model, tmp_path / "out"))
    found = np.array(loaded(mx.array([TOKENS])))[0]
    assert np.isfinite(found).all()
    expected = logits_as_llama_cpp(model.stored, TOKENS)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_mlx_lms_converter_takes_the_folder_and_keeps_weights_and_words(tmp_path, capsys):
    from mlx_lm import convert as mlx_convert
    from transformers import AutoTokenizer

    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    folder = convert(model, tmp_path / "out", "float16")
    mlx_convert(str(folder), str(tmp_path / "mlx"), dtype="float32")
    capsys.readouterr()
    found = weights_in(tmp_path / "mlx")
    assert found.keys() == model.weights.keys()
    assert all((found[name] == model.weights[name]).all() for name in found)
    before, after = (AutoTokenizer.from_pretrained(place) for place in (folder, tmp_path / "mlx"))
    assert before.backend_tokenizer.to_str() == after.backend_tokenizer.to_str()
    assert before.chat_template == after.chat_template == CHAT_TEMPLATE


def test_large_models_are_sharded_with_an_index(tmp_path, monkeypatch):
    from mlx_lm.utils import load_model

    monkeypatch.setattr(weights, "SHARD_BYTES", 100_000)
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", tied=False)
    folder = convert(model, tmp_path / "out")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [f"model-0000{n}-of-00005.safetensors" for n in (1, 2, 3, 4, 5)]
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in model.weights.values())
    for shard in shards:
        held = load_file(shard)
        assert len(held) == 1 or sum(array.nbytes for array in held.values()) <= 100_000
        assert {index["weight_map"][name] for name in held} == {shard.name}
    assert index["weight_map"].keys() == model.weights.keys() == weights_in(folder).keys()
    load_model(folder)


def test_a_split_file_is_read_from_any_of_its_parts(tmp_path):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", parts=3)
    for number in (1, 3):
        part = tmp_path / f"tiny-0000{number}-of-00003.gguf"
        dequantize(part, tmp_path / f"out{number}", Silent(), dtype="float32")
        found = weights_in(tmp_path / f"out{number}")
        assert found.keys() == model.weights.keys()
        assert all((found[name] == model.weights[name]).all() for name in found)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_progress_counts_the_bytes_of_the_weights_once(tmp_path, dtype, width):
    model, reporter = write_tiny_llama_gguf(tmp_path / "tiny.gguf"), Recorder()
    dequantize(model.path, tmp_path / "out", reporter, dtype=dtype)
    size = sum(array.size for array in model.weights.values()) * width
    assert (reporter.title, reporter.total, reporter.unit) == ("Dequantising tiny.gguf", size, "bytes")
    assert sum(reporter.steps) == size and len(reporter.steps) == len(model.weights)
    assert reporter.finished == 1 and reporter.notes == []
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = struct.unpack("<Q", written[:8])[0]
    assert header % 8 == 0 and len(written) == 8 + header + size


def test_bfloat16_is_rounded_as_mlx_rounds_it(tmp_path):
    import mlx.core as mx

    spread = np.random.default_rng(5).standard_normal(4096) * np.logspace(-30, 30, 4096)
    values = np.array([*spread, 0.0, -0.0, 1.00390625, 1.01171875], np.float32)
    expected = np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    assert (weights.cast(values, "bfloat16") == expected).all()
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    held = mx.load(str(convert(model, tmp_path / "out", "bfloat16") / "model.safetensors"))
    assert {array.dtype for array in held.values()} == {mx.bfloat16}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt-oss"])
def test_the_family_is_read_from_the_head(tmp_path, arch):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", arch=arch)
    assert read_family(model.path) == arch


def test_the_family_is_found_behind_other_entries(tmp_path):
    path = tmp_path / "late.gguf"
    write_bare_head(path, {"general.name": "x" * 300, "tokenizer.chat_template": "", "general.architecture": "mamba"})
    assert read_family(path) == "mamba"
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    whole = model.path.read_bytes()
    start, end = 24, 24 + 8 + len("general.architecture") + 4 + 8 + len("llama")
    count = struct.unpack_from("<Q", whole, 16)[0]
    entries, tail = whole[end:], whole[start:end]
    words_end = end + entries.index(b"tokenizer.ggml.bos_token_id") - 8
    path.write_bytes(whole[:16] + struct.pack("<Q", count) + whole[end:words_end] + tail + whole[words_end:])
    assert read_family(path) == "llama"


def logits_as_llama_cpp(stored, tokens):
    """A forward pass over the tensors as the file has them: llama.cpp rotates neighbouring rows of a head by a pair."""
    hidden = stored["token_embd.weight"][tokens].astype(np.float64)
    for layer in range(LAYERS):
        held = {name.removeprefix(f"blk.{layer}."): array for name, array in stored.items()}
        normed = rms_norm(hidden, held["attn_norm.weight"])
        queries = rotate(linear(held, "attn_q", normed).reshape(len(tokens), HEADS, HEAD_DIM))
        keys = rotate(linear(held, "attn_k", normed).reshape(len(tokens), KV_HEADS, HEAD_DIM))
        values = linear(held, "attn_v", normed).reshape(len(tokens), KV_HEADS, HEAD_DIM)
        keys, values = (array.repeat(HEADS // KV_HEADS, axis=1) for array in (keys, values))
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(HEAD_DIM)
        scores += np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, values).reshape(len(tokens), -1)
        hidden = hidden + linear(held, "attn_output", mixed)
        normed = rms_norm(hidden, held["ffn_norm.weight"])
        gate = linear(held, "ffn_gate", normed)
        hidden = hidden + linear(held, "ffn_down", gate / (1 + np.exp(-gate)) * linear(held, "ffn_up", normed))
    head = stored.get("output.weight", stored["token_embd.weight"])
    return rms_norm(hidden, stored["output_norm.weight"]) @ head.T


def linear(held, name, inputs):
    return inputs @ held[f"{name}.weight"].T + held.get(f"{name}.bias", 0.0)


def rms_norm(hidden, weight):
    return hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + NORM_EPS) * weight


def rotate(heads):
    angles = np.arange(len(heads))[:, None] * ROPE_THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    pairs = heads[..., 0::2] + 1j * heads[..., 1::2]
    turned = pairs * np.exp(1j * angles)[:, None, :]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(heads.shape)
