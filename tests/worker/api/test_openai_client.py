"""OpenAI's own Python client against the worker: its types, its errors, its streams, its patience."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from mlxctl.worker.errors import EngineFailed
from tests.fakes.echo_engine import Script, said
from tests.fakes.echo_server import EchoServer, eventually

USER: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def client(server: EchoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=USER)
    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    told = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in told if one.choices) == "hello"
    assert told[0].choices[0].delta.role == "assistant"
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens == 5


def test_the_helper_that_puts_streams_together(server: EchoServer, client: openai.OpenAI) -> None:
    server.worker.engine.script = lambda _: Script(said('ok<call>f|{"a": 1}</call>'))
    with client.chat.completions.stream(model="echo", messages=USER, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "ok"
    assert choice.message.tool_calls is not None
    function = choice.message.tool_calls[0].function
    assert (function.name, function.arguments) == ("f", '{"a": 1}')


def test_reasoning(server: EchoServer, client: openai.OpenAI) -> None:
    server.worker.engine.script = lambda _: Script(said("hm</think>yes"))
    answer = client.chat.completions.create(model="echo", messages=USER, extra_body={"enable_thinking": True})
    message: Any = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm", "yes")


def test_logprobs_n_stop_and_seed(server: EchoServer, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=USER, logprobs=True, top_logprobs=3, n=2, stop=["o"], seed=7, logit_bias={"5": 1}
    )
    assert [choice.message.content for choice in answer.choices] == ["hell", "hell"]
    assert answer.choices[1].logprobs is not None
    assert answer.choices[1].logprobs.content is not None
    assert len(answer.choices[1].logprobs.content[0].top_logprobs) == 3
    assert server.worker.engine.submitted[0].sampling.seed == 7


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="echo", prompt=["ab", "cd"], logprobs=1, echo=False)
    assert [choice.text for choice in answer.choices] == ["ab", "cd"]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset == [0, 1]
    stream = client.completions.create(model="echo", prompt="ab", stream=True)
    assert "".join(one.choices[0].text for one in stream) == "ab"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").owned_by == "mlxctl"


@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"temperature": 5}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"model": "gpt-4"}, openai.NotFoundError, "model"),
    ],
)
def test_errors(client: openai.OpenAI, more: dict[str, Any], error: type[openai.APIStatusError], param: str) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "echo", "messages": USER, **more})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_an_error_in_a_stream_is_raised(server: EchoServer, client: openai.OpenAI) -> None:
    server.worker.engine.script = lambda _: Script(said("ab"), error=EngineFailed("out of luck"), fail_after=1)
    stream = client.chat.completions.create(model="echo", messages=USER, stream=True)
    with pytest.raises(openai.APIError, match="out of luck"):
        list(stream)


def test_a_full_queue_is_tried_again(server: EchoServer) -> None:
    """The client takes `Retry-After` at its word; here the queue has room again before that."""
    engine = server.worker.engine
    engine.max_queue = 0

    def room_again(response: httpx.Response) -> None:
        if response.status_code == 429:
            assert response.headers["retry-after"] == "3"
            engine.max_queue = 256
            response.headers["retry-after"] = "0.01"

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=1, timeout=10) as client:
        client._client.event_hooks["response"].append(room_again)
        answer = client.chat.completions.create(model="echo", messages=USER)
    assert answer.choices[0].message.content == "hello"


def test_closing_a_stream_ends_it_here(server: EchoServer, client: openai.OpenAI) -> None:
    server.worker.engine.script = lambda _: Script(said("x" * 4000), step_s=0.005)
    with client.chat.completions.create(model="echo", messages=USER, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: server.worker.engine.running == 0)
    assert len(server.worker.engine.aborted) == 1
