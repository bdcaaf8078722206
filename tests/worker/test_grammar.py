"""Grammars: whatever is drawn under one parses and validates, it ends where it may, and it cannot run on in blanks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from mlxctl.worker.grammar import GrammarCompiler, bounded
from tests.fakes.json_tokenizer import END, OTHER_END, TURN, small_tokenizer

VOCAB = 512
"""Wider than the tokenizer's vocabulary, as padded logits are."""
ENDS = {END, OTHER_END}


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: Annotated[int, Field(ge=-9, le=99)]
    y: Annotated[int, Field(ge=0, le=5)] | None = None


class Circle(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["circle"]
    centre: Point
    label: Annotated[str, Field(max_length=8)]


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["line"]
    points: Annotated[list[Point], Field(min_length=1, max_length=3)]
    dashed: bool


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern="^[A-Z][a-z]{1,6}$")]
    shapes: Annotated[list[Annotated[Circle | Line, Field(discriminator="kind")]], Field(max_length=2)]


@pytest.fixture(scope="module")
def compiler():
    return GrammarCompiler(small_tokenizer(), VOCAB, ENDS)


def allowed(matcher, vocab=VOCAB):
    words = np.full(-(-vocab // 32), -1, dtype=np.int32)
    matcher.fill_mask(words)
    return np.nonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))[0].tolist()


def walk(grammar, prefer, most=600):
    """Tokens up to the grammar's end, and whether it came. `prefer` picks one of the allowed tokens."""
    matcher, tokens = grammar.matcher(), []
    while len(tokens) < most:
        token = prefer(allowed(matcher))
        if token in ENDS:
            assert matcher.accept(token)
            return tokens, True
        assert matcher.accept(token)
        tokens.append(token)
        if matcher.is_done:
            return tokens, True
    return tokens, False


def spell(tokens):
    return small_tokenizer().decode(tokens, skip_special_tokens=False)


def feed(matcher, text):
    """How much of the text the grammar takes, a byte-level token at a time."""
    taken = []
    for token in small_tokenizer().encode(text).ids:
        if not matcher.accept(token):
            break
        taken.append(token)
    return spell(taken)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_drawn_at_random_validates(compiler, seed):
    rng = np.random.default_rng(seed)
    tokens, ended = walk(compiler.json_schema(Drawing.model_json_schema()), rng.choice)
    assert ended
    assert not ENDS & set(tokens) and TURN not in tokens
    Drawing.model_validate_json(spell(tokens), strict=True)


@pytest.mark.parametrize("seed", range(10))
def test_json_mode_gives_an_object(compiler, seed):
    """Quotes and brackets are preferred, or a random answer would never end."""
    rng = np.random.default_rng(seed)
    closing = [token for token in range(VOCAB) if spell([token]) in ('"', "}", "]", '"}')]

    def prefer(tokens):
        close = [token for token in tokens if token in closing]
        return rng.choice(close if close and rng.random() < 0.7 else tokens)

    tokens, ended = walk(compiler.json_object(), prefer)
    assert ended
    assert isinstance(json.loads(spell(tokens)), dict)


@pytest.mark.parametrize(
    ("schema", "text", "may_end"),
    [
        ({"type": "integer"}, "", False),
        ({"type": "integer"}, "-", False),
        ({"type": "integer"}, "-1", True),
        ({"type": "integer"}, "120", True),
        ({"type": "string"}, '"ab', False),
        ({"type": "string"}, '"ab"', True),
        ({"enum": ["a", "ab", 3]}, '"a', False),
        ({"enum": [1, 12]}, "1", True),
        ({"type": "object"}, "{", False),
        ({"type": "object"}, "{}", True),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, '{"a": null', False),
        ({"type": "array", "items": {"type": "boolean"}}, "[true, false]", True),
    ],
)
def test_it_may_end_exactly_where_the_value_is_whole(compiler, schema, text, may_end):
    matcher = compiler.json_schema(schema).matcher()
    assert feed(matcher, text) == text
    assert (set(allowed(matcher)) & ENDS) == (ENDS if may_end else set())
    assert matcher.error == ""


def test_done_means_that_nothing_can_follow(compiler):
    one_of_two = compiler.json_schema({"enum": [1, 12]})
    matcher = one_of_two.matcher()
    assert feed(matcher, "1") == "1" and not matcher.is_done
    assert matcher.accept(OTHER_END) and matcher.is_done
    matcher = one_of_two.matcher()
    assert feed(matcher, "12") == "12" and matcher.is_done
    assert set(allowed(matcher)) == ENDS
    assert not matcher.accept(END), "it has ended"
    assert matcher.is_done and matcher.error == ""


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, '{"a"', "}"),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, '{"', "b"),
        ({"type": "integer", "minimum": 5, "maximum": 12}, "", "4"),
        ({"type": "string", "pattern": "^a+$"}, '"a', "b"),
        ({"type": "array", "maxItems": 1, "items": {"type": "integer"}}, "[1", ","),
        ({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, "", '"'),
        ({"type": "object"}, "", "["),
    ],
)
def test_a_wrong_token_is_refused_and_stays_so(compiler, schema, accepted, refused):
    matcher = compiler.json_schema(schema).matcher()
    assert feed(matcher, accepted) == accepted
    (token,) = small_tokenizer().encode(refused).ids
    assert token not in allowed(matcher)
    assert not matcher.accept(token)
    assert not matcher.is_done
    assert "doesn't satisfy" in matcher.error and "\n" not in matcher.error
    assert set(allowed(matcher)) == ENDS
    assert not matcher.accept(END)


@pytest.mark.parametrize("token", [VOCAB - 1, VOCAB, 10**6])
def test_a_token_that_the_tokenizer_has_not_is_refused(compiler, token):
    assert not compiler.json_object().matcher().accept(token)


def test_special_tokens_are_never_text(compiler):
    matcher = compiler.json_schema({"type": "string"}).matcher()
    assert feed(matcher, '"') == '"'
    assert not {END, OTHER_END, TURN} & set(allowed(matcher))


# blanks


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"b":[1,2]}',
        '{"a": 1, "b": [1, 2]}',
        '{\n  "a": 1,\n  "b": [\n    1,\n    2\n  ]\n}',
        '{\n\t"a": 1,\n\t"b": [1]\n}',
        '{ "a" : 1 , "b" : [ ] }',
    ],
)
def test_usual_ways_to_write_json_are_allowed(compiler, text):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "integer"}}},
        "required": ["a", "b"],
    }
    matcher = compiler.json_schema(schema).matcher()
    assert feed(matcher, text) == text
    assert matcher.is_done


@pytest.mark.parametrize("text", ['{  "a"', '{\n\n"a"', '{ \n"a"', "{" + "\n" + " " * 21 + '"a"', "\n{", " {", "{\r"])
def test_blanks_do_not_pile_up(compiler, text):
    assert feed(compiler.json_schema({"type": "object"}).matcher(), text) != text


@pytest.mark.parametrize("schema", [None, Point.model_json_schema(), Line.model_json_schema()])
def test_a_model_that_loves_blanks_gets_to_the_end(compiler, schema):
    """Between JSON's tokens it takes the blank with most characters wherever one is allowed, else the way out."""

    def prefer(tokens):
        in_string = any(spell([token]) == "q" for token in tokens)
        blanks = [token for token in tokens if not in_string and token not in ENDS and spell([token]).isspace()]
        if blanks:
            return max(blanks, key=lambda token: len(spell([token])))
        return min(tokens, key=lambda token: (spell([token]) not in ("}", '"', "]"), token))

    grammar = compiler.json_object() if schema is None else compiler.json_schema(schema)
    tokens, ended = walk(grammar, prefer, most=300)
    assert ended
    json.loads(spell(tokens))
    assert max(map(len, re.findall(r"\s+", spell(tokens)))) > 10


def test_a_schema_cannot_allow_itself_more_blanks(compiler):
    own = {"type": "object", "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": "[ ]*", "lenient": True}}
    assert feed(compiler.json_schema(own).matcher(), "{   }") == "{"


# Lark


def test_a_schema_stands_inside_lark(compiler):
    call = compiler.lark('start: "<call>" args "</call>"\nargs: %json ' + bounded(Point.model_json_schema()))
    for text, whole in (
        ('<call>{"x": 1}</call>', True),
        ('<call>{"x":   1}</call>', False),
        ('<call>{"y": 1}</call>', False),
        ('{"x": 1}', False),
    ):
        matcher = call.matcher()
        assert (feed(matcher, text) == text and matcher.is_done) == whole, text


def test_lark_names_special_tokens(compiler):
    matcher = compiler.lark("start: <|turn|> /[a-z]{2}/").matcher()
    assert allowed(matcher) == [TURN]
    assert matcher.accept(TURN) and feed(matcher, "ab") == "ab" and matcher.is_done


# widths and forms


@pytest.mark.parametrize("width", [32, 480, 500, 512, 513, 4096])
def test_a_row_may_be_wider_or_narrower_than_the_vocabulary(compiler, width):
    matcher = compiler.json_object().matcher()
    full = allowed(matcher)
    assert allowed(matcher, width) == [token for token in full if token < -(-width // 32) * 32]


def test_a_row_of_a_matrix_is_filled_in_place(compiler):
    matcher = compiler.json_object().matcher()
    words = np.full((3, 16), 7, dtype=np.int32)
    matcher.fill_mask(words[1])
    assert (words[[0, 2]] == 7).all() and not (words[1] == 7).all()
    strided = np.full((16, 3), 7, dtype=np.int32)
    matcher.fill_mask(strided[:, 1])
    assert np.array_equal(strided[:, 1], words[1]) and (strided[:, [0, 2]] == 7).all()


@pytest.mark.parametrize("form", ["text", "path", "name", "tokenizers", "transformers"])
def test_forms_of_a_tokenizer(compiler, form, tmp_path):
    file: Path = tmp_path / "tokenizer.json"
    file.write_text(small_tokenizer().to_str(), encoding="utf-8")
    source: Any = {
        "text": file.read_text(encoding="utf-8"),
        "path": file,
        "name": str(file),
        "tokenizers": small_tokenizer(),
        "transformers": SimpleNamespace(backend_tokenizer=small_tokenizer()),
    }[form]
    grammar = GrammarCompiler(source, VOCAB, [END, OTHER_END, END, VOCAB + 5, -1]).json_object()
    assert allowed(grammar.matcher()) == allowed(compiler.json_object().matcher())
    matcher = grammar.matcher()
    assert feed(matcher, "{}") == "{}" and set(allowed(matcher)) == ENDS


def test_the_callers_tokenizer_keeps_its_padding():
    tokenizer = type(small_tokenizer()).from_str(small_tokenizer().to_str())
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(2)
    grammar = GrammarCompiler(tokenizer, VOCAB, [END]).json_schema({"const": "a longer text"})
    assert tokenizer.padding["length"] == 40 and tokenizer.truncation["max_length"] == 2
    assert feed(grammar.matcher(), '"a longer text"') == '"a longer text"'
