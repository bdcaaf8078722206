"""What cannot be converted is refused before anything is written, in words that name the cause and the way out."""

from __future__ import annotations

import errno
import random
import re
import shutil
import struct

import numpy as np
import pytest

from mlxctl.control.gguf import dequantize, read_family, weights
from mlxctl.core.errors import MlxctlError, NotReady, Refused, UsageError
from mlxctl.core.report import Silent, SilentTask
from tests.fakes.gguf_files import HIDDEN, write_bare_head, write_tiny_llama_gguf
from tests.fakes.gguf_vocabularies import byte_level_vocabulary, sentencepiece_vocabulary

TOKENS = byte_level_vocabulary().metadata["tokenizer.ggml.tokens"]


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def refusal(path, dest=None, **options):
    dest = dest or path.parent / "out"
    with pytest.raises(NotReady) as caught:
        dequantize(path, dest, Silent(), **options)
    assert not dest.exists()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("code", "words", "changes"),
    [
        ("unsupported_format", "'qwen2'.*known families are: llama", {"arch": "qwen2"}),
        ("unsupported_format", "mixture of experts", {"metadata": {"llama.expert_count": 8}}),
        ("unsupported_format", "head_count_kv differs", {"metadata": {"llama.attention.head_count_kv": [2, 1]}}),
        ("unsupported_format", "keys and values", {"metadata": {"llama.attention.value_length": 32}}),
        ("unsupported_format", "blk.0.attn_q_norm.weight", {"tensors": {"blk.0.attn_q_norm.weight": zeros(16)}}),
        ("unsupported_format", "quantisation F64", {"tensors": {"output_norm.weight": zeros(HIDDEN, dtype="float64")}}),
        ("unsupported_format", "quantisation I32", {"tensors": {"output_norm.weight": zeros(HIDDEN, dtype="int32")}}),
        ("unsupported_format", "tokenizer 'bert'", {"metadata": {"tokenizer.ggml.model": "bert"}}),
        ("unsupported_format", "tokenizer 'poro-chat'", {"metadata": {"tokenizer.ggml.pre": "poro-chat"}}),
        ("unsupported_format", "tokenizer ''", {"metadata": {"tokenizer.ggml.model": None}}),
        ("bad_model", "lack llama.context_length", {"metadata": {"llama.context_length": None}}),
        ("bad_model", "is not a number", {"metadata": {"llama.context_length": "long"}}),
        ("bad_model", "is not a number", {"metadata": {"llama.context_length": True}}),
        ("bad_model", "head_count is 0", {"metadata": {"llama.attention.head_count": 0}}),
        ("bad_model", "embedding_length is 64.0", {"metadata": {"llama.embedding_length": 64.0}}),
        ("bad_model", "4000000000 layers", {"metadata": {"llama.block_count": 4_000_000_000}}),
        ("bad_model", "base of 0.0", {"metadata": {"llama.rope.freq_base": 0.0}}),
        ("bad_model", "base of nan", {"metadata": {"llama.rope.freq_base": float("nan")}}),
        ("bad_model", "is not a text", {"metadata": {"llama.rope.scaling.type": 3}}),
        ("bad_model", "is not an array of str", {"metadata": {"tokenizer.ggml.tokens": "all of them"}}),
        ("bad_model", "is not an array of str", {"metadata": {"tokenizer.ggml.merges": [1, 2]}}),
        ("bad_model", "is not an array of int", {"metadata": {"tokenizer.ggml.token_type": ["a"]}}),
        ("bad_model", "is not a text", {"metadata": {"tokenizer.chat_template": 1}}),
        ("bad_model", "tensor token_embd.weight is missing", {"tensors": {"token_embd.weight": None}}),
        ("bad_model", "1 tensors are missing: blk.1.ffn_up.weight", {"tensors": {"blk.1.ffn_up.weight": None}}),
        ("bad_model", "18 tensors are missing", {"metadata": {"llama.block_count": 4}}),
        ("bad_model", "blk.0.attn_k.bias", {"tensors": {"blk.0.attn_q.bias": zeros(64)}}),
        ("bad_model", r"shape \(2, 64\), not \(64,\)", {"tensors": {"output_norm.weight": zeros(2, HIDDEN)}}),
        ("bad_model", r"not \(32, 64\)", {"tensors": {"blk.0.attn_k.weight": zeros(64, HIDDEN)}}),
        ("bad_model", "lack tokenizer.ggml.tokens", {"metadata": {"tokenizer.ggml.tokens": None}}),
        ("bad_model", "lack tokenizer.ggml.merges", {"metadata": {"tokenizer.ggml.merges": None}}),
        ("bad_model", "such as 'aĠzz'", {"metadata": {"tokenizer.ggml.merges": ["a Ġzz"]}}),
        ("bad_model", "token_type has 2 entries", {"metadata": {"tokenizer.ggml.token_type": [1, 1]}}),
        ("bad_model", "eos_token_id is 4000", {"metadata": {"tokenizer.ggml.eos_token_id": 4000}}),
        (
            "bad_model",
            "423 tokens, but embeddings for only 422",
            {"metadata": {"tokenizer.ggml.tokens": [*TOKENS, "x"], "tokenizer.ggml.token_type": None}},
        ),
        ("bad_model", "one of 3 parts", {"metadata": {"split.count": 3}}),
    ],
)
def test_what_the_family_does_not_have_is_named(tmp_path, code, words, changes):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", **changes)
    error = refusal(model.path)
    assert error.code == code
    assert re.search(words, error.message), error.message
    assert error.message.startswith("tiny.gguf") and "\n" not in error.message


def test_kv_heads_given_layer_by_layer_are_fine_when_they_agree(tmp_path):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", metadata={"llama.attention.head_count_kv": [2, 2]})
    dequantize(model.path, tmp_path / "out", Silent())
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_scores_must_fit_the_tokens(tmp_path):
    model = write_tiny_llama_gguf(
        tmp_path / "tiny.gguf", vocabulary=sentencepiece_vocabulary(), metadata={"tokenizer.ggml.scores": [0.5]}
    )
    assert refusal(model.path).code == "bad_model"


def test_an_unknown_quantisation_is_told_from_a_torn_file(tmp_path):
    path = write_tiny_llama_gguf(tmp_path / "tiny.gguf").path
    whole = bytearray(path.read_bytes())
    info = whole.index(b"output_norm.weight") + len("output_norm.weight")
    struct.pack_into("<I", whole, info + 4 + 8, 999)
    path.write_bytes(whole)
    error = refusal(path)
    assert error.code == "unsupported_format" and "999" in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with the letters GGUF"),
        (b"GG", "does not begin with the letters GGUF"),
        (b"PK\x03\x04" + b"\0" * 100, "does not begin with the letters GGUF"),
        (b"GGUF", "ends too early"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "format version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "format version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not say its architecture"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "ends too early"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 62), "ends too early"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 62), "ends too early"),
    ],
)
def test_what_is_no_gguf_file_is_called_so(tmp_path, content, words):
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(NotReady) as caught:
        read_family(path)
    for error in (caught.value, refusal(path)):
        assert error.code == "bad_model" and words in error.message and "odd.gguf" in error.message


@pytest.mark.parametrize("kind", ["absent", "folder"])
def test_a_path_without_a_file_is_refused(tmp_path, kind):
    path = tmp_path / "none.gguf"
    if kind == "folder":
        path.mkdir()
    assert refusal(path).code == "bad_model"
    with pytest.raises(NotReady, match=r"none\.gguf"):
        read_family(path)


def test_a_head_without_tensors_is_torn(tmp_path):
    path = tmp_path / "head.gguf"
    write_bare_head(path, {"general.architecture": "llama", "general.name": "x" * 64})
    assert "no tensors" in refusal(path).message


def test_a_file_cut_anywhere_is_torn(tmp_path):
    whole = write_tiny_llama_gguf(tmp_path / "tiny.gguf").path.read_bytes()
    path = tmp_path / "cut.gguf"
    rng = random.Random(0)
    for length in sorted({*rng.sample(range(len(whole) - 1), 40), len(whole) // 2, len(whole) - 40, 5, 30}):
        path.write_bytes(whole[:length])
        assert refusal(path).code == "bad_model", length


def test_flipped_bytes_never_escape_as_anything_but_our_errors(tmp_path):
    whole = write_tiny_llama_gguf(tmp_path / "tiny.gguf").path.read_bytes()
    path, dest = tmp_path / "flipped.gguf", tmp_path / "out"
    head = whole.index(b"output_norm.weight") + 64
    rng = random.Random(1)
    refused = 0
    for _ in range(150):
        flipped = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            flipped[rng.randrange(head)] = rng.randrange(256)
        path.write_bytes(flipped)
        try:
            dequantize(path, dest, Silent())
        except MlxctlError:
            refused += 1
        shutil.rmtree(dest, ignore_errors=True)
    assert 20 < refused < 150


def test_a_missing_part_is_named(tmp_path):
    write_tiny_llama_gguf(tmp_path / "tiny.gguf", parts=3)
    (tmp_path / "tiny-00002-of-00003.gguf").unlink()
    error = refusal(tmp_path / "tiny-00001-of-00003.gguf")
    assert error.code == "bad_model" and "tiny-00002-of-00003.gguf" in error.message
    assert "1 of the 3 parts" in error.message


def test_parts_under_other_names_are_not_taken_for_a_whole_model(tmp_path):
    write_tiny_llama_gguf(tmp_path / "tiny.gguf", parts=2)
    renamed = (tmp_path / "tiny-00001-of-00002.gguf").rename(tmp_path / "first.gguf")
    assert "one of 2 parts" in refusal(renamed).message


def test_a_value_too_large_for_float16_is_refused_and_fits_elsewhere(tmp_path):
    large = np.full(HIDDEN, 1e6, np.float32)
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", tensors={"output_norm.weight": large})
    with pytest.raises(NotReady, match=r"model\.norm\.weight is too large for float16") as caught:
        dequantize(model.path, tmp_path / "half", Silent(), dtype="float16")
    assert caught.value.code == "conversion_failed" and "bfloat16" in caught.value.hint
    dequantize(model.path, tmp_path / "brain", Silent(), dtype="bfloat16")
    dequantize(model.path, tmp_path / "single", Silent(), dtype="float32")


def test_the_callers_mistakes_are_usage(tmp_path):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="int4"):
        dequantize(model.path, tmp_path / "out", Silent(), dtype="int4")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        dequantize(model.path, tmp_path / "there", Silent())
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_without_room_is_refused_before_writing(tmp_path, monkeypatch):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(Refused, match="10,000 are free") as caught:
        dequantize(model.path, tmp_path / "out", Silent())
    assert caught.value.code == "disk_full" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "expected", "code"),
    [
        (errno.ENOSPC, Refused, "disk_full"),
        (errno.EDQUOT, Refused, "disk_full"),
        (errno.EIO, NotReady, "conversion_failed"),
    ],
)
def test_a_disk_that_fails_midway_is_told_apart(tmp_path, monkeypatch, number, expected, code):
    ended = []

    class Counting(Silent):
        def task(self, title, total=None, unit=""):
            task = SilentTask()
            task.finish = lambda: ended.append(title)
            return task

    def write(path, *_):
        path.write_bytes(b"half")
        raise OSError(number, "of the disk")

    monkeypatch.setattr(weights, "write_shard", write)
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(expected) as caught:
        dequantize(model.path, tmp_path / "out", Counting())
    assert caught.value.code == code and str(tmp_path / "out") in caught.value.message
    assert ended == ["Dequantising tiny.gguf"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf")
    error = refusal_of_dest(model.path, tmp_path / "no" / "such" / "place")
    assert error.code == "conversion_failed" and "place" in error.message


def refusal_of_dest(path, dest):
    with pytest.raises(NotReady) as caught:
        dequantize(path, dest, Silent())
    return caught.value
