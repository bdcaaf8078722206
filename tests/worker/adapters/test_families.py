"""By what a family is known: words of a template, tokens of a vocabulary, the type of a model."""

from __future__ import annotations

import pytest

from mlxctl.worker.adapters.families import (
    FAMILIES,
    GENERIC,
    family_of_model,
    family_of_template,
)
from mlxctl.worker.chat_template import template_names, template_text
from mlxctl.worker.parsers.names import template_tool_parser
from tests.fakes import dialects

TEMPLATES = [
    (dialects.ANY_ROLE, "llama", "chatml"),
    (dialects.ANY_ROLE, "qwen2_5_vl", "qwen"),
    (dialects.ANY_ROLE, "qwen3_moe", "qwen"),
    (dialects.STRICT, "gemma2", "gemma"),
    (dialects.SHORT_IDS, "mistral3", "mistral"),
    (dialects.ONE_CALL, "llama", "llama3"),
    (dialects.TEXT_ARGUMENTS, "qwen2", "deepseek"),
    (dialects.TEXT_ARGUMENTS, "llama", "deepseek"),
    (dialects.FIELD_OF_SYSTEM, "phi3", "phi4_mini"),
    (dialects.PARTS, "idefics3", "generic"),
    ("{{ '<|im_start|>' }}{{ '<|im_sep|>' }}", "phi3", "phi4"),
    ("{{ bos_token + '[INST] ' + '<<SYS>>' }}", "llama", "codellama"),
    ("{{ bos_token + '[INST] ' }}", "mixtral", "mistral"),
    ("{{ '<|start|>' }}{{ '<|channel|>' }}{{ '<|end|>' }}{{ '<|assistant|>' }}", "gpt_oss", "harmony"),
    ("", "gpt_oss", "generic"),
]


@pytest.mark.parametrize(("text", "model_type", "family"), TEMPLATES)
def test_a_template_tells_its_family(text: str, model_type: str, family: str) -> None:
    assert family_of_template(text, model_type).name == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_shipped_template_is_known_as_its_familys(family) -> None:
    model_type = family.types[0] if family.types else "llama"
    assert family_of_template(template_text(family.template), model_type) is family


MODELS = [
    ("llama", {"<|start_header_id|>", "<|eot_id|>"}, "llama3"),
    ("llama", {"<|im_start|>", "<|im_end|>"}, "chatml"),
    ("qwen3", {"<|im_start|>", "<|im_end|>"}, "qwen"),
    ("qwen2", {"<｜User｜>", "<｜Assistant｜>", "<|im_start|>", "<|im_end|>"}, "deepseek"),
    ("llama", {"▁<PRE>", "▁<MID>"}, "codellama"),
    ("llama", set(), "generic"),
    ("phi3", {"<|im_start|>", "<|im_sep|>", "<|im_end|>"}, "phi4"),
    ("phi3", {"<|user|>", "<|assistant|>", "<|end|>"}, "phi4_mini"),
    ("gemma3_text", set(), "gemma"),
    ("mistral", set(), "mistral"),
    ("mixtral", {"[INST]"}, "mistral"),
    ("deepseek_v3", set(), "deepseek"),
    ("gpt_oss", set(), "harmony"),
    ("anything", {"<|start|>", "<|channel|>", "<|message|>", "<|call|>"}, "harmony"),
    ("", set(), "generic"),
]


@pytest.mark.parametrize(("model_type", "tokens", "family"), MODELS)
def test_a_model_without_a_template(model_type: str, tokens: set[str], family: str) -> None:
    assert family_of_model(model_type, tokens.__contains__).name == family


def test_every_family_ships_a_template_and_every_template_has_a_family() -> None:
    assert {one.template for one in (*FAMILIES, GENERIC)} == set(template_names())


@pytest.mark.parametrize(
    ("name", "parser"),
    [
        ("chatml", "hermes"),
        ("codellama", "hermes"),
        ("deepseek", "deepseek"),
        ("generic", "hermes"),
        ("mistral", "mistral"),
        ("phi4", "hermes"),
        ("phi4_mini", "phi4"),
        ("qwen", "hermes"),
        ("llama3", "llama3"),
        ("gemma", "gemma"),
        ("harmony", "harmony"),
    ],
)
def test_the_calls_that_a_shipped_template_teaches(name: str, parser: str) -> None:
    assert template_tool_parser(template_text(name)) == parser
