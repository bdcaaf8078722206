from __future__ import annotations

import pytest

from tests.fakes.json_tokenizer import END, OTHER_END, SPECIAL, TURN, small_tokenizer


@pytest.mark.parametrize("text", ['{"name": "Ann 1"}', '{\n  "age": 3\n}', "ü€😀\x00\n", "", "   "])
def test_text_comes_back(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokens_straddle_the_parts_of_json():
    tokenizer = small_tokenizer()
    tokens = {tokenizer.decode([token]) for token in range(3, tokenizer.get_vocab_size())}
    assert any('":' in token for token in tokens)
    assert any(token.isspace() and len(token) > 2 for token in tokens)


def test_special_tokens_stand_first():
    assert [small_tokenizer().token_to_id(name) for name in SPECIAL] == [END, OTHER_END, TURN]
