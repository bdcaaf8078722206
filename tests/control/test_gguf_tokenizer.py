"""The tokenizer written for a GGUF file cuts text exactly as the library that the model was trained with."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer
from mlx_lm.tokenizer_utils import load as load_for_mlx
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mlxctl.control.gguf import dequantize
from mlxctl.control.gguf.source import Source
from mlxctl.control.gguf.tokenizer import build_tokenizer
from mlxctl.control.gguf.vocabulary import read_vocabulary
from mlxctl.core.report import Silent
from tests.fakes.gguf_files import write_tiny_llama_gguf
from tests.fakes.gguf_vocabularies import ODD_TEXTS, byte_level_vocabulary, sentencepiece_vocabulary

BYTE_LEVEL = ("smollm", "gpt-2", "llama-bpe", "qwen2", "tekken")


def folder_of(place, vocabulary, **changes):
    """Convert a tiny model that has this vocabulary."""
    place.mkdir(exist_ok=True)
    model = write_tiny_llama_gguf(place / "tiny.gguf", vocabulary=vocabulary, metadata=changes)
    dequantize(model.path, place / "out", Silent())
    return place / "out"


@pytest.fixture(scope="module", params=BYTE_LEVEL)
def byte_level(request, tmp_path_factory):
    vocabulary = byte_level_vocabulary(request.param)
    folder = folder_of(tmp_path_factory.mktemp(request.param), vocabulary)
    return vocabulary.reference, Tokenizer.from_file(str(folder / "tokenizer.json")), folder


@pytest.fixture(scope="module", params=[True, False], ids=["space_prefix", "no_space_prefix"])
def pieces(request, tmp_path_factory):
    vocabulary = sentencepiece_vocabulary(request.param)
    folder = folder_of(tmp_path_factory.mktemp("pieces"), vocabulary)
    return vocabulary.reference, Tokenizer.from_file(str(folder / "tokenizer.json")), folder


def test_byte_level_ids_are_the_original_models(byte_level):
    reference, ours, _ = byte_level
    for text in ODD_TEXTS:
        assert ours.encode(text).ids == reference.encode(text).ids, text


def test_byte_level_text_survives_the_round_trip(byte_level):
    _, ours, _ = byte_level
    for text in ODD_TEXTS:
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_at_all_gives_the_original_models_ids(text):
    reference, ours = byte_level_vocabulary("smollm").reference, rebuilt()
    assert ours.encode(text).ids == reference.encode(text).ids
    assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


@lru_cache
def rebuilt():
    """Without files, so that hypothesis can ask often."""
    source = Source(Path("tiny.gguf"), byte_level_vocabulary("smollm").metadata, {"some": None})
    return build_tokenizer(source.path, read_vocabulary(source))


def test_transformers_keeps_the_tokenizer_as_it_was_written(byte_level):
    _, ours, folder = byte_level
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in ODD_TEXTS:
        assert loaded.encode(text, add_special_tokens=False) == ours.encode(text, add_special_tokens=False).ids


def test_sentencepiece_ids_are_the_original_models(pieces):
    reference, ours, folder = pieces
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in ODD_TEXTS:
        if "<tool>" in text:
            continue  # after a user token llama.cpp and transformers put the space prefix again, sentencepiece not
        expected = reference.encode(text)
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
        assert loaded.encode(text, add_special_tokens=False) == expected, text
        assert ours.decode(expected) == reference.decode(expected)


def test_sentencepiece_models_begin_with_bos_unless_they_say_otherwise(pieces, tmp_path):
    reference, ours, folder = pieces
    assert ours.encode("hi").ids == [1, *reference.encode("hi")]
    assert AutoTokenizer.from_pretrained(folder).encode("hi") == [1, *reference.encode("hi")]
    told = folder_of(tmp_path, sentencepiece_vocabulary(), **{"tokenizer.ggml.add_bos_token": False})
    assert AutoTokenizer.from_pretrained(told).encode("hi")[0] != 1


@pytest.mark.parametrize(
    ("pre", "changes", "before", "after"),
    [
        ("smollm", {}, [], []),
        ("smollm", {"tokenizer.ggml.add_bos_token": True}, [1], []),
        ("smollm", {"tokenizer.ggml.add_eos_token": True}, [], [2]),
        ("smollm", {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, [1], [2]),
        ("smollm", {"tokenizer.ggml.add_bos_token": None}, [], []),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": None}, [1], []),
        ("tekken", {"tokenizer.ggml.add_bos_token": None}, [1], []),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, [], []),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(tmp_path, pre, changes, before, after):
    vocabulary = byte_level_vocabulary(pre)
    folder = folder_of(tmp_path, vocabulary, **changes)
    expected = [*before, *vocabulary.reference.encode("hi").ids, *after]
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("hi").ids == expected
    assert AutoTokenizer.from_pretrained(folder).encode("hi") == expected


def test_control_tokens_are_special_and_tool_tags_are_not(byte_level):
    _, _, folder = byte_level
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded.encode("<|im_start|>x<tool>y</tool><|im_end|>", add_special_tokens=False)
    assert loaded.decode(ids, skip_special_tokens=True) == "x<tool>y</tool>"
    assert ids[0] == 1 and ids[-1] == 2


def test_a_word_that_is_a_token_stays_whole_only_where_the_model_wants_it(tmp_path):
    for pre, whole in (("llama-bpe", True), ("smollm", False)):
        vocabulary = byte_level_vocabulary(pre)
        tokens = [*vocabulary.metadata["tokenizer.ggml.tokens"], "zqzq"]
        kinds = [*vocabulary.metadata["tokenizer.ggml.token_type"], 1]
        changed = {**vocabulary.metadata, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
        folder = folder_of(tmp_path / pre, dataclasses.replace(vocabulary, metadata=changed))
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("zqzq", add_special_tokens=False).ids
        assert (ids == [len(tokens) - 1]) is whole


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("default", "it's 123456 $x", ["it", "'", "s", "Ġ", "123", "456", "Ġ", "$", "x"]),
        ("deepseek-coder", "it's 12\n x", ["it", "'", "s", "Ġ", "1", "2", "Ċ", "Ġx"]),
        ("smollm", "it's 12", ["it", "'s", "Ġ", "1", "2"]),
        ("llama-bpe", "it'S 1234", ["it", "'S", "Ġ", "123", "4"]),
    ],
)
def test_words_are_cut_as_llama_cpp_cuts_them(tmp_path, pre, text, words):
    folder = folder_of(tmp_path, byte_level_vocabulary(), **{"tokenizer.ggml.pre": pre})
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [word for word, _ in ours.pre_tokenizer.pre_tokenize_str(text)] == words


def test_a_file_that_does_not_name_its_words_is_told_of(tmp_path):
    notes = []
    reporter = Silent()
    reporter.note = notes.append
    model = write_tiny_llama_gguf(tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.pre": None})
    dequantize(model.path, tmp_path / "out", reporter)
    assert len(notes) == 1 and "tiny.gguf" in notes[0]


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, [2, 0]),
        ({"tokenizer.ggml.eos_token_id": 0}, [0, 2]),
        ({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}, [2, 7, 9, 0]),
        ({"tokenizer.ggml.eos_token_id": None}, [0, 2]),
        ({"tokenizer.ggml.token_type": None}, 2),
        ({"tokenizer.ggml.token_type": None, "tokenizer.ggml.eos_token_id": None}, None),
    ],
)
def test_every_token_that_ends_an_answer_is_an_eos(tmp_path, changes, ends):
    folder = folder_of(tmp_path, byte_level_vocabulary(), **changes)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text()).get("eos_token_id") == ends


def test_mlx_lm_streams_with_the_detokenizer_of_the_kind(byte_level, pieces):
    for (_, _, folder), expected in ((byte_level, BPEStreamingDetokenizer), (pieces, SPMStreamingDetokenizer)):
        loaded = load_for_mlx(folder)
        detokenizer = loaded.detokenizer
        assert isinstance(detokenizer, expected)
        for token in loaded.encode("The capital of France", add_special_tokens=False):
            detokenizer.add_token(token)
        detokenizer.finalize()
        assert detokenizer.text == "The capital of France"


def test_the_chat_template_renders(byte_level):
    _, _, folder = byte_level
    loaded = AutoTokenizer.from_pretrained(folder)
    shown = loaded.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_roles_are_named_in_the_tokenizers_config(byte_level, pieces):
    config = json.loads((byte_level[2] / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert config["model_max_length"] == 512 and config["clean_up_tokenization_spaces"] is False
    assert "unk_token" not in config
    roles = json.loads((pieces[2] / "special_tokens_map.json").read_text())
    assert roles == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
