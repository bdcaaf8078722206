"""From the wire to the worker's own words: every parameter arrives, defaults stand under it."""

from __future__ import annotations

from typing import Any

import pytest

from mlxctl.worker.api.asks import LEAST_TOP_P, Caller, chat_ask, check_model, read_defaults, text_ask
from mlxctl.worker.api.wire import ChatRequest, CompletionRequest
from mlxctl.worker.ask import AnswerFormat, ChatAsk, TextAsk, ToolChoice
from mlxctl.worker.errors import InvalidRequest, UnknownModel
from mlxctl.worker.types import Priority, Sampling

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "default": None}}}


def chat(defaults: dict[str, Any] | None = None, caller: Caller | None = None, **body: Any) -> ChatAsk:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **body})
    return chat_ask(request, caller or Caller(), read_defaults(defaults or {}))


def text(defaults: dict[str, Any] | None = None, **body: Any) -> TextAsk:
    return text_ask(CompletionRequest.model_validate({"prompt": "hi", **body}), Caller(), read_defaults(defaults or {}))


def test_openai_s_defaults() -> None:
    asked = chat()
    assert asked.terms.sampling == Sampling()
    assert (asked.terms.max_tokens, asked.terms.stop, asked.terms.n) == (None, (), 1)
    assert (asked.tools, asked.tool_choice, asked.parallel_tool_calls) == ([], ToolChoice("none"), True)
    assert asked.answer_format == AnswerFormat()
    assert asked.template_kwargs == {}


SAMPLING: list[tuple[dict[str, Any], Sampling]] = [
    ({"temperature": 0}, Sampling(temperature=0.0)),
    ({"temperature": 1.5, "top_p": 0.9}, Sampling(temperature=1.5, top_p=0.9)),
    ({"top_p": 0}, Sampling(top_p=LEAST_TOP_P)),
    ({"top_k": 5, "min_p": 0.1}, Sampling(top_k=5, min_p=0.1)),
    ({"top_k": -1}, Sampling(top_k=0)),
    ({"repetition_penalty": 1.1}, Sampling(repetition_penalty=1.1)),
    ({"presence_penalty": -2, "frequency_penalty": 2}, Sampling(presence_penalty=-2.0, frequency_penalty=2.0)),
    ({"logit_bias": {"7": 5, "3": -100}}, Sampling(logit_bias=((3, -100.0), (7, 5.0)))),
    ({"seed": 0}, Sampling(seed=0)),
    ({"seed": -1}, Sampling(seed=2**63 - 1)),
    ({"temperature": None, "seed": None}, Sampling()),
]


@pytest.mark.parametrize(("body", "expected"), SAMPLING)
def test_sampling(body: dict[str, Any], expected: Sampling) -> None:
    assert chat(**body).terms.sampling == expected
    assert text(**body).terms.sampling == expected
    assert chat(defaults=body).terms.sampling == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_chat_logprobs(body: dict[str, Any], expected: int | None) -> None:
    assert chat(**body).terms.sampling.logprobs == expected


@pytest.mark.parametrize(("body", "expected"), [({}, None), ({"logprobs": 0}, 0), ({"logprobs": 5}, 5)])
def test_text_logprobs(body: dict[str, Any], expected: int | None) -> None:
    assert text(**body).terms.sampling.logprobs == expected


@pytest.mark.parametrize(
    ("defaults", "body", "expected"),
    [
        ({}, {"max_tokens": 5}, 5),
        ({}, {"max_completion_tokens": 5}, 5),
        ({}, {"max_tokens": 6, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 7}, {}, 7),
        ({"max_tokens": 7}, {"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, {"max_tokens": 5}, 5),
        ({"max_tokens": 9, "max_completion_tokens": 7}, {}, 7),
    ],
)
def test_max_tokens(defaults: dict[str, Any], body: dict[str, Any], expected: int) -> None:
    assert chat(defaults, **body).terms.max_tokens == expected


@pytest.mark.parametrize(("stop", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop(stop: Any, expected: tuple[str, ...]) -> None:
    assert chat(stop=stop).terms.stop == expected


@pytest.mark.parametrize(
    ("defaults", "body", "expected"),
    [
        ({}, {"enable_thinking": False}, {"enable_thinking": False}),
        ({}, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({}, {"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        (
            {},
            {"reasoning_effort": "none", "enable_thinking": True},
            {"reasoning_effort": "none", "enable_thinking": True},
        ),
        ({}, {"chat_template_kwargs": {"a": None}}, {"a": None}),
        ({"chat_template_kwargs": {"a": 1}}, {"chat_template_kwargs": {"b": 2}}, {"a": 1, "b": 2}),
        ({"enable_thinking": True}, {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": True}, {"enable_thinking": True}),
    ],
)
def test_template_kwargs(defaults: dict[str, Any], body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(defaults, **body).template_kwargs == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"tools": [TOOL]}, ToolChoice("auto")),
        ({"tools": [TOOL], "tool_choice": "none"}, ToolChoice("none")),
        ({"tools": [TOOL], "tool_choice": "auto"}, ToolChoice("auto")),
        ({"tools": [TOOL], "tool_choice": "required"}, ToolChoice("required")),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            ToolChoice("required", "f"),
        ),
    ],
)
def test_tool_choice(body: dict[str, Any], expected: ToolChoice) -> None:
    asked = chat(**body)
    assert asked.tool_choice == expected
    assert asked.tools == [TOOL], "a null within a schema is part of it"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, AnswerFormat()),
        ({"type": "text"}, AnswerFormat()),
        ({"type": "json_object"}, AnswerFormat("json_object")),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            AnswerFormat("json_schema", {"type": "object"}),
        ),
    ],
)
def test_answer_format(form: Any, expected: AnswerFormat) -> None:
    assert chat(response_format=form).answer_format == expected


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "a"},
    {"role": "developer", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": "", "name": "ann"},
    {"role": "assistant", "content": "a", "reasoning_content": "b"},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}}],
    },
    {"role": "tool", "content": "a", "tool_call_id": "c"},
    {"role": "function", "content": "a", "name": "f"},
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["role"])
def test_messages_go_through_as_they_are(message: dict[str, Any]) -> None:
    assert chat(messages=[message, {**message, "extra": 1}]).messages == [message, message]


def test_a_null_content_is_no_content() -> None:
    assert chat(messages=[{"role": "assistant", "content": None}]).messages == [{"role": "assistant"}]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_prompts(prompt: Any, expected: Any) -> None:
    assert text(prompt=prompt).prompts == expected


@pytest.mark.parametrize(
    ("key", "header", "body", "expected"),
    [
        (Priority.NORMAL, "", None, Priority.NORMAL),
        (Priority.LOW, "", None, Priority.LOW),
        (Priority.LOW, "high", None, Priority.HIGH),
        (Priority.LOW, " High ", None, Priority.HIGH),
        (Priority.LOW, "high", "normal", Priority.NORMAL),
        (Priority.LOW, "", 0, Priority.HIGH),
        (Priority.HIGH, "", 2, Priority.LOW),
    ],
)
def test_priorities(key: Priority, header: str, body: Any, expected: Priority) -> None:
    assert chat(caller=Caller(key, header), priority=body).terms.priority is expected


def test_a_header_that_says_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="urgent"):
        chat(caller=Caller(header="urgent"))


def test_the_tenant_arrives() -> None:
    assert chat(caller=Caller(salt="s")).terms.salt == "s"


@pytest.mark.parametrize("name", [None, "", "mine", "default_model"])
def test_names_that_are_served(name: str | None) -> None:
    check_model(name, "mine")


@pytest.mark.parametrize("name", ["Mine", "mine ", "other"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(UnknownModel, match="mine"):
        check_model(name, "mine")


@pytest.mark.parametrize(
    ("params", "said"),
    [({"top_p": 5}, "top_p"), ({"stop": 5}, "stop"), ({"chat_template_kwargs": []}, "chat_template")],
)
def test_defaults_that_no_request_could_say(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_defaults(params)


def test_unknown_defaults_are_ignored_like_unknown_fields() -> None:
    assert chat({"frobnicate": 1}).terms.sampling == Sampling()
