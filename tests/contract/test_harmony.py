"""The harmony template of gpt-oss: its system message, tools as TypeScript, channels, and who answers a call."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError

from tests.contract.prompts import BUS, PLAIN, RESULT, called, render, said


@pytest.mark.parametrize(
    ("effort", "shown"),
    [("low", "low"), ("medium", "medium"), ("high", "high"), ("minimal", "low"), (None, "medium"), ("", "medium")],
)
def test_reasoning_effort(effort: str | None, shown: str) -> None:
    given = {} if effort is None else {"reasoning_effort": effort}
    told = render("harmony", PLAIN, **given)
    assert f"\n\nReasoning: {shown}\n\n" in told
    assert told.count("Reasoning:") == 1


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"current_date": "2030-01-01"}, "\nCurrent date: 2030-01-01\n"),
        ({"current_date": "", "strftime_now": lambda form: f"clock {form}"}, "\nCurrent date: clock %Y-%m-%d\n"),
        ({"knowledge_cutoff": "2025-01"}, "\nKnowledge cutoff: 2025-01\n"),
        ({"model_identity": "You are a parrot."}, "<|message|>You are a parrot.\n"),
    ],
)
def test_harmony_names_in_its_system_message(given: dict[str, Any], shown: str) -> None:
    assert shown in render("harmony", PLAIN, **given)


def test_harmony_without_any_date_has_no_line_for_it() -> None:
    assert "Current date" not in render("harmony", PLAIN, current_date="")


SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({"type": "string"}, "x?: string,"),
    ({"type": "integer"}, "x?: number,"),
    ({"type": "boolean", "default": False}, "x?: boolean, // default: false"),
    ({"type": "string", "default": "a"}, 'x?: string, // default: "a"'),
    ({"type": "string", "enum": ["a", "b"], "default": "a"}, 'x?: "a" | "b", // default: a'),
    ({"enum": [1, 2]}, "x?: 1 | 2,"),
    ({"type": "array", "items": {"type": "string"}}, "x?: string[],"),
    ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, 'x?: ("a" | "b")[],'),
    ({"type": "array"}, "x?: any[],"),
    ({"type": ["number", "null"]}, "x?: number | null,"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, "x?: string | null, // default: null"),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "x?: string | number,"),
    ({"type": "string", "nullable": True}, "x?: string | null,"),
    ({"type": "object"}, "x?: object,"),
    ({"type": "object", "properties": {"y": {"type": "number"}}, "required": ["y"]}, "x?: {\n    y: number,\n    },"),
    ({"description": "one\ntwo"}, "// one\n// two\nx?: any,"),
    ({}, "x?: any,"),
]


@pytest.mark.parametrize(("schema", "shown"), SCHEMAS)
def test_harmony_writes_json_schema_as_typescript(schema: dict[str, Any], shown: str) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}
    assert f"type f = (_: {{\n{shown}\n}}) => any;\n\n" in render("harmony", PLAIN, [tool])


def test_harmony_function_without_arguments() -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    assert "{\n\ntype now = () => any;\n\n}" in render("harmony", PLAIN, [tool])


def test_harmony_property_names_that_are_words_of_python_dicts() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"items": {"type": "string"}, "keys": {}}}}
    assert "(_: {\nitems?: string,\nkeys?: any,\n})" in render("harmony", PLAIN, [tool])


def test_harmony_keeps_thoughts_inside_a_round_of_calls_and_drops_those_of_answered_turns() -> None:
    answered = [*RESULT, said("assistant", "At 10:15.", reasoning_content="Told."), said("user", "And then?")]
    second = said(
        "assistant", "Looking.", reasoning_content="Again.", tool_calls=[called({"stop": "Oak"}, "call00002")]
    )
    told = render("harmony", [*answered, second, said("tool", "none", tool_call_id="call00002")], [BUS])
    assert "Look it up." not in told and "Told." not in told
    assert told.endswith(
        "<|start|>assistant<|channel|>final<|message|>At 10:15.<|end|><|start|>user<|message|>And then?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Again.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Looking.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.next_bus <|constrain|>json<|message|>"
        '{"stop": "Oak"}<|call|>'
        "<|start|>functions.next_bus to=assistant<|channel|>commentary<|message|>none<|end|><|start|>assistant"
    )


@pytest.mark.parametrize(
    ("result", "author"),
    [
        (said("tool", "r", tool_call_id="b"), "second"),
        (said("tool", "r", tool_call_id="a"), "first"),
        (said("tool", "r", name="named"), "named"),
        (said("tool", "r"), "second"),
    ],
)
def test_harmony_names_the_function_that_a_result_comes_from(result: dict[str, Any], author: str) -> None:
    calls = [
        {"id": key, "function": {"name": name, "arguments": {}}} for key, name in (("a", "first"), ("b", "second"))
    ]
    told = render("harmony", [*PLAIN, said("assistant", "", tool_calls=calls), result])
    assert told.count("<|call|>") == 2
    assert f"<|start|>functions.{author} to=assistant<|channel|>commentary<|message|>r<|end|>" in told


def test_harmony_refuses_a_result_without_a_call() -> None:
    with pytest.raises(TemplateError, match="answers no tool call"):
        render("harmony", [*PLAIN, said("tool", "r")])
