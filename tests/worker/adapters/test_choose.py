"""Choosing an adapter from a folder: family, template, what ends a turn, the parsers, what the registry overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxctl.worker.adapters.choose import choose_adapter
from mlxctl.worker.chat_template import template_text
from mlxctl.worker.tokenizer import Tokenizer
from tests.fakes import dialects
from tests.fakes.tokenizer_folders import byte_level_folder, marked_folder

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
HARMONY = tuple(f"<|{word}|>" for word in ("start", "channel", "message", "constrain", "end", "return", "call"))
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
QWEN3_CODER = dialects.ANY_ROLE + "{{ tools | tojson }}{# <tool_call>\n<function= #}"
QWEN3 = template_text("qwen")

MODELS: list[tuple[str, tuple[str, ...], str | None, str, str, set[str], str, Any]] = [
    ("smollm2", CHATML, dialects.ANY_ROLE, "llama", "chatml", {"<|im_end|>", "<|endoftext|>"}, "hermes", None),
    ("qwen3", (*CHATML, *THINK), QWEN3, "qwen3", "qwen", {"<|im_end|>", "<|endoftext|>"}, "hermes", THINK),
    ("qwen3-coder", CHATML, QWEN3_CODER, "qwen3_moe", "qwen", {"<|im_end|>", "<|endoftext|>"}, "qwen3_coder", None),
    ("qwen2-vl without a template", CHATML, None, "qwen2_vl", "qwen", {"<|im_end|>", "<|endoftext|>"}, "hermes", THINK),
    ("llama 3.1", LLAMA, dialects.ONE_CALL, "llama", "llama3", set(LLAMA[3:]), "llama3", None),
    ("llama 3 without a template", LLAMA, None, "llama", "llama3", set(LLAMA[3:]), "llama3", None),
    ("codellama", ("▁<PRE>", "▁<MID>"), None, "llama", "codellama", set(), "hermes", None),
    ("devstral", ("[INST]", "[/INST]"), dialects.SHORT_IDS, "mistral", "mistral", set(), "mistral", None),
    (
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        dialects.STRICT,
        "gemma2",
        "gemma",
        {"<end_of_turn>"},
        "hermes",
        None,
    ),
    ("gemma without a template", ("<end_of_turn>",), None, "gemma3", "gemma", {"<end_of_turn>"}, "gemma", None),
    (
        "phi-4-mini",
        ("<|end|>", "<|endoftext|>"),
        dialects.FIELD_OF_SYSTEM,
        "phi3",
        "phi4_mini",
        {"<|end|>", "<|endoftext|>"},
        "phi4",
        None,
    ),
    (
        "deepseek r1 distilled",
        (*DEEPSEEK, *THINK),
        dialects.TEXT_ARGUMENTS,
        "llama",
        "deepseek",
        {DEEPSEEK[1]},
        "deepseek",
        THINK,
    ),
    ("deepseek without a template", DEEPSEEK, None, "deepseek_v3", "deepseek", {DEEPSEEK[1]}, "deepseek", THINK),
    ("gpt-oss", HARMONY, None, "gpt_oss", "harmony", {"<|return|>", "<|call|>"}, "harmony", None),
    ("anything", (), None, "gpt2", "generic", set(), "hermes", None),
]


def chosen(folder: Path, special: tuple[str, ...], text: str | None, model_type: str, **given: Any) -> Any:
    files = {"chat_template": text} if text else {}
    tokenizer = Tokenizer.load(byte_level_folder(folder, special, **files))
    return choose_adapter(tokenizer, {"model_type": model_type}, **given)


@pytest.mark.parametrize(
    ("special", "text", "model_type", "family", "ends", "tools", "reasoning"),
    [one[1:] for one in MODELS],
    ids=[one[0] for one in MODELS],
)
def test_a_model(
    special: tuple[str, ...],
    text: str | None,
    model_type: str,
    family: str,
    ends: set[str],
    tools: str,
    reasoning: Any,
    tmp_path: Path,
) -> None:
    adapter = chosen(tmp_path, special, text, model_type)
    assert (adapter.name, adapter.tool_parser, adapter.reasoning) == (family, tools, reasoning)
    assert {adapter.tokenizer.piece(token) for token in adapter.stop_tokens} == ends | {"</s>"}
    assert adapter.plain is adapter.with_tools
    if text:
        assert adapter.plain.template.text == text


def test_the_end_of_a_message_of_harmony_is_not_the_end_of_a_turn(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, HARMONY, generation_config={"eos_token_id": list(range(9))})
    tokenizer = Tokenizer.load(folder)
    adapter = choose_adapter(tokenizer, {"model_type": "gpt_oss"})
    assert tokenizer.token_id("<|end|>") in tokenizer.eos_ids
    assert tokenizer.token_id("<|end|>") not in adapter.stop_tokens
    assert {tokenizer.token_id("<|return|>"), tokenizer.token_id("<|call|>")} < adapter.stop_tokens


def test_a_folder_with_a_template_for_tools(tmp_path: Path) -> None:
    both = [{"name": "default", "template": dialects.ANY_ROLE}, {"name": "tool_use", "template": dialects.ONE_CALL}]
    folder = byte_level_folder(tmp_path, CHATML, tokenizer_config={"chat_template": both})
    adapter = choose_adapter(Tokenizer.load(folder), {"model_type": "llama"})
    assert adapter.plain.template.text == dialects.ANY_ROLE
    assert adapter.with_tools.template.text == dialects.ONE_CALL
    assert adapter.plain.takes != adapter.with_tools.takes


@pytest.mark.parametrize("names", [["rag"], ["tool_use"]])
def test_a_folder_whose_templates_have_no_default(names: list[str], tmp_path: Path) -> None:
    listed = [{"name": name, "template": "x"} for name in names]
    folder = byte_level_folder(tmp_path, CHATML, tokenizer_config={"chat_template": listed})
    adapter = choose_adapter(Tokenizer.load(folder), {"model_type": "qwen2"})
    assert adapter.plain.template.text == template_text("qwen")


@pytest.mark.parametrize(
    ("named", "family", "text"),
    [
        ("llama3", "llama3", template_text("llama3")),
        ("generic", "generic", template_text("generic")),
        ("mine.jinja", "gemma", dialects.STRICT),
        (dialects.ONE_CALL, "llama3", dialects.ONE_CALL),
    ],
)
def test_a_named_template_comes_before_the_models_own(named: str, family: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(dialects.STRICT, encoding="utf-8")
    adapter = chosen(tmp_path, CHATML, dialects.ANY_ROLE, "llama", chat_template=named)
    assert (adapter.name, adapter.plain.template.text) == (family, text)


@pytest.mark.parametrize(
    ("given", "tools", "reasoning"),
    [
        ({"tool_call_parser": "mistral"}, "mistral", THINK),
        ({"tool_call_parser": "none"}, "", THINK),
        ({"reasoning_parser": "none"}, "hermes", None),
        ({"reasoning_parser": "deepseek_r1"}, "hermes", THINK),
        ({"reasoning_parser": "harmony"}, "hermes", None),
        ({"tool_call_parser": "", "reasoning_parser": ""}, "hermes", THINK),
    ],
)
def test_parsers_that_the_registry_names(given: dict[str, str], tools: str, reasoning: Any, tmp_path: Path) -> None:
    adapter = chosen(tmp_path, (*CHATML, *THINK), QWEN3, "qwen3", **given)
    assert (adapter.tool_parser, adapter.reasoning) == (tools, reasoning)


@pytest.mark.parametrize("given", [{}, {"tool_call_parser": "harmony", "reasoning_parser": "harmony"}])
@pytest.mark.parametrize("off", [{}, {"tool_call_parser": "none"}])
def test_harmony_is_always_parsed(given: dict[str, str], off: dict[str, str], tmp_path: Path) -> None:
    adapter = chosen(tmp_path, HARMONY, None, "gpt_oss", **given, **({} if given else off))
    assert (adapter.tool_parser, adapter.reasoning) == ("harmony", None)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"chat_template": "nowhere.jinja"}, "neither a file nor one of"),
        ({"chat_template": "{% if %}"}, "does not parse: line 1"),
        ({"tool_call_parser": "nonesuch"}, "hermes"),
        ({"reasoning_parser": "nonesuch"}, "think"),
    ],
)
def test_what_does_not_exist_is_said_at_once(given: dict[str, str], word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        chosen(tmp_path, CHATML, dialects.ANY_ROLE, "llama", **given)


def test_a_magistral_thinks_in_brackets(tmp_path: Path) -> None:
    text = dialects.SHORT_IDS + "{# [THINK] [/THINK] #}"
    adapter = chosen(tmp_path, ("[INST]", "[/INST]", "[THINK]", "[/THINK]"), text, "mistral")
    assert adapter.reasoning == ("[THINK]", "[/THINK]")


def test_a_config_without_a_type(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(marked_folder(tmp_path))
    assert choose_adapter(tokenizer, {}).name == choose_adapter(tokenizer, {"model_type": None}).name == "generic"
