"""Normalising a conversation: what comes from the API, what a template takes, and what it is given."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from mlxctl.worker.adapters.messages import normalise
from mlxctl.worker.adapters.takes import Takes, Tools
from mlxctl.worker.errors import InvalidRequest
from tests.contract.prompts import BUS, called, said
from tests.fakes.dialects import DIALECTS, template

USER, BYE = said("user", "Hi."), said("user", "Bye.")
HELLO = said("assistant", "Hello.")
SYSTEM = said("system", "Be brief.")
ASK = said("assistant", "", tool_calls=[called({"stop": "Elm"}, "call_1")])
AT = said("tool", "10:15", tool_call_id="call_1", name="next_bus")
WHOLE = Takes()


def told(messages: list[dict[str, Any]], takes: Takes = WHOLE, tools: Any = None) -> list[dict[str, Any]]:
    before = copy.deepcopy(messages)
    given, _ = normalise(messages, tools, takes)
    assert messages == before, "what the caller has is left alone"
    return given


CONTENT: list[tuple[Any, str]] = [
    ("text", "text"),
    (None, ""),
    ("", ""),
    ([], ""),
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    (["a", {"type": "input_text", "text": "b"}], "ab"),
    ([{"type": "text", "text": None}], ""),
    ([{"type": "refusal", "refusal": "No."}], "No."),
]


@pytest.mark.parametrize(("content", "text"), CONTENT)
def test_content_becomes_text(content: Any, text: str) -> None:
    assert told([said("user", content)]) == [said("user", text)]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "input_audio", "input_audio": {}}, "input_audio"),
        ({"type": "file"}, "file"),
        ({}, "None"),
        (5, "None"),
    ],
)
def test_a_text_model_reads_no_pictures(part: Any, kind: str) -> None:
    with pytest.raises(InvalidRequest, match="this worker reads text only") as caught:
        told([USER, said("user", [{"type": "text", "text": "what is it?"}, part])])
    assert caught.value.param == "messages"
    assert "messages[1].content[1]" in caught.value.message and kind in caught.value.message


@pytest.mark.parametrize("role", ["robot", "", None, "User"])
def test_unknown_roles_are_refused(role: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\] has the unknown role"):
        told([{"role": role, "content": "x"}])


PLAIN: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("nothing to do", [SYSTEM, USER, HELLO, BYE], [SYSTEM, USER, HELLO, BYE]),
    ("unknown fields go", [{**USER, "refusal": None, "audio": {}}], [USER]),
    ("names stay", [{**USER, "name": "Zoë"}], [{**USER, "name": "Zoë"}]),
    ("no calls", [USER, {**HELLO, "tool_calls": []}], [USER, HELLO]),
    ("no calls at all", [USER, {**HELLO, "tool_calls": None}], [USER, HELLO]),
    ("developer", [said("developer", "Be brief."), USER], [SYSTEM, USER]),
    ("late developer", [USER, HELLO, said("developer", "Be brief."), BYE], [USER, HELLO, SYSTEM, BYE]),
    ("two heads", [SYSTEM, said("developer", "Be kind."), USER], [said("system", "Be brief.\n\nBe kind."), USER]),
    ("an empty head", [said("system", None), SYSTEM, USER], [SYSTEM, USER]),
    (
        "thoughts by any name",
        [USER, {**HELLO, "reasoning": "hm"}],
        [USER, {**HELLO, "reasoning_content": "hm", "thinking": "hm"}],
    ),
    ("thoughts of a user are none", [{**USER, "reasoning": "hm"}], [USER]),
    ("a result finds its name", [USER, ASK, said("tool", "10:15", tool_call_id="call_1")], [USER, ASK, AT]),
    (
        "the old way to call",
        [
            USER,
            said("assistant", None, function_call={"name": "f", "arguments": "{}"}),
            said("function", "1", name="f"),
        ],
        [
            USER,
            said(
                "assistant",
                "",
                tool_calls=[{"id": "call_1_0", "type": "function", "function": {"name": "f", "arguments": {}}}],
            ),
            said("tool", "1", name="f"),
        ],
    ),
]


@pytest.mark.parametrize(("before", "after"), [one[1:] for one in PLAIN], ids=[one[0] for one in PLAIN])
def test_what_every_template_is_given(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    assert told(before) == after


ARGUMENTS: list[tuple[Any, dict[str, Any]]] = [
    ('{"stop": "Elm"}', {"stop": "Elm"}),
    ({"stop": "Elm"}, {"stop": "Elm"}),
    ("", {}),
    (None, {}),
    ("{}", {}),
    ('{"stop": "El', {"arguments": '{"stop": "El'}),
    ("[1]", {"arguments": [1]}),
    ("5", {"arguments": 5}),
    ("null", {"arguments": None}),
]


@pytest.mark.parametrize(("given", "meant"), ARGUMENTS)
@pytest.mark.parametrize("as_objects", [True, False])
def test_arguments_of_a_call(given: Any, meant: dict[str, Any], as_objects: bool) -> None:
    takes = Takes(object_arguments=as_objects)
    call = told([USER, said("assistant", None, tool_calls=[called(given)])], takes)[1]["tool_calls"][0]
    arguments = call["function"]["arguments"]
    assert arguments == meant if as_objects else (isinstance(arguments, str) and json.loads(arguments) == meant)


@pytest.mark.parametrize(
    ("takes", "before", "after"),
    [
        (Takes(developer=True), [said("developer", "Be brief."), USER], [said("developer", "Be brief."), USER]),
        (Takes(system=False), [SYSTEM, USER], [said("user", "Be brief.\n\nHi.")]),
        (Takes(system=False), [SYSTEM, HELLO, BYE], [said("user", "Be brief."), HELLO, BYE]),
        (Takes(system=False), [SYSTEM], [said("user", "Be brief.")]),
        (Takes(system=False), [said("system", ""), USER], [USER]),
        (Takes(late_system=False), [SYSTEM, USER, SYSTEM, BYE], [SYSTEM, USER, said("user", "Be brief."), BYE]),
        (
            Takes(late_system=False, repeated_roles=False),
            [SYSTEM, USER, HELLO, SYSTEM, BYE],
            [SYSTEM, USER, HELLO, said("user", "Be brief.\n\nBye.")],
        ),
        (Takes(repeated_roles=False), [USER, BYE, HELLO], [said("user", "Hi.\n\nBye."), HELLO]),
        (Takes(repeated_roles=False), [USER, HELLO, HELLO], [USER, said("assistant", "Hello.\n\nHello.")]),
        (Takes(repeated_roles=False), [USER, said("assistant", ""), HELLO], [USER, HELLO]),
        (Takes(repeated_roles=False), [USER, ASK, AT, AT, HELLO], [USER, ASK, AT, AT, HELLO]),
        (Takes(repeated_roles=False), [USER, HELLO, ASK, AT], [USER, {**ASK, "content": "Hello."}, AT]),
        (Takes(repeated_roles=False), [USER, ASK, HELLO], [USER, ASK, HELLO]),
        (Takes(null_content=True), [USER, ASK, AT, HELLO], [USER, {**ASK, "content": None}, AT, HELLO]),
        (
            Takes(null_content=True),
            [USER, {**ASK, "content": "Wait."}],
            [USER, said("assistant", "Wait."), {**ASK, "content": None}],
        ),
        (Takes(parts=True), [USER], [said("user", [{"type": "text", "text": "Hi."}])]),
        (
            Takes(words_beside_thoughts=False),
            [USER, {**ASK, "content": "Wait.", "reasoning_content": "Look."}],
            [USER, {**ASK, "thinking": "Look.\n\nWait.", "reasoning_content": "Look.\n\nWait."}],
        ),
        (
            Takes(words_beside_thoughts=False),
            [USER, {**ASK, "content": "Wait."}],
            [USER, {**ASK, "content": "Wait."}],
        ),
    ],
)
def test_what_some_templates_are_given(takes: Takes, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    assert told(before, takes) == after


def two_calls(first: str = "a", second: str = "b") -> dict[str, Any]:
    return said("assistant", "Two.", tool_calls=[called({}, first), called({}, second)])


def result(call_id: str, text: str) -> dict[str, Any]:
    return said("tool", text, tool_call_id=call_id, name="next_bus")


@pytest.mark.parametrize(
    "results",
    [[result("a", "1"), result("b", "2")], [result("b", "2"), result("a", "1")]],
    ids=["in order", "the other way round"],
)
def test_several_calls_one_turn_each(results: list[dict[str, Any]]) -> None:
    given = told([USER, two_calls(), *results, BYE], Takes(several_calls=False))
    assert given == [
        USER,
        said("assistant", "Two.", tool_calls=[called({}, "a")]),
        result("a", "1"),
        said("assistant", "", tool_calls=[called({}, "b")]),
        result("b", "2"),
        BYE,
    ]


def test_results_that_say_not_whose_they_are_answer_in_order_and_none_is_lost() -> None:
    loose = [said("tool", text) for text in "123"]
    given = told([USER, two_calls(), *loose], Takes(several_calls=False))
    assert [one["content"] for one in given] == ["Hi.", "Two.", "1", "", "2", "3"]


def test_calls_without_results_yet() -> None:
    given = told([USER, two_calls()], Takes(several_calls=False))
    assert [len(one.get("tool_calls", [])) for one in given] == [0, 1, 1]


@pytest.mark.parametrize("call_id", ["call_0123456789abcdef", "short", "exactly-9", "", "call00001", "é" * 9])
def test_short_ids(call_id: str) -> None:
    messages = [USER, said("assistant", "", tool_calls=[called({}, call_id)]), said("tool", "1", tool_call_id=call_id)]
    given = told(messages, Takes(short_ids=True))
    short = given[1]["tool_calls"][0]["id"]
    assert len(short) == 9 and short.isascii() and short.isalnum()
    assert (short == call_id) == (call_id == "call00001")
    if call_id:
        assert given[2]["tool_call_id"] == short
    assert told(messages, Takes(short_ids=True)) == given


def test_short_ids_of_different_calls_differ() -> None:
    given = told([USER, two_calls("call_aaaaaaaa1", "call_aaaaaaaa2")], Takes(short_ids=True))
    assert len({call["id"] for call in given[1]["tool_calls"]}) == 2


TOLD_CALL = '<tool_call>\n{"name": "next_bus", "arguments": {"stop": "Elm"}}\n</tool_call>'


def test_calls_in_words_for_a_template_that_leaves_them_out() -> None:
    given = told([USER, {**ASK, "content": "Wait."}, AT], Takes(calls=False))
    assert given == [
        USER,
        said("assistant", f"Wait.\n{TOLD_CALL}"),
        said("user", "<tool_response>\n10:15\n</tool_response>"),
    ]


@pytest.mark.parametrize(
    ("way", "first", "left"),
    [
        (Tools.ARGUMENT, SYSTEM, [BUS]),
        (Tools.ARGUMENT_BESIDE_SYSTEM, SYSTEM, [BUS]),
        (Tools.FIELD_OF_SYSTEM, {**SYSTEM, "tools": json.dumps([BUS["function"]])}, None),
    ],
)
def test_where_tools_go(way: Tools, first: dict[str, Any], left: Any) -> None:
    assert normalise([SYSTEM, USER], [BUS], Takes(tools=way)) == ([first, USER], left)
    assert normalise([SYSTEM, USER], None, Takes(tools=way)) == ([SYSTEM, USER], None)
    assert normalise([SYSTEM, USER], [], Takes(tools=way)) == ([SYSTEM, USER], None)


@pytest.mark.parametrize("way", [Tools.ARGUMENT_BESIDE_SYSTEM, Tools.FIELD_OF_SYSTEM])
def test_a_system_message_is_made_for_tools_that_need_one(way: Tools) -> None:
    given, _ = normalise([USER], [BUS], Takes(tools=way))
    assert [one["role"] for one in given] == ["system", "user"]
    assert given[0]["content"] == ""


@pytest.mark.parametrize(
    ("takes", "role", "start"),
    [
        (Takes(tools=Tools.TOLD), "system", "Be brief.\n\n# Tools\n\n"),
        (Takes(tools=Tools.TOLD, system=False), "user", "Be brief.\n\n# Tools\n\n"),
    ],
)
def test_tools_are_told_in_words(takes: Takes, role: str, start: str) -> None:
    given, left = normalise([SYSTEM, USER], [BUS], takes)
    assert left is None
    assert given[0]["role"] == role
    assert given[0]["content"].startswith(start)
    assert json.dumps(BUS) in given[0]["content"]
    assert given[-1]["content"].endswith("Hi.")


STORY = [SYSTEM, USER, HELLO, said("user", "Bus at Elm?"), two_calls("call_1", "call_2")]
STORY += [result("call_1", "10:15"), result("call_2", "10:45"), said("assistant", "Soon."), BYE, said("user", "Ciao.")]


@pytest.mark.parametrize("name", DIALECTS)
def test_every_template_renders_a_whole_agents_conversation_and_leaves_no_word_out(name: str) -> None:
    text, takes = DIALECTS[name]
    messages, tools = normalise([said("developer", "Be kind."), *STORY], [BUS], takes)
    shown = template(text).render(messages, tools)
    words = ["Be kind.", "Be brief.", "Hi.", "Hello.", "Bus at Elm?", "10:15", "10:45", "Soon.", "Bye.", "Ciao."]
    places = [shown.find(word) for word in words]
    assert -1 not in places
    assert places[2:] == sorted(places[2:])
    assert shown.count("next_bus") >= 3
    assert "Name of the stop" in shown
