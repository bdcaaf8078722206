"""What the compiler refuses, in words for the client; what it keeps; and that threads do not disturb each other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlxctl.worker import grammar as grammars
from mlxctl.worker.errors import InvalidRequest
from mlxctl.worker.grammar import KEPT_GRAMMARS, MAX_MESSAGE, MAX_TEXT_BYTES, GrammarCompiler
from tests.fakes.json_tokenizer import END, small_tokenizer


@pytest.fixture(scope="module")
def compiler():
    return GrammarCompiler(small_tokenizer(), 512, [END])


def nested(depth):
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "object", "properties": 3}, "properties must be an object"),
        ({"$ref": "http://elsewhere.test/schema"}, "elsewhere.test"),
        ({"$ref": "#"}, "no answer can satisfy it"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength (5) is greater"),
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"if": {}, "then": {}, "else": {}}, '"if"'),
        ({"type": "string", "format": "zip code"}, "Unknown format: zip code"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": "(" * 2000 + ")" * 2000}, "regex"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "too many expressions"),
        ({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1000)}}, "items"),
        ({"const": "x" * MAX_TEXT_BYTES}, f"the limit is {MAX_TEXT_BYTES}"),
        ({"const": "\ud800"}, "hex escape"),
        ({"const": float("nan")}, "not JSON compliant"),
        ({"const": {1, 2}}, "not JSON serializable"),
        (nested(500), "recursion"),
        (nested(100_000), "recursion"),
        ([], "must be an object"),
        (True, "must be an object"),
        ("{}", "must be an object"),
        (None, "must be an object"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_schema_that_cannot_be_enforced_is_refused(compiler, schema, words):
    with pytest.raises(InvalidRequest) as refusal:
        compiler.json_schema(schema)
    assert words in refusal.value.message
    assert "JSON schema" in refusal.value.message
    assert len(refusal.value.message) < MAX_MESSAGE + 100 and "\n" not in refusal.value.message
    assert refusal.value.param == "response_format" and refusal.value.status == 400
    while isinstance(schema, dict) and isinstance(schema.get("items"), dict):
        schema = schema["items"]  # unnested from outside: freeing 100,000 levels at once would recurse


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Empty grammar"),
        ("no grammar", "Expected token"),
        ("start: a\na: a", "no answer can satisfy it"),
        ("start: missing", "missing"),
        ("start: /(?=a)/", "look-ahead"),
        ("start: <|no_such_token|>", "no_such_token"),
        ("start: %json {", ""),
        ('start: "a"\n' * MAX_TEXT_BYTES, "too large"),
        ("start: \ud800", "surrogates"),
    ],
)
def test_lark_that_is_none_is_refused(compiler, text, words):
    with pytest.raises(InvalidRequest, match="grammar is") as refusal:
        compiler.lark(text, param="tools")
    assert words in refusal.value.message
    assert refusal.value.param == "tools"


def test_a_refusal_names_the_field_that_was_given(compiler):
    with pytest.raises(InvalidRequest) as refusal:
        compiler.json_schema({"not": {}}, param="tools[0].function.parameters")
    assert refusal.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize(
    ("source", "words"),
    [(object(), "not a fast tokenizer"), ("{}", "Model missing"), ("/no/such/tokenizer.json", "No such file")],
)
def test_a_tokenizer_that_will_not_do(source, words):
    """Found at the first constrained request: the others are served all the same."""
    compiler = GrammarCompiler(source, 512, [END])
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="tokenizer cannot hold") as refusal:
            compiler.json_object()
        assert words in refusal.value.message


def test_nothing_refused_is_kept_and_the_next_request_is_well(compiler):
    before = len(compiler._kept)
    for _ in range(3):
        with pytest.raises(InvalidRequest):
            compiler.json_schema({"type": "strin"})
    assert len(compiler._kept) == before
    assert compiler.json_schema({"type": "string"}).matcher().error == ""


def test_the_same_content_is_compiled_once():
    compiler = GrammarCompiler(small_tokenizer(), 512, [END])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    first = compiler.json_schema(schema)
    assert compiler.json_schema({**schema}, param="tools") is first
    assert compiler.json_schema({"type": "object"}) is compiler.json_object() is not first
    assert compiler.lark('start: "a"') is compiler.lark('start: "a"')


def test_the_least_used_is_forgotten_first():
    compiler = GrammarCompiler(small_tokenizer(), 512, [END])
    often, seldom = compiler.json_object(), compiler.json_schema({"const": -1})
    for number in range(KEPT_GRAMMARS - 1):
        compiler.json_schema({"const": number})
        assert compiler.json_object() is often
    assert compiler.json_schema({"const": -1}) is not seldom
    assert len(compiler._kept) == KEPT_GRAMMARS


def test_matchers_of_one_grammar_walk_on_their_own(compiler):
    grammar = compiler.json_schema({"enum": ["a", "b"]})
    one, other = grammar.matcher(), grammar.matcher()
    for token in small_tokenizer().encode('"a"').ids:
        assert one.accept(token)
    assert one.is_done and not other.is_done
    for token in small_tokenizer().encode('"b"').ids:
        assert other.accept(token)
    assert other.is_done


def test_threads_compile_and_walk_at_once(monkeypatch):
    """Sixteen threads, four schemas, a compiler that has not opened its tokenizer yet: opened once, answers right."""
    opened, gate = [], threading.Barrier(16)
    real = grammars.LLTokenizer

    def counting(*args, **kwargs):
        opened.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(grammars, "LLTokenizer", counting)
    compiler = GrammarCompiler(small_tokenizer(), 512, [END])

    def work(number):
        gate.wait(timeout=30)
        words = np.zeros(16, dtype=np.int32)
        for turn in range(10):
            value = f"v{(number + turn) % 4}"
            matcher = compiler.json_schema({"const": value, "title": f"{turn % 2}"}).matcher()
            for token in small_tokenizer().encode(f'"{value}"').ids:
                matcher.fill_mask(words)
                assert words[token // 32] >> token % 32 & 1
                assert matcher.accept(token)
            assert matcher.is_done
        return number

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == list(range(16))
    assert len(opened) == 1
    assert len(compiler._kept) == 8
