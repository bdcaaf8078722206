"""Completions on the wire: every form of prompt, echo, log probabilities, streams."""

from __future__ import annotations

from typing import Any

import pytest

from mlxctl.worker.api.documents import Completion
from tests.fakes.echo_engine import Script, said
from tests.fakes.echo_server import EchoServer, chunks

URL = "/v1/completions"


def post(server: EchoServer, **body: Any) -> dict[str, Any]:
    response = server.client.post(URL, json=body)
    assert response.status_code == 200, response.text
    Completion.model_validate(response.json())
    return response.json()


def streamed(server: EchoServer, **body: Any) -> list[Any]:
    response = server.client.post(URL, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    return chunks(response.text)


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def together(told: list[Any]) -> list[str]:
    found: dict[int, str] = {}
    for event in told:
        for choice in event["choices"] if isinstance(event, dict) else []:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return [found[index] for index in sorted(found)]


PROMPTS: list[tuple[Any, list[str]]] = [
    ("ab", ["ab"]),
    (["ab"], ["ab"]),
    (["ab", "cd"], ["ab", "cd"]),
    ([97, 98], ["ab"]),
    ([[97, 98]], ["ab"]),
    ([[97], [98, 99]], ["a", "bc"]),
]


@pytest.mark.parametrize(("prompt", "answers"), PROMPTS)
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_prompts(server: EchoServer, prompt: Any, answers: list[str], n: int, echo: bool) -> None:
    expected = [(answer if echo else "") + answer for answer in answers for _ in range(n)]
    whole = post(server, prompt=prompt, n=n, echo=echo)
    assert texts(whole) == expected
    assert [choice["index"] for choice in whole["choices"]] == list(range(len(expected)))
    assert whole["usage"]["prompt_tokens"] == sum(map(len, answers))
    assert whole["usage"]["completion_tokens"] == n * sum(map(len, answers))
    assert together(streamed(server, prompt=prompt, n=n, echo=echo)) == expected


def test_a_whole_answer(server: EchoServer) -> None:
    answer = post(server, prompt="ab", model="default_model")
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "echo")
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_tags_are_text(server: EchoServer) -> None:
    """A completion is what the model wrote; nothing is taken for a thought or a call."""
    server.worker.engine.script = lambda _: Script(said("<think>a</think><call>b"))
    assert texts(post(server, prompt="x")) == ["<think>a</think><call>b"]


@pytest.mark.parametrize(
    ("more", "text", "reason"),
    [
        ({"max_tokens": 3}, "hel", "length"),
        ({"stop": "l"}, "he", "stop"),
        ({"stop": ["o"]}, "hell", "stop"),
        ({"best_of": 1}, "hello", "stop"),
        ({"suffix": ""}, "hello", "stop"),
    ],
)
def test_ends(server: EchoServer, more: dict[str, Any], text: str, reason: str) -> None:
    (choice,) = post(server, prompt="hello", **more)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)


def test_logprobs(server: EchoServer) -> None:
    expected = {
        "tokens": ["h", "i"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"h": -0.5, "i": -1.5}, {"i": -0.5, "j": -1.5}],
        "text_offset": [0, 1],
    }
    assert post(server, prompt="hi", logprobs=2)["choices"][0]["logprobs"] == expected
    parts = [one["choices"][0]["logprobs"] for one in streamed(server, prompt="hi", logprobs=2)[:-1]]
    joined = {key: [item for part in parts if part for item in part[key]] for key in expected}
    assert joined == expected


def test_logprobs_of_the_drawn_token_alone(server: EchoServer) -> None:
    logprobs = post(server, prompt="hi", logprobs=0)["choices"][0]["logprobs"]
    assert (logprobs["token_logprobs"], logprobs["top_logprobs"]) == ([-0.5, -0.5], [{}, {}])


def test_the_usage_chunk(server: EchoServer) -> None:
    told = streamed(server, prompt="hi", stream_options={"include_usage": True})
    assert told[-1] == "[DONE]"
    assert (told[-2]["choices"], told[-2]["usage"]["total_tokens"]) == ([], 4)
    assert all(one["usage"] is None for one in told[:-2])
