"""Any text at all, through every parser: no exception, the same in any division, nothing lost, nothing twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.base import Parser
from mlxctl.worker.parsers.reasoning import ThinkParser
from tests.worker.parsers.reading import TOOLS, Answer, answer_of, cut, made, pieces_of

FORMATS = {
    "hermes": ["<tool_call>", "</tool_call>", "<function=f>"],
    "qwen3_coder": ["<tool_call>", "<function=", "f>", "<parameter=a>", "</parameter>", "</function>", "</tool_call>"],
    "mistral": ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "f"],
    "llama3": ["<|python_tag|>", ";", ".call", '{"name": "f", "parameters": '],
    "pythonic": ["<|python_start|>", "<|python_end|>", "[", "f(", "a=", ")", "]", "'", '"""'],
    "deepseek": [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function",
        "<｜tool▁sep｜>",
        "```json",
        "```",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ],
    "phi4": ["<|tool_call|>", "<|/tool_call|>", "functools["],
    "gemma": [
        "```tool_code",
        "```json",
        "```",
        "print(",
        "f(",
        "a=1",
        ")",
        "<start_function_call>",
        "call:f",
        "<escape>",
    ],
    "gemma4": ["<|tool_call>", "<tool_call|>", "call:f{", '<|"|>', "a:"],
    "kimi_k2": ["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "f:0", "<|tool_call_argument_begin|>"],
    "solar_open": ["<|tool_call:begin|>", "<|tool_call:name|>", "f", "<|tool_call:args|>", "<|tool_call:end|>"],
    "generic": ["<tool_call>", "</tool_call>", "```json", "```", '{"name": "f", "arguments": '],
    "glm47": ["<tool_call>", "</tool_call>", "f", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
}
JSON_PARTS = [
    '{"name": ',
    '"f"',
    ', "arguments": ',
    "{",
    "}",
    "[",
    "]",
    '"a"',
    ": ",
    "1",
    ",",
    '"',
    "\\",
    "\\u00",
    "null",
]
PLAIN_PARTS = [" ", "\n", "é", "<", "`", "word "]


def soup(parts: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([*parts, *JSON_PARTS, *PLAIN_PARTS]) | st.text(max_size=3), max_size=16).map(
        "".join
    )


def answers(make: str, text: str, data: st.DataObject) -> Answer:
    """Whole, by character and at drawn places."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    found = [answer_of(pieces_of(made(make), parts)) for parts in ([text], list(text), cut(text, places))]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_row_of_the_format_s_own_marks(name: str, data: st.DataObject) -> None:
    text = data.draw(soup(FORMATS[name]))
    found = answers(name, text, data)
    if not found.calls:
        assert found.content == text


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.text(), st.data())
def test_any_unicode(name: str, text: str, data: st.DataObject) -> None:
    found = answers(name, text, data)
    assert found == Answer(text)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_word_comes_out_twice_or_changed(name: str, data: st.DataObject) -> None:
    """Each word of the soup is another one, so that any copy shows."""
    parts = data.draw(st.lists(st.sampled_from([*FORMATS[name], *JSON_PARTS, *PLAIN_PARTS]), max_size=12))
    text = "".join(f"{part}w{place}." for place, part in enumerate(parts))
    found = answers(name, text, data)
    out = found.content + "".join(name + arguments for name, arguments in found.calls)
    words = re.findall(r"w\d+\.", out)
    assert len(words) == len(set(words))
    assert set(words) <= set(re.findall(r"w\d+\.", text))


@settings(max_examples=80, deadline=None)
@given(soup(["<think>", "</think>", "<tool_call>", "</tool_call>"]), st.booleans(), st.data())
def test_thoughts_before_calls(text: str, starts_inside: bool, data: st.DataObject) -> None:
    def make() -> Parser:
        return ThinkParser(made("hermes"), starts_inside=starts_inside)

    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    whole = answer_of(pieces_of(make(), [text]))
    assert answer_of(pieces_of(make(), list(text))) == whole
    assert answer_of(pieces_of(make(), cut(text, places))) == whole


def test_the_tools_of_these_tests_have_the_names_that_the_soup_speaks_of() -> None:
    """Else the properties would be true of nothing."""
    assert TOOLS[0]["function"]["name"] == "f"
    assert made("llama3") is not None
    found = answer_of(pieces_of(made("llama3"), ['{"name": "f", "parameters": {"a"', ": 1}}"]))
    assert found.calls == (("f", '{"a": 1}'),)
