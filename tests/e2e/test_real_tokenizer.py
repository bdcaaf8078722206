"""The tokenizer of a real model, as it comes out of its GGUF file, read by the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxctl.worker.tokenizer import Tokenizer
from tests.e2e.conftest import REPO
from tests.fakes.gguf_vocabularies import ODD_TEXTS

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tokenizer(hub_root: Path) -> Tokenizer:
    return Tokenizer.load(hub_root / REPO)


def test_what_ends_its_turns(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.eos_ids) == (49152, {0, 2})
    assert [tokenizer.token_id(piece) for piece in ("<|endoftext|>", "<|im_end|>", "Hello")] == [0, 2, None]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, special=True)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.piece_bytes(token) for token in ids) == text.encode()
