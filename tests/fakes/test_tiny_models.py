"""The tiny models are real: mlx-lm and transformers load them, and their greedy answers wander without close calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model
from transformers import AutoTokenizer

from tests.fakes.tiny_models import CONTEXT, TINY_KINDS, WINDOW, TinyKind, tiny_model
from tests.fakes.tiny_tokenizers import FAMILIES

MESSAGES = [
    {"role": "user", "content": "What is in the hold?"},
    {"role": "assistant", "content": "Salt."},
    {"role": "user", "content": "And below?"},
]
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny_model(kind, tmp_path_factory.mktemp(kind)) for kind in TINY_KINDS}


def prompts(vocabulary: int) -> list[list[int]]:
    """Five random ones, from shorter than the window to nearly three times as long."""
    source = np.random.default_rng(5)
    return [source.integers(0, vocabulary, size=length).tolist() for length in (3, 17, 40, 64, 90)]


def greedy(model: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Tokens, and how far each one's logit was above the second."""
    cache = make_prompt_cache(model)
    tokens, gaps, fed = [], [], prompt
    for _ in range(count):
        logits = np.array(model(mx.array([fed]), cache=cache)[0, -1])
        second, first = np.argsort(logits)[-2:]
        tokens.append(int(first))
        gaps.append(float(logits[first] - logits[second]))
        fed = [int(first)]
    return tokens, gaps


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_greedy_answers_wander_and_no_second_candidate_comes_close(folders: dict[str, Path], kind: TinyKind) -> None:
    model, config = load_model(folders[kind])
    answers = []
    for prompt in prompts(config["vocab_size"]):
        tokens, gaps = greedy(model, prompt, 40)
        assert len(set(tokens)) >= 8, tokens
        assert min(gaps) > 2e-3, gaps
        answers.append(tuple(tokens))
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_what_was_said_long_before_decides_what_comes_next(folders: dict[str, Path], kind: TinyKind) -> None:
    model, config = load_model(folders[kind])
    prompt = prompts(config["vocab_size"])[-1]
    other = [(prompt[0] + 1) % config["vocab_size"], *prompt[1:]]
    ends = [np.array(model(mx.array([tokens]))[0, -1]) for tokens in (prompt, other)]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "caches"),
    [
        ("llama", [KVCache] * 3),
        ("gpt_oss", [RotatingKVCache, KVCache] * 2),
        ("gemma3", [RotatingKVCache, KVCache] * 2),
        ("qwen3_next", [ArraysCache, KVCache] * 2),
    ],
)
def test_each_kind_has_the_caches_of_its_family(folders: dict[str, Path], kind: TinyKind, caches: list[type]) -> None:
    model, config = load_model(folders[kind])
    made = make_prompt_cache(model)
    assert [type(cache) for cache in made] == caches
    assert {cache.max_size for cache in made if isinstance(cache, RotatingKVCache)} <= {WINDOW}
    assert config["max_position_embeddings"] == CONTEXT
    assert {array.dtype for array in model.trainable_parameters()["model"]["embed_tokens"].values()} == {mx.float32}


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    folders: dict[str, Path], kind: TinyKind, tmp_path: Path
) -> None:
    for file in folders[kind].iterdir():
        assert file.stat().st_size < 1_200_000
    again, other = tiny_model(kind, tmp_path / "again"), tiny_model(kind, tmp_path / "other", seed=99)
    for file in sorted(folders[kind].iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert (other / "model.safetensors").read_bytes() != (again / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_text_survives_the_tokenizer_and_special_tokens_are_one_token_each(
    folders: dict[str, Path], kind: TinyKind
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    config = json.loads((folders[kind] / "config.json").read_text())
    assert 300 <= config["vocab_size"] == len(tokenizer) <= 512
    for text in ("the thing in the ring", "Grüße, 世界 🎉", ' {"a": [1, "\\n"]}\n'):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    family = FAMILIES[kind]
    for token in (*family.special, *family.added):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token
    ids = [tokenizer.convert_tokens_to_ids(token) for token in family.special]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    added = [tokenizer.convert_tokens_to_ids(token) for token in family.added]
    assert tokenizer.decode(added, skip_special_tokens=True) == "".join(family.added)
    assert tokenizer.eos_token_id in config["eos_token_id"]


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("llama", "And below?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("gpt_oss", "<|start|>user<|message|>And below?<|end|><|start|>assistant"),
        ("gemma3", "<start_of_turn>user\nAnd below?<end_of_turn>\n<start_of_turn>model\n"),
        ("qwen3_next", "<|im_start|>user\nAnd below?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_chat_template_is_the_familys(folders: dict[str, Path], kind: TinyKind, end: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text.endswith(end)
    assert text.index("What is in the hold?") < text.index("Salt.") < text.index("And below?")
    longer = tokenizer.apply_chat_template(MESSAGES, tools=[TOOL], tokenize=False, add_generation_prompt=True)
    assert ("weigh" in longer) == (kind != "gemma3"), "gemma's template knows no tools"
