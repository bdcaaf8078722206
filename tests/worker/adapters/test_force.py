"""A call that must come: its opening in each family, and a schema that holds exactly the calls that are allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxctl.worker.adapters.force import force_call
from mlxctl.worker.errors import InvalidRequest
from tests.contract.prompts import BUS

TREE = {
    "type": "function",
    "function": {
        "name": "plant",
        "parameters": {
            "type": "object",
            "properties": {
                "tree": {"$ref": "#/$defs/node"},
                "itself": {"$ref": "#"},
                "far": {"$ref": "https://example.org/schema"},
                "$ref": {"type": "string"},
            },
            "$defs": {"node": {"type": "array", "items": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        },
    },
}
BARE = {"type": "function", "function": {"name": "now"}}

NAMED = [
    ("hermes", '<tool_call>\n{"name": "next_bus", "arguments": '),
    ("qwen", '<tool_call>\n{"name": "next_bus", "arguments": '),
    ("qwen3", '<tool_call>\n{"name": "next_bus", "arguments": '),
    ("qwen3_coder", '<tool_call>\n{"name": "next_bus", "arguments": '),
    ("llama3", '{"name": "next_bus", "parameters": '),
    ("llama3_json", '{"name": "next_bus", "parameters": '),
    ("gemma", '{"name": "next_bus", "parameters": '),
    ("mistral", '[TOOL_CALLS][{"name": "next_bus", "arguments": '),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>next_bus\n```json\n"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>next_bus\n```json\n"),
    ("phi4", '<|tool_call|>[{"name": "next_bus", "arguments": '),
    ("harmony", "<|channel|>commentary to=functions.next_bus <|constrain|>json<|message|>"),
    ("pythonic", '{"name": "next_bus", "arguments": '),
    ("json", '{"name": "next_bus", "arguments": '),
    ("", '{"name": "next_bus", "arguments": '),
]


@pytest.mark.parametrize(("parser", "opening"), NAMED)
def test_a_named_call_begins_as_its_family_writes_it(parser: str, opening: str) -> None:
    forced = force_call([BARE, BUS], "next_bus", parser)
    assert forced.opening == opening
    assert forced.name == "next_bus"
    assert forced.schema == BUS["function"]["parameters"]


@pytest.mark.parametrize(("parser", "named"), NAMED)
def test_any_call_begins_with_no_name(parser: str, named: str) -> None:
    forced = force_call([BARE, BUS], None, parser)
    assert "next_bus" not in forced.opening
    assert forced.name is None
    if parser != "harmony":
        assert named.startswith(forced.opening)


@pytest.mark.parametrize(
    ("tools", "name", "words"),
    [
        ([BUS], "previous_bus", "'previous_bus', which is not in tools"),
        ([], "x", "'x'"),
        ([], None, "there are no tools"),
    ],
)
def test_a_call_that_nobody_can_make(tools: list[Any], name: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest, match="tool_choice") as caught:
        force_call(tools, name, "hermes")
    assert words in caught.value.message
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("parser", "text", "opening"),
    [
        ("mistral", "[TOOL_CALLS]...[ARGS]", "[TOOL_CALLS]next_bus[ARGS]"),
        ("devstral", "[TOOL_CALLS]...[ARGS]", "[TOOL_CALLS]next_bus[ARGS]"),
        ("mistral", "[TOOL_CALLS]", '[TOOL_CALLS][{"name": "next_bus", "arguments": '),
        ("deepseek_v3", "v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>next_bus<｜tool▁sep｜>"),
        ("deepseek", "```json", dict(NAMED)["deepseek"]),
        ("hermes", "[ARGS]", dict(NAMED)["hermes"]),
    ],
)
def test_later_models_of_a_family_begin_a_call_as_their_template_does(parser: str, text: str, opening: str) -> None:
    assert force_call([BUS], "next_bus", parser, text).opening == opening


def test_a_function_without_parameters_takes_an_object() -> None:
    assert force_call([BARE], "now", "hermes").schema == {"type": "object"}
    null = {"type": "function", "function": {"name": "now", "parameters": None}}
    assert force_call([null], "now", "hermes").schema == {"type": "object"}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a grammar made of `schema` lets the JSON of `value` through."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    assert not matcher.is_error(), matcher.get_error()
    text = list(json.dumps(value).encode())
    return matcher.try_consume_tokens(text) == len(text) and matcher.is_accepting()


CALLS: list[tuple[Any, bool]] = [
    ({"name": "next_bus", "arguments": {"stop": "Elm"}}, True),
    ({"name": "next_bus", "arguments": {"stop": "Elm", "line": 7}}, True),
    ({"name": "now", "arguments": {}}, True),
    ({"name": "plant", "arguments": {"tree": [[[], None], None]}}, True),
    ({"name": "plant", "arguments": {"itself": {"tree": []}}}, True),
    ({"name": "plant", "arguments": {"$ref": "text"}}, True),
    ({"name": "next_bus", "arguments": {}}, False),
    ({"name": "next_bus", "arguments": {"stop": 5}}, False),
    ({"name": "plant", "arguments": {"tree": [5]}}, False),
    ({"name": "plant", "arguments": {"itself": {"tree": 5}}}, False),
    ({"name": "later", "arguments": {}}, False),
    ({"name": "now"}, False),
    ({"name": "now", "arguments": {}, "more": 1}, False),
    ({"arguments": {}}, False),
    ([], False),
]


def without_far(tool: dict[str, Any]) -> dict[str, Any]:
    """The grammar compiler fetches nothing, so it refuses a reference to elsewhere."""
    function = tool["function"]
    properties = {key: one for key, one in function["parameters"]["properties"].items() if key != "far"}
    return {"function": {**function, "parameters": {**function["parameters"], "properties": properties}}}


@pytest.mark.parametrize(("call", "allowed"), CALLS, ids=[json.dumps(call) for call, _ in CALLS])
def test_the_schema_of_any_call(call: Any, allowed: bool) -> None:
    assert accepts(force_call([BUS, BARE, without_far(TREE)], None, "hermes").schema, call) == allowed


@pytest.mark.parametrize(("call", "allowed"), [one for one in CALLS if "plant" in json.dumps(one[0])])
def test_the_schema_of_the_only_call(call: Any, allowed: bool) -> None:
    assert accepts(force_call([without_far(TREE)], None, "hermes").schema, call) == allowed


def test_references_move_with_their_schema_and_those_to_elsewhere_stay() -> None:
    schema = force_call([BARE, TREE], None, "hermes").schema
    moved = schema["$defs"]["arguments_1"]["properties"]
    assert moved["tree"] == {"$ref": "#/$defs/arguments_1/$defs/node"}
    assert moved["itself"] == {"$ref": "#/$defs/arguments_1"}
    assert moved["far"] == {"$ref": "https://example.org/schema"}
    assert moved["$ref"] == {"type": "string"}
    assert TREE["function"]["parameters"]["properties"]["tree"] == {"$ref": "#/$defs/node"}
