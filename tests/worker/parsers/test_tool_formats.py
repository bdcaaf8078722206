"""The ways in which models write calls: each whole, several, beside prose, written badly, and cut short."""

from __future__ import annotations

import json

import pytest

from mlxctl.worker.parsers.base import Content, Piece, ToolCall
from tests.worker.parsers.reading import Answer, made, read

F = ("f", '{"a": "x"}')
DS_BEGIN, DS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DS_CALL, DS_SEP, DS_CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"

WELL_WRITTEN = [
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool_call>', Answer("", (F,))),
    (
        "hermes",
        'Look.\n<tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>\n',
        Answer("Look.\n", (F, ("g", "{}"))),
    ),
    ("hermes", '<tool_call>{"name":"g"}</tool_call> Done.', Answer(" Done.", (("g", "{}"),))),
    ("hermes", '<tool_call>{"name":"g","arguments":null}</tool_call>', Answer("", (("g", "{}"),))),
    ("hermes", '<tool_call>{"name":"unheard_of","arguments":{}}</tool_call>', Answer("", (("unheard_of", "{}"),))),
    ("qwen", '\n\n<tool_call>[{"name":"g"},\n{"name":"f","arguments":{"n":1}}]</tool_call>', None),
    ("qwen3", '<tool_call>{"name":"g"}\n{"name":"f","arguments":{"n":1}}</tool_call>', None),
    (
        "qwen3_coder",
        "Now.\n<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>",
        Answer("Now.\n", (F,)),
    ),
    ("qwen3_coder", "<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>", Answer("", (F,))),
    (
        "qwen3_coder",
        "<function=f>\n<parameter=a>\n\n one\n\ntwo </p>\n\n</parameter>\n</function>",
        Answer("", (("f", '{"a": "\\n one\\n\\ntwo </p>\\n"}'),)),
    ),
    ("qwen3_coder", "<tool_call>\n<function=g>\n</function>\n</tool_call>", Answer("", (("g", "{}"),))),
    ("qwen3_coder", '<tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call>', Answer("", (F,))),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": "x"}}]', Answer("", (F,))),
    ("mistral", '[TOOL_CALLS] [{"name":"g","arguments":{},"id":"a1"}, {"name":"f","arguments":{"n":1}}]', None),
    ("mistral", 'Yes.[TOOL_CALLS]f[ARGS]{"a": "x"}', Answer("Yes.", (F,))),
    ("devstral", '[TOOL_CALLS]g[ARGS]{}[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{"n":1}', None),
    ("devstral", '[TOOL_CALLS]g[ARGS]{}f[ARGS]{"n":1}', None),
    ("mistral", '[TOOL_CALLS]f{"a": "x"}', Answer("", (F,))),
    ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {"a": "x"}}', Answer("", (F,))),
    ("llama3", '{"name": "f", "parameters": {"a": "x"}}', Answer("", (F,))),
    ("llama3", '\n{"name": "g", "parameters": {}}; {"name": "f", "parameters": {"n":1}}', None),
    ("llama", '<|python_tag|>{"name": "g", "parameters": {}};{"name": "f", "parameters": {"n":1}}', None),
    ("llama3_json", '{"type": "function", "name": "f", "parameters": {"a": "x"}}', Answer("", (F,))),
    ("llama3", '{"type": "function", "function": {"name": "f", "parameters": {"a": "x"}}}', Answer("", (F,))),
    ("llama3", '{"function": "f", "parameters": {"a": "x"}}', Answer("", (F,))),
    ("llama3", 'I look it up:\n{"name": "f", "parameters": {"a": "x"}}', Answer("I look it up:\n", (F,))),
    ("llama3", '<|python_tag|>f.call(a="x")', Answer("", (F,))),
    ("llama3", '<function=f>{"a": "x"}</function>', Answer("", (F,))),
    ("pythonic", '[f(a="x")]', Answer("", (F,))),
    (
        "pythonic",
        """[f(a='it\\'s, ("so\\\\'), g()]""",
        Answer("", (("f", '{"a": "it\'s, (\\"so\\\\"}'), ("g", "{}"))),
    ),
    (
        "pythonic",
        """[f(a=\'\'\'one's\n"two")\'\'\', n=1)]""",
        Answer("", (("f", '{"a": "one\'s\\n\\"two\\")", "n": 1}'),)),
    ),
    ("pythonic", "[g(), f(n = 1)]", Answer("", (("g", "{}"), ("f", '{"n": 1}')))),
    ("pythonic", "<|python_start|>[f(a='x')]<|python_end|>", Answer("", (F,))),
    ("pythonic", '<|tool_call_start|>[f(a="x",)]<|tool_call_end|>Done.', Answer("Done.", (F,))),
    ("pythonic", '<|tool_call_start|>f(a="x")<|tool_call_end|>', Answer("", (F,))),
    (
        "deepseek_v3",
        f'Ok.{DS_BEGIN}{DS_CALL}function{DS_SEP}f\n```json\n{{"a": "x"}}\n```{DS_CALL_END}\n'
        f"{DS_CALL}function{DS_SEP}g\n```json\n{{}}\n```{DS_CALL_END}{DS_END}",
        Answer("Ok.", (F, ("g", "{}"))),
    ),
    (
        "deepseek",
        f'{DS_BEGIN}{DS_CALL}f{DS_SEP}{{"a": "x"}}{DS_CALL_END}{DS_CALL}g{DS_SEP}{{}}{DS_CALL_END}{DS_END}Then.',
        Answer("Then.", (F, ("g", "{}"))),
    ),
    ("deepseek_r1", f'{DS_CALL}function{DS_SEP}f\n{{"a": "x"}}{DS_CALL_END}', Answer("", (F,))),
    ("phi4", '<|tool_call|>[{"name": "f", "arguments": {"a": "x"}}]<|/tool_call|>', Answer("", (F,))),
    ("phi4", 'functools[{"name": "g", "arguments": {}}, {"name": "f", "arguments": {"n":1}}]', None),
    ("gemma", '```tool_code\nf(a="x")\n```', Answer("", (F,))),
    (
        "gemma",
        '```json\n{"name": "g", "parameters": {}}\n```\n```json\n{"name": "f", "parameters": {"n":1}}\n```',
        None,
    ),
    ("gemma3", "```tool_code\nprint(default_api.g())\nprint(f(n=1))\n```\nSo.", None),
    ("gemma", '```json\n{"name": "f", "parameters": {"a": "x"}}\n```', Answer("", (F,))),
    ("gemma", 'Sure:\n```tool_call\n{"name": "f", "parameters": {"a": "x"}}\n```', Answer("Sure:\n", (F,))),
    ("gemma", '{"name": "f", "parameters": {"a": "x"}}', Answer("", (F,))),
    ("gemma", 'Let me see.\n  {"name": "f", "parameters": {"a": "x"}}', Answer("Let me see.\n", (F,))),
    (
        "functiongemma",
        "<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>",
        Answer("", (("f", '{"a":"x"}'),)),
    ),
    (
        "gemma4",
        '<|tool_call>call:f{a:<|"|>x "y"\n{<|"|>,n:-1.5,o:{k:[true,null,word]}}<tool_call|>'
        "<|tool_call>call:g{}<tool_call|>",
        Answer("", (("f", '{"a":"x \\"y\\"\\n{","n":-1.5,"o":{"k":[true,null,"word"]}}'), ("g", "{}"))),
    ),
    (
        "gemma4",
        "<|tool_call>call:f{1:2,true:{null:-x}}<tool_call|>",
        Answer("", (("f", '{"1":2,"true":{"null":"-x"}}'),)),
    ),
    (
        "kimi_k2",
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": "x"}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        Answer("", (F,)),
    ),
    (
        "solar_open",
        '<|tool_call:begin|>abc<|tool_call:name|>f<|tool_call:args|>{"a": "x"}<|tool_call:end|>',
        Answer("", (F,)),
    ),
    ("generic", 'So:\n<tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call>', Answer("So:\n", (F,))),
    ("json", '[{"name": "f", "arguments": {"a": "x"}}]', Answer("", (F,))),
    ("glm47", "<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value></tool_call>", Answer("", (F,))),
]
"""None: it is `g` without arguments and `f` with n=1, in some order of words."""


@pytest.mark.parametrize(("name", "text", "expected"), WELL_WRITTEN)
def test_calls(name: str, text: str, expected: Answer | None) -> None:
    found = read(lambda: made(name), text)
    if expected is None:
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("g", {}), ("f", {"n": 1})]
        assert found.content.strip() in ("", "So.")
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"), [case for case in WELL_WRITTEN if case[2] and case[0] != "gemma4"]
)
def test_calls_without_knowing_the_tools(name: str, text: str, expected: Answer) -> None:
    """Then llama's object only counts as the whole answer, and objects need arguments to be calls."""
    found = read(lambda: made(name, None), text)
    assert found == (Answer(text) if text.startswith("I look it up") else expected)


NO_CALLS = [
    ("hermes", "<tool_call>oops</tool_call>"),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": 3}</tool_call>'),
    ("hermes", "<tool_call>[1, 2]</tool_call>"),
    ("hermes", "<tool_call></tool_call>"),
    ("hermes", '<tool_call>{"name"'),
    ("hermes", 'a < b <tool <tool_call <tool_calls> {"name": "f", "arguments": {}} </tool_call>'),
    ("hermes", "   \n\n  "),
    ("hermes", "  text with blanks around it \n\n"),
    ("hermes", "<tool_call> <function= >"),
    ("qwen3_coder", "Use <function=f> to call it."),
    ("qwen3_coder", "<function=f>\n"),
    ("mistral", "[TOOL_CALLS] and nothing"),
    ("mistral", "[TOOL_CALLS]f[ARGS"),
    ("mistral", "[TOOL_CALLS][]"),
    ("llama3", '{"name": "Bob", "parameters": {"age": 3}}'),
    ("llama3", '{"name": "f", "age": 3}'),
    ("llama3", '{"colour": "red", "name": "f", "parameters": {}}'),
    ("llama3", '  {"a": 1}'),
    ("llama3", "<|python_tag|>print('hello')"),
    ("llama3", "<|python_tag|>import os\nos.getcwd()"),
    ("llama3", 'Here: {"name": "f", "parameters": {}}'),
    ("pythonic", "[f(x) for x in y]"),
    ("pythonic", "[1, 2, 3]"),
    ("pythonic", "[h(a=1)]"),
    ("pythonic", "[f(a == 1)]"),
    ("pythonic", "See [f(a=1)]"),
    ("pythonic", "[f"),
    ("pythonic", "<|python_start|><|python_end|>"),
    ("deepseek", f"{DS_BEGIN}nothing{DS_END}"),
    ("deepseek", f"{DS_BEGIN}{DS_CALL}{DS_SEP}{{}}{DS_CALL_END}"),
    ("deepseek", f"{DS_CALL}function{DS_CALL_END}"),
    ("phi4", "functools[0](x)"),
    ("phi4", "from functools import cache"),
    ("gemma", "```tool_code\nx = 1\n```"),
    ("gemma", "```tool_code\n```"),
    ("gemma", '```json\n{"b": "f"}\n```'),
    ("gemma", '```json\n{\n  "name": "Ann",\n  "parameters": 3\n}\n```\nas you see'),
    ("gemma", '```python\nprint("x")\n```'),
    ("gemma", "<start_function_call>declaration:f{}<end_function_call>"),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_calls_section_end|>"),
    ("generic", '{"name": "f", "notes": "none"}'),
    ("generic", "[]"),
    ("glm47", "<arg_key>a</arg_key>"),
    ("minimax_m2", "<minimax:tool_call>nothing</minimax:tool_call>"),
]


@pytest.mark.parametrize(("name", "text"), NO_CALLS)
def test_what_is_no_call_comes_out_as_it_is(name: str, text: str) -> None:
    assert read(lambda: made(name), text) == Answer(text)


BADLY_WRITTEN = [
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}}}\n</tool_call>', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}}', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}</tool_call>Hm.', Answer("Hm.", (F,))),
    ("hermes", '<tool_call>{"arguments": {"a": "x"}, "name": "f"}</tool_call>', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"x\\"}"}</tool_call>', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}} so </tool_call>', Answer(" so ", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x"}, "id": {"b": [1]}}</tool_call>', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "name": "g", "arguments": {"a": "x"}}</tool_call>', Answer("", (F,))),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', Answer("", (("f", "[1]"),))),
    ("hermes", '<tool_call>{"name": "f", "arguments": 12}</tool_call>', Answer("", (("f", "12"),))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": </tool_call>', Answer("", (("f", '{"a": '),))),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1]</tool_call>', Answer("", (("f", '{"a": 1'),))),
    (
        "hermes",
        'no <tool_call>x <tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call>',
        Answer("no <tool_call>x ", (F,)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "x"}}</tool_call></tool_call> </tool_call>',
        Answer("</tool_call> </tool_call>", (F,)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "}</tool_call>\\""}}</tool_call>',
        Answer("", (("f", '{"a": "}</tool_call>\\""}'),)),
    ),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>x<parameter=n>1</function>", None),
    (
        "qwen3_coder",
        "<tool_call>\n<function=f\n<parameter=a>\nx\n</parameter>\n<parameter=n>1</parameter>\n</tool_call>",
        None,
    ),
    ("qwen3_coder", "<function=f><parameter=a>x</parameter><parameter=n>1</parameter> done", None),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "x"} and more', Answer(" and more", (F,))),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "x"} see {"b": 1}', Answer(' see {"b": 1}', (F,))),
    ("llama3", '{"name": "f", "parameters": {"a": "x"}} I did it.', Answer(" I did it.", (F,))),
    ("llama3", '{"name": "f", "parameters": {"a": "x"}}; {"b": 1}', Answer('; {"b": 1}', (F,))),
    ("pythonic", '[f(a="x"), 3]', Answer(", 3]", (F,))),
    ("pythonic", '[f(a="x", 3)]', Answer("3)]", (F,))),
    ("phi4", '<|tool_call|>[{"name": "f", "arguments": {"a": "x"}}, oops', Answer(", oops", (F,))),
    ("gemma", '```tool_code\nf(a="x")\ny = 2\n```', Answer("\ny = 2\n", (F,))),
]


@pytest.mark.parametrize(("name", "text", "expected"), BADLY_WRITTEN)
def test_calls_that_are_a_little_wrong(name: str, text: str, expected: Answer | None) -> None:
    found = read(lambda: made(name), text)
    if expected is None:
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("f", {"a": "x", "n": 1})]
        assert found.content.strip() in ("", "done")
    else:
        assert found == expected


CUT_SHORT = [
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "lo', '{"a": "lo'),
    ("hermes", '<tool_call>{"name": "f", "argu', ""),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1\\', '{"a": 1'),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"n": 1', '{"n": 1'),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"n": 1', '{"n": 1'),
    ("llama3", '{"name": "f", "parameters": {"n"', '{"n"'),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>\nlong te", '{"a": "long te'),
    ("qwen3_coder", "<tool_call><function=f><parameter=n>1</parameter><para", '{"n": 1'),
    ("pythonic", '[f(n=1, a="lo', '{"n": 1'),
    ("pythonic", "[f(n=1, a", '{"n": 1'),
    ("deepseek", f"{DS_CALL}function{DS_SEP}f\n```json\n{{", "{"),
    ("gemma4", '<|tool_call>call:f{a:<|"|>lo', '{"a":"lo'),
    ("kimi_k2", '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a', '{"a'),
    ("phi4", 'functools[{"name": "f", "arguments": {"n": 1}}, ', '{"n": 1}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_c', '{"n": 1}'),
]


@pytest.mark.parametrize(("name", "text", "arguments"), CUT_SHORT)
def test_a_call_that_is_cut_short_is_handed_out_as_far_as_it_got(name: str, text: str, arguments: str) -> None:
    assert read(lambda: made(name), text) == Answer("", (("f", arguments),))


ESCAPED = [
    ("\\u0066", "f"),
    ("a\\u00e9\\n\\t\\/\\b\\f\\r", "aé\n\t/\b\f\r"),
    ("\\ud83d\\ude00!", "😀!"),
    ("\\ud83d", "\ufffd"),
    ("\\ud83dx", "\ufffdx"),
    ("\\ude00", "\ufffd"),
    ("\\ud83d\\u0066", "\ufffdf"),
    ("\\ud83d\\ud83d", "\ufffd\ufffd"),
    ("\\ud83d\\uxyzw", "\ufffd\\uxyzw"),
    ("\\uxyzw", "\\uxyzw"),
    ("\\u00", "\\u00"),
    ("\\q", "q"),
    ("\\\\", "\\"),
    ('\\"', '"'),
    ("\n", "\n"),
]


@pytest.mark.parametrize(("written", "meant"), ESCAPED)
def test_escapes_in_names_and_in_arguments_that_are_a_string(written: str, meant: str) -> None:
    text = f'<tool_call>{{"name": "{written}", "arguments": "{written}"}}</tool_call>'
    assert read(lambda: made("hermes"), text) == Answer("", ((meant, meant),))


def pushed(name: str, text: str) -> list[list[Piece]]:
    """What each character brings, before the end is known."""
    parser = made(name)
    return [list(parser.push(0, char)) for char in text]


STREAMED = [
    ("hermes", '<tool_call>{"name": "f"', '{"name": "f"', ', "arguments": ', '{"a": "one two"}'),
    ("mistral", "[TOOL_CALLS]f[ARGS]", "[ARGS]", "", '{"a": "one two"}'),
    ("llama3", '{"name": "f", "parameters": {', '"parameters": {', "", '"a": "one two"}'),
    ("kimi_k2", "<|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>", "", "", '{"a": "one two"}'),
    ("deepseek", f"{DS_CALL}f{DS_SEP}" + "{", "{", "", '"a": "one two"}'),
]


@pytest.mark.parametrize(("name", "head", "_", "between", "arguments"), STREAMED)
def test_the_name_comes_first_and_each_character_of_the_arguments_at_once(
    name: str, head: str, _: str, between: str, arguments: str
) -> None:
    brought = pushed(name, head + between + arguments)
    named = next(place for place, pieces in enumerate(brought) if pieces)
    assert named <= len(head)
    assert isinstance(brought[named][0], ToolCall) and brought[named][0].name == "f"
    for char, pieces in zip(arguments[1:], brought[len(head + between) + 1 :], strict=True):
        assert "".join(piece.arguments for piece in pieces if isinstance(piece, ToolCall)) == char


def test_a_text_parameter_of_xml_streams_while_it_is_written() -> None:
    head = "<tool_call><function=f><parameter=a>\n"
    brought = pushed("qwen3_coder", f'{head}say "hi"\n</parameter>')
    said = ["".join(piece.arguments for piece in pieces) for pieces in brought[len(head) :]]
    assert said[:8] == ['{"a": "s', "a", "y", " ", '\\"', "h", "i", '\\"']
    assert "".join(said[8:]) == '"'


@pytest.mark.parametrize("name", ["hermes", "mistral", "llama3", "deepseek", "gemma", "generic", "kimi_k2"])
def test_prose_is_not_held_back(name: str) -> None:
    text = "All of it, at once: a < b, [1], {x}"
    for char, pieces in zip(text, pushed(name, text), strict=True):
        if char not in "<[f":
            assert pieces and pieces[-1] == Content(pieces[-1].text) and pieces[-1].text.endswith(char)


def test_a_tag_that_does_not_come_about_is_released_with_the_character_that_shows_it() -> None:
    brought = pushed("hermes", "<tool_x")
    assert [len(pieces) for pieces in brought] == [0, 0, 0, 0, 0, 0, 1]
    assert brought[-1] == [Content("<tool_x")]


def test_ids() -> None:
    def ids(name: str, text: str) -> list[str | None]:
        return [piece.call_id for pieces in pushed(name, text) for piece in pieces if getattr(piece, "name", None)]

    first, second = ids("hermes", '<tool_call>{"name":"f"}</tool_call><tool_call>{"name":"g"}</tool_call>')
    assert first != second and first and first.startswith("call_") and len(first) == 29
    (short,) = ids("mistral", '[TOOL_CALLS][{"name":"f"}]')
    assert short and len(short) == 9 and short.isalnum()
    assert ids("kimi_k2", "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{}") == ["functions.f:3"]
