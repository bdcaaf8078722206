"""Chat answers on the wire: whole and streamed say the same, in OpenAI's shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxctl.worker.api.documents import ChatCompletion
from mlxctl.worker.errors import EngineFailed
from tests.fakes.echo_engine import END, Script, said
from tests.fakes.echo_server import EchoServer, EchoWorker, chunks

URL = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def body(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def post(server: EchoServer, **more: Any) -> dict[str, Any]:
    response = server.client.post(URL, json=body(**more))
    assert response.status_code == 200, response.text
    ChatCompletion.model_validate(response.json())
    return response.json()


def stream(server: EchoServer, **more: Any) -> list[Any]:
    response = server.client.post(URL, json=body(stream=True, **more))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return chunks(response.text)


def together(told: list[Any]) -> list[dict[str, Any]]:
    """The messages that a client puts together from a stream, by choice."""
    messages: dict[int, dict[str, Any]] = {}
    for event in told:
        for choice in event["choices"] if isinstance(event, dict) else []:
            message = messages.setdefault(choice["index"], {"content": "", "reasoning_content": "", "tool_calls": []})
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert len(message["tool_calls"]) == call["index"]
                    message["tool_calls"].append(
                        {"id": call["id"], "type": call["type"], "function": {**call["function"]}}
                    )
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            assert "finish_reason" not in message or choice["finish_reason"] is None
            if choice["finish_reason"] is not None:
                message["finish_reason"] = choice["finish_reason"]
    return [messages[index] for index in sorted(messages)]


ANSWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "words": ("hello wörld 😀", {}, {"content": "hello wörld 😀", "finish_reason": "stop"}),
    "what JSON must escape": ('a"b\\c\n\x00\u2028', {}, {"content": 'a"b\\c\n\x00\u2028', "finish_reason": "stop"}),
    "nothing": ("", {}, {"content": "", "finish_reason": "stop"}),
    "cut by max_tokens": ("hello", {"max_tokens": 2}, {"content": "he", "finish_reason": "length"}),
    "cut by max_completion_tokens": (
        "hello",
        {"max_tokens": 4, "max_completion_tokens": 2},
        {"content": "he", "finish_reason": "length"},
    ),
    "stopped": ("hello", {"stop": "l"}, {"content": "he", "finish_reason": "stop"}),
    "stopped by one of several": ("hello", {"stop": ["x", "lo"]}, {"content": "hel", "finish_reason": "stop"}),
    "thoughts": (
        "so</think>yes",
        {"enable_thinking": True},
        {"reasoning_content": "so", "content": "yes", "finish_reason": "stop"},
    ),
    "a call": (
        'well <call>f|{"a": "é"}</call>',
        {"tools": [TOOL]},
        {
            "content": "well ",
            "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}],
            "finish_reason": "tool_calls",
        },
    ),
    "two calls": (
        "<call>f|{}</call><call>g|[]</call>",
        {"tools": [TOOL]},
        {
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "[]"}},
            ],
            "finish_reason": "tool_calls",
        },
    ),
    "one call of two": (
        "<call>f|{}</call><call>g|[]</call>",
        {"tools": [TOOL], "parallel_tool_calls": False},
        {
            "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "finish_reason": "tool_calls",
        },
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whole_and_streamed_are_the_same(server: EchoServer, name: str) -> None:
    text, more, expected = ANSWERS[name]
    server.worker.engine.script = lambda _: Script([*said(text), END])
    whole = post(server, **more)["choices"][0]
    message = whole["message"]
    assert message["role"] == "assistant"
    assert (message["content"] or "") == expected.get("content", "")
    assert message.get("reasoning_content", "") == expected.get("reasoning_content", "")
    assert message.get("tool_calls", []) == expected.get("tool_calls", [])
    assert whole["finish_reason"] == expected["finish_reason"]
    (streamed,) = together(stream(server, **more))
    assert streamed == {"content": "", "reasoning_content": "", "tool_calls": []} | expected


def test_content_is_null_where_there_are_calls_alone(server: EchoServer) -> None:
    server.worker.engine.script = lambda _: Script(said("<call>f|{}</call>"))
    assert post(server, tools=[TOOL])["choices"][0]["message"]["content"] is None


def test_a_whole_answer(server: EchoServer) -> None:
    answer = post(server)
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "echo")
    assert answer["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stream_begins_with_the_role_and_ends_with_done(server: EchoServer) -> None:
    told = stream(server)
    assert told[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert told[-1] == "[DONE]"
    assert told[-2]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    heads = {(one["id"], one["object"], one["created"], one["model"]) for one in told[:-1]}
    assert len(heads) == 1
    assert all("usage" not in one for one in told[:-1])


def test_the_usage_chunk_is_the_last_and_has_no_choices(server: EchoServer) -> None:
    server.worker.engine.script = lambda _: Script(said("a</think>b"), cached=3)
    told = stream(server, stream_options={"include_usage": True}, enable_thinking=True)
    assert [one["usage"] for one in told[:-2]] == [None] * (len(told) - 2)
    assert told[-2]["choices"] == []
    assert told[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert told[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_several_choices(server: EchoServer) -> None:
    whole = post(server, n=3)
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["hello"] * 3
    assert whole["usage"]["completion_tokens"] == 15
    assert [message["content"] for message in together(stream(server, n=3))] == ["hello"] * 3


def test_logprobs(server: EchoServer) -> None:
    whole = post(server, text="é!", logprobs=True, top_logprobs=2)["choices"][0]
    content = whole["logprobs"]["content"]
    assert [token["bytes"] for token in content] == [[0xC3], [0xA9], [0x21]]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "é!"
    assert content[2]["token"] == "!"
    assert content[2]["top_logprobs"] == [
        {"token": "!", "logprob": -0.5, "bytes": [33]},
        {"token": '"', "logprob": -1.5, "bytes": [34]},
    ]
    told = stream(server, text="é!", logprobs=True, top_logprobs=2)
    streamed = [token for one in told[:-1] for token in (one["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == content


def test_logprobs_without_alternatives(server: EchoServer) -> None:
    content = post(server, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in content] == [[]] * 5


def test_no_logprobs_unless_asked_for(server: EchoServer) -> None:
    assert post(server)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("fail_after", [0, 2])
def test_an_error_in_a_stream_is_an_event(server: EchoServer, fail_after: int) -> None:
    error = EngineFailed("out of luck")
    server.worker.engine.script = lambda _: Script(said("hello"), error=error, fail_after=fail_after)
    told = stream(server)
    assert told[-2:] == [error.body(), "[DONE]"]
    assert together(told[:-2])[0]["content"] == "hello"[:fail_after]


def test_an_error_of_a_whole_answer_is_its_status(server: EchoServer) -> None:
    error = EngineFailed("out of luck")
    server.worker.engine.script = lambda _: Script(said("hello"), error=error, fail_after=2)
    response = server.client.post(URL, json=body())
    assert (response.status_code, response.json()) == (500, error.body())


class BrokenParser:
    def push(self, token: int, text: str) -> Any:
        raise LookupError("a parser with a mistake")

    finish = push


@pytest.mark.parametrize("streams", [False, True])
def test_a_mistake_of_ours_breaks_nobody_else(
    server: EchoServer, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Any = server.worker.language.adapter
    monkeypatch.setattr(adapter, "parser", lambda *_: BrokenParser())
    response = server.client.post(URL, json=body(stream=streams))
    error = chunks(response.text)[-2] if streams else response.json()
    assert response.status_code == (200 if streams else 500)
    assert error["error"]["code"] == "internal_error"
    assert "LookupError" not in response.text
    monkeypatch.undo()
    assert post(server)["choices"][0]["message"]["content"] == "hello"


def test_forced_calls(server: EchoServer) -> None:
    server.worker.engine.script = lambda _: Script(said('{"a": 1}'))
    choice = {"type": "function", "function": {"name": "f"}}
    whole = post(server, tools=[TOOL], tool_choice=choice)["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    (call,) = whole["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("f", {"a": 1})


def test_the_model_may_be_named_in_three_ways(server: EchoServer) -> None:
    for name in ("echo", "default_model", "", None):
        assert post(server, model=name)["model"] == "echo"


def test_defaults_of_the_server_stand_under_the_request() -> None:
    params = {"temperature": 0.25, "max_tokens": 3, "stop": ["z"], "chat_template_kwargs": {"a": 1, "b": 1}}
    with EchoServer(EchoWorker(request_params=params)) as own:
        post(own)
        post(own, temperature=0.75, max_completion_tokens=4, chat_template_kwargs={"b": 2})
        first, second = own.worker.engine.submitted
        asked: Any = own.worker.language.adapter
        assert (first.sampling.temperature, first.max_tokens) == (0.25, 3)
        assert (second.sampling.temperature, second.max_tokens) == (0.75, 4)
        assert [one["kwargs"] for one in asked.asked] == [{"a": 1, "b": 1}, {"a": 1, "b": 2}]


def test_wrong_defaults_are_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="temperature"):
        EchoWorker(request_params={"temperature": "hot"})
