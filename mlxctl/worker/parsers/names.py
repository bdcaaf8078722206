"""Parsers by the names that a registry, a command line or a chat template gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxctl.worker.parsers.base import Parser
from mlxctl.worker.parsers.calls import CallParser, Form, short_call_id
from mlxctl.worker.parsers.gemma_calls import function_gemma, gemma4
from mlxctl.worker.parsers.harmony import HarmonyParser
from mlxctl.worker.parsers.header_json import DeepSeek, KimiK2, Solar
from mlxctl.worker.parsers.pythonic import Pythonic, ToolCode
from mlxctl.worker.parsers.tagged_json import BareJson, FencedJson, Hermes, Mistral, Phi4, PythonTag
from mlxctl.worker.parsers.whole_calls import WholeCalls
from mlxctl.worker.parsers.xml_calls import XmlFunction

Build = Callable[[list[dict[str, Any]] | None], Parser]


def _llama(tools: list[dict[str, Any]] | None) -> Parser:
    return CallParser([PythonTag(), XmlFunction(), BareJson(lines=bool(tools))], tools)


def _mistral(tools: list[dict[str, Any]] | None) -> Parser:
    return CallParser([Mistral()], tools, short_call_id)


def _forms(*forms: Form) -> Build:
    """Forms hold no state, so that all parsers share them."""
    return lambda tools: CallParser(forms, tools)


def _of_mlx_lm(name: str) -> Build:
    def build(tools: list[dict[str, Any]] | None) -> Parser:
        from mlxctl.worker.engine.mlx_tool_parsers import mlx_tool_parser

        begin, end, parse = mlx_tool_parser(name)
        return CallParser([WholeCalls(begin, end, lambda text: parse(text, tools))], tools)

    return build


_TOOL_PARSERS: dict[str, Build] = {
    **dict.fromkeys(
        ("hermes", "qwen", "qwen2", "qwen2_5", "qwen3", "qwen3_vl", "qwen3_moe", "json_tools", "iquest_coder_v1"),
        _forms(Hermes()),
    ),
    **dict.fromkeys(("qwen3_coder", "qwen3_5", "nemotron3_nano", "step_35"), _forms(Hermes(), XmlFunction())),
    **dict.fromkeys(("mistral", "devstral"), _mistral),
    **dict.fromkeys(("llama", "llama3", "llama3_json"), _llama),
    **dict.fromkeys(("pythonic", "llama4_pythonic"), _forms(Pythonic())),
    **dict.fromkeys(("deepseek", "deepseek_v3", "deepseek_v31", "deepseek_r1"), _forms(DeepSeek())),
    **dict.fromkeys(("phi4", "phi4_mini"), _forms(Phi4(), Hermes())),
    **dict.fromkeys(
        ("gemma", "gemma3", "functiongemma", "function_gemma"),
        _forms(ToolCode(), FencedJson(), function_gemma(), BareJson(lines=True)),
    ),
    **dict.fromkeys(("json", "generic"), _forms(Hermes(), ToolCode(), FencedJson(), BareJson(lines=True))),
    "gemma4": _forms(gemma4()),
    "kimi_k2": _forms(KimiK2()),
    "solar_open": _forms(Solar()),
    **dict.fromkeys(("glm47", "glm4_moe", "glm47_flash", "laguna"), _of_mlx_lm("glm47")),
    **dict.fromkeys(("longcat", "longcat_flash_lite"), _of_mlx_lm("longcat")),
    **{name: _of_mlx_lm(name) for name in ("kimi_k3", "minicpm5", "minimax_m2", "muse_spark")},
}
HARMONY_NAMES = ("harmony", "gpt_oss")

_THINK = ("<think>", "</think>")
_REASONING: dict[str, tuple[str, str] | None] = {
    **dict.fromkeys(_TOOL_PARSERS, _THINK),
    **dict.fromkeys(("think", "mixed_think_tool_handoff"), _THINK),
    **dict.fromkeys(("mistral", "devstral", "magistral"), ("[THINK]", "[/THINK]")),
    **dict.fromkeys(("longcat", "longcat_flash_lite"), ("<longcat_think>", "</longcat_think>")),
    "gemma4": ("<|channel>thought", "<channel|>"),
    "solar_open": ("<|think|>", "<|end|>"),
    "kimi_k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    **dict.fromkeys((*HARMONY_NAMES, "none"), None),
}

_TEMPLATE_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|start|>", "<|message|>"), "harmony"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<|tool_call>", "<tool_call|>"), "gemma4"),
    (("<start_function_call>",), "function_gemma"),
    (("<longcat_tool_call>",), "longcat"),
    (("<arg_key>",), "glm47"),
    (("<｜tool▁calls▁begin｜>",), "deepseek"),
    (("<|tool_call:begin|>",), "solar_open"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<|open|>", "<|sep|>"), "kimi_k3"),
    (('<function name="', '<param name="'), "minicpm5"),
    (("<atem:function_calls>",), "muse_spark"),
    (("<tool_call>", "<function="), "qwen3_coder"),
    (("<tool_call>",), "hermes"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|tool_call_start|>",), "pythonic"),
    (("<|tool_list_start|>",), "pythonic"),
    (("<|python_start|>",), "pythonic"),
    (("<|tool_call|>",), "phi4"),
    (("<|tool|>",), "phi4"),
    (("functools[",), "phi4"),
    (("<|python_tag|>",), "llama3"),
    (("<|start_header_id|>", "tools"), "llama3"),
    (("<start_of_turn>", "tools"), "gemma"),
)
"""Words that all stand in a template, and the parser of the calls that it teaches; the first that fits counts."""


def tool_parser(name: str, *, tools: list[dict[str, Any]] | None, token_id: Callable[[str], int | None]) -> Parser:
    """A fresh parser for one choice. `tools` as in OpenAI's requests. Raises `ValueError` for an unknown name."""
    key = _key(name)
    if key in HARMONY_NAMES:
        return HarmonyParser(token_id)
    if key not in _TOOL_PARSERS:
        raise ValueError(f"no tool call parser is called {name!r}; known: {', '.join(tool_parser_names())}")
    return _TOOL_PARSERS[key](tools)


def tool_parser_names() -> list[str]:
    return sorted((*_TOOL_PARSERS, *HARMONY_NAMES))


def reasoning_tags(name: str) -> tuple[str, str] | None:
    """The tags around thoughts, None where there are none to look for. Raises `ValueError` for an unknown name."""
    key = _key(name)
    if key not in _REASONING:
        raise ValueError(f"no reasoning parser is called {name!r}; known: {', '.join(sorted(_REASONING))}")
    return _REASONING[key]


def template_tool_parser(template_text: str) -> str | None:
    """The parser of the calls that a chat template teaches, by marks in it; None when it knows of no tools."""
    return next((name for marks, name in _TEMPLATE_MARKS if all(mark in template_text for mark in marks)), None)


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_")
