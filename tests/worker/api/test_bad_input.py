"""Bad input of every kind: an error in OpenAI's shape with the right status, and nobody else harmed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxctl.worker.api.documents import ErrorBody
from tests.fakes.echo_engine import Script, said
from tests.fakes.echo_server import EchoServer, EchoWorker, chunks

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
HUGE = 10**30


def check(response: Any, status: int, param: str | None, code: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = ErrorBody.model_validate(response.json()).error
    assert error.message
    assert error.param == param, error.message
    if code is not None:
        assert error.code == code


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "cut off": b'{"messages": [',
    "a comma too many": b'{"messages": [],}',
    "two documents": b"{} {}",
    "single quotes": b"{'messages': []}",
    "broken UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "UTF-8 cut in the middle": b'{"messages": [{"role": "user", "content": "\xc3"}]}',
    "a lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "UTF-16": json.dumps({"messages": [USER]}).encode("utf-16"),
    "NaN": b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role": "user", "content": "a"}], "temperature": Infinity}',
    "NaN where anything goes": b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"a": NaN}}',
    "bottomless": b'{"messages": ' + b"[" * 100_000,
    "a list": b"[]",
    "a text": b'"messages"',
    "null": b"null",
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(server: EchoServer, path: str, name: str) -> None:
    response = server.client.post(path, content=MALFORMED[name], headers={"Content-Type": "application/json"})
    check(response, 400, None, "invalid_json")


def test_json_under_another_name(server: EchoServer) -> None:
    response = server.client.post(
        CHAT, content=json.dumps({"messages": [USER]}), headers={"Content-Type": "text/plain"}
    )
    check(response, 400, None, "invalid_json")
    assert "application/json" in response.json()["error"]["message"]


def field(name: str, *values: Any) -> list[tuple[dict[str, Any], str]]:
    return [({name: value}, name) for value in values]


SHARED = [
    *field("temperature", -0.1, 2.1, HUGE, 1e300, "hot", [], {}, True),
    *field("top_p", -0.1, 1.1, "all", True),
    *field("top_k", -2, HUGE, 1.5, "many"),
    *field("min_p", -0.1, 1.1),
    *field("repetition_penalty", 0, -1, 11, "much"),
    *field("presence_penalty", -2.1, 2.1, HUGE),
    *field("frequency_penalty", -2.1, 2.1, "a"),
    *field("max_tokens", 0, -1, HUGE, 1.5, "10", True),
    *field("seed", 2**63, -(2**63) - 1, HUGE, "7", 0.5),
    *field("n", 0, -1, 17, HUGE, "2", 1.5),
    *field("stop", "", ["a"] * 17, 5, {}),
    *field("stream", "yes", 1),
    *field("stream_options", True, []),
    *field("logit_bias", [], "5"),
    *field("priority", "urgent", 3, -1, 0.5),
    *field("model", 5, ["echo"]),
    *field("user", 5),
    ({"stop": [""]}, "stop.0"),
    ({"stop": ["a", 1]}, "stop.1"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"1.5": 1}}, "logit_bias.1.5"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"5": "much"}}, "logit_bias.5"),
    ({"logit_bias": {"261": 1}}, "logit_bias"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
]

CHAT_FIELDS = [
    *field("messages", None, [], {}, "hi", 5),
    *field("max_completion_tokens", 0, -5, HUGE, "10"),
    *field("top_logprobs", 2, -1, 21),
    *field("logprobs", 5, "yes"),
    *field("parallel_tool_calls", "no"),
    *field("reasoning_effort", "extreme", 5),
    *field("enable_thinking", "yes"),
    *field("chat_template_kwargs", [], "a"),
    *field("tools", "f", {}),
    *field("tool_choice", "f", 5, "required"),
    ({"top_logprobs": 5, "logprobs": False}, "top_logprobs"),
    ({"messages": [5]}, "messages.0"),
    ({"messages": [{}]}, "messages.0"),
    ({"messages": [{"content": "a"}]}, "messages.0"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0"),
    ({"messages": [{"role": None, "content": "a"}]}, "messages.0"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0.type",
    ),
    ({"messages": [USER, {"role": "tool", "content": "a"}]}, "messages.1.tool_call_id"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages.1.tool_calls.0.function"),
    (
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]},
            ]
        },
        "messages.1.tool_calls.0.function.arguments",
    ),
    ({"messages": [{"role": "user", "content": "refuse"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ({"tools": [5]}, "tools.0"),
    ({"tools": [{}]}, "tools.0.type"),
    ({"tools": [{"type": "retrieval", "function": {"name": "f"}}]}, "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "tools.0.function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x" * 129}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}},
        "response_format",
    ),
]

TEXT_FIELDS = [
    *field("prompt", None, "", [], [[]], {}, 5, [""], ["a", 5], ["a"] * 129, [-1], [261], [HUGE], [[1], [261]], [1.5]),
    *field("suffix", "end", 5),
    *field("best_of", 2, 0, 21),
    *field("logprobs", -1, 21, True),
    *field("echo", "yes"),
    ({"n": 2, "best_of": 1}, "best_of"),
    ({"echo": True, "logprobs": 1}, "echo"),
    ({"prompt": ["a"] * 100, "n": 2}, "n"),
]


def name_of(case: Any) -> str:
    return json.dumps(case)[:60] if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(("wrong", "param"), [*SHARED, *CHAT_FIELDS], ids=name_of)
def test_chat_fields(server: EchoServer, wrong: dict[str, Any], param: str) -> None:
    check(server.client.post(CHAT, json={"messages": [USER], **wrong}), 400, param)
    assert server.worker.engine.submitted == []


@pytest.mark.parametrize(("wrong", "param"), [*SHARED, *TEXT_FIELDS], ids=name_of)
def test_completion_fields(server: EchoServer, wrong: dict[str, Any], param: str) -> None:
    response = server.client.post(TEXT, json={"prompt": "hi", **wrong})
    assert response.status_code == 400
    told = response.json()["error"]["param"]
    # of a prompt's four forms the one that fits best may name a place within it
    assert told == param or (param == "prompt" and told.startswith("prompt."))
    assert server.worker.engine.submitted == []


def test_missing_fields(server: EchoServer) -> None:
    check(server.client.post(CHAT, json={}), 400, "messages")
    check(server.client.post(TEXT, json={}), 400, "prompt")


def test_errors_come_with_their_status_in_streams_too(server: EchoServer) -> None:
    check(server.client.post(CHAT, json={"messages": [USER], "stream": True, "temperature": 5}), 400, "temperature")
    check(
        server.client.post(CHAT, json={"messages": [{"role": "user", "content": "refuse"}], "stream": True}),
        400,
        "messages",
    )


def test_a_prompt_over_the_context_tells_the_numbers(server: EchoServer) -> None:
    response = server.client.post(CHAT, json={"messages": [{"role": "user", "content": "x" * 5000}]})
    check(response, 400, "messages", "context_length_exceeded")
    message = response.json()["error"]["message"]
    assert "4096" in message
    assert "5006" in message


UNKNOWN: list[dict[str, Any]] = [
    {"frobnicate": True},
    {"metadata": {"a": 1}, "store": True, "service_tier": "auto", "modalities": ["text"]},
    {"messages": [{**USER, "weight": 1}]},
    {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]},
    {"temperature": None, "top_p": None, "stop": None, "n": None, "seed": None, "tools": None, "tool_choice": None},
    {"temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0, "stop": [], "logit_bias": {}},
    {"seed": -1, "max_tokens": 2**31 - 1, "temperature": 2, "logit_bias": {"260": -100, "0": 100}},
    {"tools": [], "tool_choice": "auto"},
    {"response_format": {"type": "text"}},
]


@pytest.mark.parametrize("more", UNKNOWN, ids=name_of)
def test_what_is_unknown_or_null_is_ignored(server: EchoServer, more: dict[str, Any]) -> None:
    response = server.client.post(CHAT, json={"messages": [USER], **more})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("name", ["gpt-4", "org/model", "ECHO", " echo", "../../etc/passwd", "echo\x00"])
def test_another_model_is_not_found(server: EchoServer, name: str) -> None:
    for path, body in ((CHAT, {"messages": [USER]}), (TEXT, {"prompt": "hi"})):
        check(server.client.post(path, json={**body, "model": name}), 404, "model", "model_not_found")
    assert server.worker.engine.submitted == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
def test_routes_that_are_not_there(server: EchoServer, method: str, path: str, status: int) -> None:
    check(server.client.request(method, path), status, None)


@pytest.mark.parametrize("value", ["urgent", "3", "-1", "high low"])
def test_a_priority_header_that_says_nothing(server: EchoServer, value: str) -> None:
    check(server.client.post(CHAT, json={"messages": [USER]}, headers={"X-Priority": value}), 400, "X-Priority")


def test_a_stream_beside_all_of_this_is_unharmed() -> None:
    """One stream runs while every malformed body comes by; its tokens are those of a quiet server."""
    text = "the quick brown fox " * 10
    with EchoServer(EchoWorker(lambda _: Script(said(text), step_s=0.002))) as server:
        told = ""
        with server.client.stream("POST", CHAT, json={"messages": [USER], "stream": True}) as stream:
            lines = stream.iter_lines()
            for data in [
                *MALFORMED.values(),
                json.dumps({"messages": [USER], "temperature": "x" * 1_000_000}).encode(),
            ]:
                told += next(lines) + "\n"
                assert server.client.post(CHAT, content=data).status_code == 400
            told += "\n".join(lines)
        contents = [one["choices"][0]["delta"].get("content", "") for one in chunks(told) if isinstance(one, dict)]
        assert "".join(contents) == text
