"""Where a JSON value ends, in any division, and which characters no JSON has."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.json_scan import JsonScanner
from tests.worker.parsers.reading import cut


def scanned(parts: list[str]) -> tuple[str, JsonScanner]:
    """What belongs to the value."""
    scanner, taken = JsonScanner(), ""
    for part in parts:
        end = scanner.scan(part)
        taken += part[:end]
        if end < len(part):
            break
    return taken, scanner


ENDS = [
    ('{"a": 1} x', '{"a": 1}'),
    ("{}{}", "{}"),
    (' \n[1, [2, {"b": []}]], 3', ' \n[1, [2, {"b": []}]]'),
    ('{"a": "}"}}', '{"a": "}"}'),
    ('{"a": "\\"}"}"', '{"a": "\\"}"}'),
    ('{"a": "\\\\"}"', '{"a": "\\\\"}'),
    ('["\\u0022]"]]', '["\\u0022]"]'),
    ('"a\\"b"c', '"a\\"b"'),
    ("12, 3", "12"),
    ("-1.5e+3}", "-1.5e+3"),
    ("true]", "true"),
    ("null ", "null"),
]


@pytest.mark.parametrize(("text", "value"), ENDS)
def test_the_end_of_a_value(text: str, value: str) -> None:
    for parts in ([text], list(text), [text[:3], text[3:]]):
        taken, scanner = scanned(parts)
        assert taken == value
        assert scanner.is_done and not scanner.is_broken


@pytest.mark.parametrize("text", ["{", '{"a', '{"a": "\\', "[1, 2", '"abc', "  ", "", "12", '{"a": {"b": 1}'])
def test_values_that_go_on(text: str) -> None:
    for parts in ([text], list(text)):
        taken, scanner = scanned(parts)
        assert taken == text
        assert not scanner.is_done and not scanner.is_broken


@pytest.mark.parametrize(
    ("text", "good"), [("{]", "{"), ('{"a": 1</x>', '{"a": 1'), ("[1}", "[1"), ("</x>", ""), ("}", ""), ("{'a'", "{")]
)
def test_what_is_no_json(text: str, good: str) -> None:
    for parts in ([text], list(text)):
        taken, scanner = scanned(parts)
        assert taken == good
        assert scanner.is_broken and not scanner.is_done


def test_scanning_from_a_place() -> None:
    text = '<x>{"a": 1}</x>'
    scanner = JsonScanner()
    assert scanner.scan(text, 3) == 11
    assert scanner.is_done
    assert scanner.scan(text, 11) == 11


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([",", "}", "]", " x", "\n", ":"]), st.booleans(), st.integers(0, 4), st.data())
def test_any_value_ends_where_it_ends(
    value: Any, behind: str, ascii_only: bool, indent: int, data: st.DataObject
) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None)
    places = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    taken, scanner = scanned(cut(written + behind, places))
    assert (taken, scanner.is_done) == (written, True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet='{}[]",:\\ab1 \n<', max_size=4), max_size=10))
def test_any_text_is_read_the_same_in_any_division(parts: list[str]) -> None:
    whole, at_once = scanned(["".join(parts)])
    taken, scanner = scanned(parts)
    assert (taken, scanner.is_done, scanner.is_broken) == (whole, at_once.is_done, at_once.is_broken)


def test_deep_and_long_values_take_linear_time() -> None:
    before = time.process_time()
    for text in ("[" * 100_000, '{"a": "' + "x\\n" * 100_000):
        scanner = JsonScanner()
        for char in text:
            scanner.scan(char)
        assert not scanner.is_done
    assert time.process_time() - before < 5
