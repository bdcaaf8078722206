"""Any arguments, written as each format writes them, between any prose: they come back, and so does the prose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.names import tool_parser
from tests.worker.parsers.reading import answer_of, cut, no_tokens, pieces_of

KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
PROSE = st.lists(st.from_regex(r"[A-Z][a-z]{0,5}[ ,.]", fullmatch=True), max_size=4).map("".join).map(str.strip)
Call = tuple[str, dict[str, Any]]


def as_json(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def as_object(call: Call, key: str = "arguments") -> str:
    return f'{{"name": "{call[0]}", "{key}": {as_json(call[1])}}}'


def as_python(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"


def as_xml(call: Call) -> str:
    """Texts as they are, the rest as JSON."""
    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in call[1].items()}
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in written.items())
    return f"<tool_call>\n<function={call[0]}>\n{inner}</function>\n</tool_call>"


def as_deepseek(call: Call) -> str:
    head = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
    return f"{head}{call[0]}\n```json\n{as_json(call[1])}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


def as_deepseek_v31(call: Call) -> str:
    return f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{as_json(call[1])}<｜tool▁call▁end｜>"


def as_kimi(call: Call) -> str:
    begin, arguments, end = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
    return f"{begin}functions.{call[0]}:0{arguments}{as_json(call[1])}{end}"


def as_gemma4(call: Call) -> str:
    def written(value: Any) -> str:
        if isinstance(value, str):
            return f'<|"|>{value}<|"|>'
        if isinstance(value, list):
            return f"[{','.join(map(written, value))}]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{written(key)}:{written(inner)}" for key, inner in value.items()) + "}"
        return json.dumps(value)

    inner = ",".join(f"{key}:{written(value)}" for key, value in call[1].items())
    return f"<|tool_call>call:{call[0]}{{{inner}}}<tool_call|>"


AMID_PROSE: dict[str, tuple[str, Callable[[Call], str]]] = {
    "hermes": ("hermes", lambda call: f"<tool_call>\n{as_object(call)}\n</tool_call>"),
    "mistral array": ("mistral", lambda call: f"[TOOL_CALLS][{as_object(call)}]"),
    "mistral tag": ("mistral", lambda call: f"[TOOL_CALLS]{call[0]}[ARGS]{as_json(call[1])}"),
    "python tag": ("llama3", lambda call: f"<|python_tag|>{as_object(call, 'parameters')}"),
    "pythonic": ("pythonic", lambda call: f"<|python_start|>[{as_python(call)}]<|python_end|>"),
    "deepseek v3": ("deepseek", as_deepseek),
    "deepseek v3.1": ("deepseek", as_deepseek_v31),
    "phi4": ("phi4", lambda call: f"<|tool_call|>[{as_object(call)}]<|/tool_call|>"),
    "functools": ("phi4", lambda call: f"functools[{as_object(call)}]"),
    "fence": ("gemma", lambda call: f"```json\n{as_object(call)}\n```"),
    "tool_code": ("gemma", lambda call: f"```tool_code\nprint({as_python(call)})\n```"),
    "gemma4": ("gemma4", as_gemma4),
    "kimi": ("kimi_k2", as_kimi),
    "line": ("generic", lambda call: f"\n{as_object(call)}\n"),
}
CONVERTED = {"pythonic", "tool_code", "gemma4"}


def tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    def typed(value: Any) -> dict[str, Any]:
        for kind, said in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
            if isinstance(value, kind):
                return {"type": said}
        return {"type": "null" if value is None else "object"}

    properties = {key: typed(value) for key, value in arguments.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def check(
    parser: str, prose: list[str], calls: list[Call], write: Callable[[Call], str], data: st.DataObject
) -> list[str]:
    """The calls come back in order, and the prose around them. Gives the argument texts."""
    tools = [tool(*call) for call in calls]
    text = prose[0] + "".join(write(call) + after for call, after in zip(calls, prose[1:], strict=True))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    for parts in (list(text), cut(text, places)):
        found = answer_of(pieces_of(tool_parser(parser, tools=tools, token_id=no_tokens), parts))
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == calls
        assert "".join(found.content.split()) == "".join("".join(prose).split())
    return [arguments for _, arguments in found.calls]


@pytest.mark.parametrize("form", AMID_PROSE)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_calls_amid_prose(form: str, data: st.DataObject) -> None:
    parser, write = AMID_PROSE[form]
    calls = data.draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3, unique_by=lambda call: call[0]))
    prose = data.draw(st.lists(PROSE, min_size=len(calls) + 1, max_size=len(calls) + 1))
    if form == "functools":  # a word before it would be glued to it
        prose = [words and f"{words} " for words in prose]
    written = check(parser, prose, calls, write, data)
    if form not in CONVERTED:
        assert written == [as_json(arguments) for _, arguments in calls]


WITHOUT_TAGS = st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=("Cs",)), max_size=12)
XML_VALUES = WITHOUT_TAGS | st.integers() | st.booleans() | st.none() | st.lists(st.integers(), max_size=2)
XML_ARGUMENTS = st.dictionaries(KEYS, XML_VALUES, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, XML_ARGUMENTS), max_size=3, unique_by=lambda call: call[0]), PROSE, st.data())
def test_xml_by_the_schema(calls: list[Call], prose: str, data: st.DataObject) -> None:
    check("qwen3_coder", [prose, *[""] * len(calls)], calls, as_xml, data)


WHOLE_ANSWERS: dict[str, tuple[str, Callable[[list[Call]], str]]] = {
    "llama objects": ("llama3", lambda calls: "; ".join(as_object(call, "parameters") for call in calls)),
    "llama lines": ("llama3", lambda calls: "\n".join(as_object(call, "parameters") for call in calls)),
    "array": ("json", lambda calls: f"[{', '.join(map(as_object, calls))}]"),
    "mistral array": ("mistral", lambda calls: f"[TOOL_CALLS] [{', '.join(map(as_object, calls))}]"),
    "pythonic": ("pythonic", lambda calls: f"[{', '.join(map(as_python, calls))}]"),
    "hermes lines": ("hermes", lambda calls: "<tool_call>" + "\n".join(map(as_object, calls)) + "</tool_call>"),
}


@pytest.mark.parametrize("form", WHOLE_ANSWERS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_several_calls_in_one(form: str, data: st.DataObject) -> None:
    parser, write = WHOLE_ANSWERS[form]
    calls = data.draw(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3, unique_by=lambda call: call[0]))
    text = write(calls)
    for parts in ([text], list(text)):
        maker = tool_parser(parser, tools=[tool(*call) for call in calls], token_id=no_tokens)
        found = answer_of(pieces_of(maker, parts))
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == calls
        assert found.content == ""
