"""The small tokenizer folders are what they say: transformers loads them, and their tokens are of the named build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.tokenizer_folders import BOS, CORPUS, EOS, byte_level_folder, marked_folder


@pytest.mark.parametrize("build", [byte_level_folder, marked_folder])
def test_transformers_loads_it_and_gives_every_text_back(build, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(build(tmp_path, ["<|end|>"], added=["<tool>"]), local_files_only=True)
    assert (loaded.bos_token, loaded.eos_token) == (BOS, EOS)
    assert loaded("x").input_ids[0] == loaded.bos_token_id
    for text in CORPUS:
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
    kinds = {added.content: added.special for added in loaded.added_tokens_decoder.values()}
    assert kinds["<|end|>"] and not kinds["<tool>"]


def test_their_builds_differ_as_those_of_real_models_do(tmp_path: Path) -> None:
    words = byte_level_folder(tmp_path / "bytes") / "tokenizer.json"
    marks = marked_folder(tmp_path / "marks") / "tokenizer.json"
    assert '"ByteLevel"' in words.read_text() and "<0xE6>" not in words.read_text()
    assert '"ByteFallback"' in marks.read_text() and "<0xE6>" in marks.read_text()


def test_further_files_are_written_by_their_stem(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, bos=None, chat_template="{{ 1 }}", generation_config={"eos_token_id": [1]})
    assert (folder / "chat_template.jinja").read_text() == "{{ 1 }}"
    assert (folder / "generation_config.json").read_text() == '{"eos_token_id": [1]}'
    assert "bos_token" not in (folder / "tokenizer_config.json").read_text()
