"""The tiny GGUF files are what llama.cpp's converter would write."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from tests.fakes.gguf_files import HEAD_DIM, HEADS, as_llama_cpp_stores, stored_name, write_tiny_llama_gguf
from tests.fakes.gguf_vocabularies import ODD_TEXTS, byte_level_vocabulary, sentencepiece_vocabulary


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_the_file_reads_back(tmp_path, quantization):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", quantization=quantization)
    reader = GGUFReader(model.path)
    assert {tensor.name for tensor in reader.tensors} == set(model.stored)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", quantization}
    for tensor in reader.tensors:
        found = dequantize(tensor.data, tensor.tensor_type).reshape(model.stored[tensor.name].shape)
        assert np.abs(found - model.stored[tensor.name]).max() < 0.1


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path):
    paths = [write_tiny_llama_gguf(tmp_path / f"{index}.gguf", seed=seed).path for index, seed in enumerate((3, 3, 4))]
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other


def test_rows_of_queries_are_in_the_order_of_llama_cpps_converter():
    rows = np.arange(HEADS * HEAD_DIM, dtype=np.float32)[:, None].repeat(3, axis=1)
    found = as_llama_cpp_stores("model.layers.0.self_attn.q_proj.weight", rows)[:, 0]
    expected = rows.reshape(HEADS, 2, HEAD_DIM // 2, 3).swapaxes(1, 2).reshape(-1, 3)[:, 0]
    assert found.tolist() == expected.tolist()
    assert found[:4].tolist() == [0, HEAD_DIM // 2, 1, HEAD_DIM // 2 + 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.1.self_attn.q_proj.bias", "blk.1.attn_q.bias"),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
    ],
)
def test_names_are_llama_cpps(name, expected):
    assert stored_name(name) == expected


def test_entries_and_tensors_can_be_replaced_and_removed(tmp_path):
    model = write_tiny_llama_gguf(
        tmp_path / "tiny.gguf",
        metadata={"llama.context_length": 7, "llama.block_count": None},
        tensors={"blk.0.attn_q.weight": None, "more": np.zeros((2, 32), np.float32)},
    )
    reader = GGUFReader(model.path)
    names = {tensor.name for tensor in reader.tensors}
    assert "blk.0.attn_q.weight" not in names and "more" in names
    assert reader.fields["llama.context_length"].contents() == 7
    assert "llama.block_count" not in reader.fields


def test_parts_are_named_and_numbered(tmp_path):
    write_tiny_llama_gguf(tmp_path / "tiny.gguf", parts=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def test_vocabularies_exercise_merges_control_tokens_and_bytes():
    byte_level, pieces = byte_level_vocabulary().metadata, sentencepiece_vocabulary().metadata
    assert len(byte_level["tokenizer.ggml.merges"]) > 100
    assert {1, 3, 4} <= set(byte_level["tokenizer.ggml.token_type"])
    assert {1, 2, 3, 4, 6} == set(pieces["tokenizer.ggml.token_type"])
    reference = byte_level_vocabulary().reference
    assert all(reference.decode(reference.encode(text).ids, skip_special_tokens=False) == text for text in ODD_TEXTS)
