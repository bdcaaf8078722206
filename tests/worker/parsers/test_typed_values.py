"""Values without quotes: what they mean by a schema, and what a Python literal means in JSON."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.typed_values import json_of, literal_json, types_of


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "STRING"}, {"string"}),
        ({"type": "int"}, {"integer"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"anyOf": [{"type": "array"}]}, {"const": True}]}, {"array", "boolean"}),
        ({"enum": ["a", 1, None, 1.5]}, {"string", "integer", "null", "number"}),
        ({}, set()),
        ({"type": 3, "enum": "x", "anyOf": {}}, set()),
        (None, set()),
        ("string", set()),
        ({"type": [None, {}]}, set()),
    ],
)
def test_types(schema: Any, types: set[str]) -> None:
    assert types_of(schema) == types


def test_a_bottomless_schema() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(2000):
        schema = {"anyOf": [schema]}
    assert types_of(schema) == frozenset()


@pytest.mark.parametrize(
    ("text", "types", "written"),
    [
        ("5", {"integer"}, "5"),
        (" 5\n", {"integer"}, "5"),
        ("5.0", {"integer"}, "5"),
        ("5.5", {"integer"}, '"5.5"'),
        ("five", {"integer"}, '"five"'),
        ("05", {"integer"}, '"05"'),
        ("9" * 5000, {"integer"}, "9" * 5000),
        ("1.5e3", {"number"}, "1.5e3"),
        ("5", {"number"}, "5"),
        ("NaN", {"number"}, '"NaN"'),
        ("True", {"boolean"}, "true"),
        ("false", {"boolean"}, "false"),
        ("1", {"boolean"}, "true"),
        ("yes", {"boolean"}, '"yes"'),
        ("null", {"integer"}, "null"),
        ("null", {"string", "null"}, "null"),
        ("None", {"string", "null"}, "null"),
        ("null", {"string"}, '"null"'),
        ("None", {"integer"}, '"None"'),
        ('{"b": [1]}', {"object"}, '{"b": [1]}'),
        ("{'b': (1, None)}", {"object"}, '{"b": [1, null]}'),
        ("[1,", {"array"}, '"[1,"'),
        ("[NaN]", {"array"}, '"[NaN]"'),
        ("[" * 9999, {"array"}, json.dumps("[" * 9999)),
        ('{"b": 1}', set(), '{"b": 1}'),
        ("5", set(), '"5"'),
        ('{"b": 1}', {"string"}, '"{\\"b\\": 1}"'),
        ('{"b": 1}', None, '"{\\"b\\": 1}"'),
        ("5", {"string", "integer"}, "5"),
        (' "é"\n', {"string"}, '" \\"é\\"\\n"'),
    ],
)
def test_json_by_type(text: str, types: set[str] | None, written: str) -> None:
    assert json_of(text, None if types is None else frozenset(types)) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1", "1"),
        (" -1.5 ", "-1.5"),
        ("True", "true"),
        ("true", "true"),
        ("None", "null"),
        ("'it\\'s'", '"it\'s"'),
        ('"a\\x41\\u00e9\\101\\n"', '"aAéA\\n"'),
        ("r'\\d'", '"\\\\d"'),
        ("'\\d'", '"\\\\d"'),
        ("'''a\n'b'''", '"a\\n\'b"'),
        ('""""""', '""'),
        ("''", '""'),
        ("[1, 'a', {'b': None}]", '[1, "a", {"b": null}]'),
        ("[1, true, ]", "[1, true]"),
        ("(1, 2)", "[1, 2]"),
        ("{'a': 1,}", '{"a": 1}'),
        ('{"a": true}', '{"a": true}'),
        ("{1: 2}", '"{1: 2}"'),
        ("today()", '"today()"'),
        ("x + 1", '"x + 1"'),
        ("'open", '"\'open"'),
        ("NaN", '"NaN"'),
        ("'\\ud800'", '"\ufffd"'),
        ("'\\UFFFFFFFF'", '"\ufffd"'),
        ("", '""'),
    ],
)
def test_python_literals(text: str, written: str) -> None:
    assert literal_json(text) == written


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(LITERALS, st.booleans())
def test_what_python_writes_means_the_same(value: Any, as_json: bool) -> None:
    written = json.dumps(value) if as_json else repr(value)
    if not as_json:
        assert ast.literal_eval(written) == value
    assert json.loads(literal_json(written)) == value


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="[]{}()'\"\\,: aN1\n", max_size=20),
    st.sets(st.sampled_from(["string", "object", "null", "integer"])),
)
def test_any_text_becomes_valid_json(text: str, types: set[str]) -> None:
    json.loads(literal_json(text))
    json.loads(json_of(text, frozenset(types)))
