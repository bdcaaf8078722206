"""Parsers by name: every name that somebody may write, and what a template tells."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlxctl.assets import asset
from mlxctl.worker.parsers.harmony import HarmonyParser
from mlxctl.worker.parsers.names import reasoning_tags, template_tool_parser, tool_parser, tool_parser_names
from tests.worker.parsers.reading import TOOLS, Answer, made, no_tokens, read

ASKED = [
    "hermes",
    "qwen",
    "qwen2",
    "qwen3",
    "qwen3_vl",
    "qwen3_moe",
    "qwen3_coder",
    "mistral",
    "devstral",
    "llama",
    "llama3",
    "llama3_json",
    "pythonic",
    "deepseek",
    "deepseek_v3",
    "deepseek_r1",
    "phi4",
    "gemma",
    "gemma3",
    "harmony",
    "gpt_oss",
    "json",
    "generic",
]
OF_MLX_OPENAI_SERVER = [
    "functiongemma",
    "gemma4",
    "glm4_moe",
    "harmony",
    "hermes",
    "iquest_coder_v1",
    "kimi_k2",
    "longcat_flash_lite",
    "minimax_m2",
    "nemotron3_nano",
    "qwen3",
    "qwen3_coder",
    "qwen3_moe",
    "qwen3_vl",
    "solar_open",
    "step_35",
]
REASONING_OF_MLX_OPENAI_SERVER = [
    "gemma4",
    "glm47_flash",
    "glm4_moe",
    "harmony",
    "hermes",
    "kimi_k2",
    "minimax_m2",
    "mixed_think_tool_handoff",
    "nemotron3_nano",
    "qwen3",
    "qwen3_5",
    "qwen3_moe",
    "qwen3_vl",
    "solar_open",
    "step_35",
]


def mlx_lm_names() -> list[str]:
    """The modules of mlx-lm's tool parsers, without importing mlx_lm."""
    found = find_spec("mlx_lm")
    assert found is not None and found.submodule_search_locations is not None
    folder = Path(next(iter(found.submodule_search_locations))) / "tool_parsers"
    return [module.name for module in pkgutil.iter_modules([str(folder)])]


@pytest.mark.parametrize("name", sorted({*ASKED, *OF_MLX_OPENAI_SERVER, *mlx_lm_names()}))
def test_every_name_has_a_parser_that_reads_plain_text(name: str) -> None:
    assert name in tool_parser_names()
    assert read(lambda: made(name), "Hello, world.\n") == Answer("Hello, world.\n")


def test_mlx_lm_has_names_at_all() -> None:
    assert len(mlx_lm_names()) > 10


@pytest.mark.parametrize("name", ["Hermes", "llama3-json", " MISTRAL "])
def test_names_are_taken_as_people_write_them(name: str) -> None:
    assert made(name) is not None


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'klingon'; known: .*hermes, .*mistral"):
        tool_parser("klingon", tools=None, token_id=no_tokens)
    with pytest.raises(ValueError, match=r"'klingon'; known: .*qwen3"):
        reasoning_tags("klingon")


@pytest.mark.parametrize("name", ["harmony", "gpt_oss", "gpt-oss"])
def test_harmony_gets_the_ids_of_its_marks(name: str) -> None:
    asked: list[str] = []
    parser = tool_parser(name, tools=TOOLS, token_id=lambda piece: asked.append(piece))
    assert isinstance(parser, HarmonyParser)
    assert "<|channel|>" in asked


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("qwen3", ("<think>", "</think>")),
        ("deepseek_r1", ("<think>", "</think>")),
        ("think", ("<think>", "</think>")),
        ("mistral", ("[THINK]", "[/THINK]")),
        ("gemma4", ("<|channel>thought", "<channel|>")),
        ("longcat", ("<longcat_think>", "</longcat_think>")),
        ("solar_open", ("<|think|>", "<|end|>")),
        ("harmony", None),
        ("none", None),
    ],
)
def test_reasoning(name: str, tags: tuple[str, str] | None) -> None:
    assert reasoning_tags(name) == tags


@pytest.mark.parametrize("name", REASONING_OF_MLX_OPENAI_SERVER)
def test_every_reasoning_name(name: str) -> None:
    assert (reasoning_tags(name) is None) == (name == "harmony")


TEMPLATES = [
    ("{{ '<|start|>assistant<|channel|>analysis<|message|>' }}", "harmony"),
    ('<tool_call>\n{"name": ...}</tool_call>', "hermes"),
    ("<tool_call>\n<function=example>\n<parameter=x>", "qwen3_coder"),
    ("<tool_call>{{ name }}<arg_key>k</arg_key>", "glm47"),
    ("[AVAILABLE_TOOLS][TOOL_CALLS][INST]", "mistral"),
    ("<｜tool▁calls▁begin｜>", "deepseek"),
    ("<|start_header_id|> {% if tools %}", "llama3"),
    ("<|start_header_id|>user", None),
    ("<|python_start|>[f(a=1)]<|python_end|> <|python_tag|>", "pythonic"),
    ("<|tool_list_start|>", "pythonic"),
    ("<start_of_turn>model {% if tools %}", "gemma"),
    ("<start_of_turn>model", None),
    ("<|tool|>[...]<|/tool|>", "phi4"),
    ("<|tool_call> <tool_call|>", "gemma4"),
    ("<start_function_call> <start_of_turn>", "function_gemma"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("{{ messages }}", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "name"), TEMPLATES)
def test_templates(text: str, name: str | None) -> None:
    assert template_tool_parser(text) == name
    if name is not None:
        assert name in tool_parser_names()


@pytest.mark.parametrize(
    ("template", "name"),
    [("harmony", "harmony"), ("chatml", "hermes"), ("llama3", "llama3"), ("mistral", "mistral"), ("gemma", "gemma")],
)
def test_shipped_templates(template: str, name: str) -> None:
    assert template_tool_parser((asset("templates") / f"{template}.jinja").read_text("utf-8")) == name
