"""Calls that somebody else's function parses: mlx-lm's own, and functions that misbehave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxctl.worker.engine.mlx_tool_parsers import mlx_tool_parser
from mlxctl.worker.parsers.calls import CallParser
from mlxctl.worker.parsers.whole_calls import WholeCalls
from tests.worker.parsers.reading import TOOLS, Answer, made, read

OF_MLX_LM = [
    ("glm47", "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"),
    ("laguna", "<tool_call>f<arg_key>n</arg_key><arg_value>3</arg_value></tool_call>"),
    (
        "longcat",
        "<longcat_tool_call>f<longcat_arg_key>n</longcat_arg_key><longcat_arg_value>3</longcat_arg_value>"
        "</longcat_tool_call>",
    ),
    (
        "minimax_m2",
        '<minimax:tool_call><invoke name="f"><parameter name="n">3</parameter></invoke></minimax:tool_call>',
    ),
    ("minicpm5", '<function name="f"><param name="n">3</param></function>'),
    (
        "kimi_k3",
        '<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>argument key="n" type="number"<|sep|>3'
        "<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    ),
    (
        "muse_spark",
        '<atem:function_calls><atem:invoke name="f"><atem:parameter name="n">3</atem:parameter></atem:invoke>'
        "</atem:function_calls>",
    ),
]


@pytest.mark.parametrize(("name", "text"), OF_MLX_LM)
def test_mlx_lm_s_formats(name: str, text: str) -> None:
    assert read(lambda: made(name), f"So.\n{text}\n") == Answer("So.\n", (("f", '{"n": 3}'),))


def test_a_parser_that_this_mlx_lm_does_not_have() -> None:
    with pytest.raises(ValueError, match="klingon"):
        mlx_tool_parser("klingon")


def test_what_mlx_lm_gives() -> None:
    begin, end, parse = mlx_tool_parser("json_tools")
    assert (begin, end) == ("<tool_call>", "</tool_call>")
    assert parse('{"name": "f", "arguments": {}}', None) == {"name": "f", "arguments": {}}


def whole(parse: Any, end: str = "</c>") -> CallParser:
    return CallParser([WholeCalls("<c>", end, parse)], TOOLS)


GIVEN = [
    ({"name": "f", "arguments": {"a": "é"}}, (("f", '{"a": "é"}'),)),
    ({"name": "f", "arguments": '{"a": 1}'}, (("f", '{"a": 1}'),)),
    ({"name": "f"}, (("f", "{}"),)),
    ({"name": "f", "arguments": None}, (("f", "{}"),)),
    ({"name": "f", "arguments": ""}, (("f", "{}"),)),
    ([{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}], (("f", "{}"), ("g", "{}"))),
]


@pytest.mark.parametrize(("given", "calls"), GIVEN)
def test_what_a_function_may_give(given: Any, calls: Any) -> None:
    assert read(lambda: whole(lambda text: given), "a<c>body</c>b") == Answer("ab", calls)


@pytest.mark.parametrize(
    "given", [None, 3, "f", {}, {"name": 3}, {"name": ""}, [{"name": "f"}, None], {"name": "f", "arguments": {1, 2}}]
)
def test_what_is_no_call_leaves_the_text(given: Any) -> None:
    assert read(lambda: whole(lambda text: given), "a<c>body</c>b") == Answer("a<c>body</c>b")


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, IndexError, AttributeError, TypeError, SyntaxError, RecursionError]
)
def test_a_function_that_fails_leaves_the_text(error: type[Exception]) -> None:
    def parse(text: str) -> Any:
        raise error(text)

    assert read(lambda: whole(parse), "a<c>body</c>b") == Answer("a<c>body</c>b")


def test_without_an_end_tag_all_the_rest_is_the_call() -> None:
    found = read(lambda: whole(lambda text: {"name": "f", "arguments": {"a": text}}, end=""), "a<c>b</c>")
    assert found == Answer("a", (("f", json.dumps({"a": "b</c>"})),))


def test_ids_of_the_function_are_kept() -> None:
    parser = whole(lambda text: {"id": "functions.f:7", "name": "f"})
    pieces = [*parser.push(0, "<c></c>"), *parser.finish(None, "")]
    assert [getattr(piece, "call_id", None) for piece in pieces] == ["functions.f:7", None]


def test_a_call_that_is_cut_short_is_tried_all_the_same() -> None:
    assert read(lambda: whole(json.loads), '<c>{"name": "f"}') == Answer("", (("f", "{}"),))
    assert read(lambda: whole(json.loads), '<c>{"name": "f') == Answer('<c>{"name": "f')
