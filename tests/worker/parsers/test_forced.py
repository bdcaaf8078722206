"""Answers that a grammar held to be one call."""

from __future__ import annotations

import pytest

from mlxctl.worker.parsers.base import ToolCall
from mlxctl.worker.parsers.forced import ForcedCallParser
from tests.worker.parsers.reading import Answer, read


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": "x', "{}", '{"name": "g", "arguments": {}}'])
def test_of_a_named_function_all_is_arguments(text: str) -> None:
    assert read(lambda: ForcedCallParser("f"), text) == Answer("", (("f", text),))


def test_the_name_of_a_named_function_comes_with_the_first_token() -> None:
    parser = ForcedCallParser("f")
    (named, first) = parser.push(0, "{")
    assert isinstance(named, ToolCall) and (named.name, named.index, named.arguments) == ("f", 0, "")
    assert first == ToolCall(0, "{")
    assert list(parser.push(0, "}")) == [ToolCall(0, "}")]
    assert list(parser.finish(None, "")) == []


def test_a_named_function_that_got_no_token_at_all() -> None:
    assert read(lambda: ForcedCallParser("f"), "") == Answer("", (("f", ""),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "f", "arguments": {"a": {"name": "g"}}}', Answer("", (("f", '{"a": {"name": "g"}}'),))),
        (' {"name":"f","arguments":{}}\n', Answer("", (("f", "{}"),))),
        ('{"arguments":{"b":[1,"}"]},"name":"f"}', Answer("", (("f", '{"b":[1,"}"]}'),))),
        ('{"name": "f", "arguments": {"a', Answer("", (("f", '{"a'),))),
        ('{"name": "f"', Answer("", (("f", ""),))),
        ('{"na', Answer('{"na')),
        ('{"name": "\\u0066\\ud83d\\ude00", "arguments": {}}', Answer("", (("f😀", "{}"),))),
        ("I cannot.", Answer("I cannot.")),
    ],
)
def test_of_any_function(text: str, expected: Answer) -> None:
    assert read(lambda: ForcedCallParser(None), text) == expected


def test_of_any_function_the_name_comes_before_the_arguments_and_they_as_they_are_written() -> None:
    parser = ForcedCallParser(None)
    brought = [list(parser.push(0, char)) for char in '{"name":"f","arguments":{"a":1}}']
    assert [place for place, pieces in enumerate(brought) if pieces] == [10, *range(24, 31)]
