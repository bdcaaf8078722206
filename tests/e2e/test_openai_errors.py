"""What the official OpenAI client raises: every refusal of the worker is one that its users know how to catch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.workers import Child, Worker, worker_of
from tests.fakes.tiny_models import CONTEXT, tiny_model

pytestmark = pytest.mark.e2e

HELLO: Any = [{"role": "user", "content": "hello there"}]
OVER = 2**31
DEEP: Any = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
LARGEST_MB = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def worker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with worker_of(model, tmp_path_factory.mktemp("open"), "--max-body-mb", str(LARGEST_MB)) as worker:
        yield worker


@pytest.fixture(scope="module")
def client(worker: Child) -> Iterator[openai.OpenAI]:
    with worker.client() as client:
        yield client


@pytest.fixture(autouse=True)
def unharmed(worker: Child) -> Iterator[None]:
    """Whatever was refused cost nothing, and the next request is answered."""
    before = worker.health()["totals"]
    yield
    after = worker.rest()
    assert (after["status"], after["totals"]["aborted"]) == ("ready", before["aborted"])
    assert after["memory"]["kv_bytes"] == after["memory"]["kv_reserved_bytes"] == 0
    with worker.client() as client:
        answer = client.chat.completions.create(model="tiny-llama", messages=HELLO, max_tokens=1)
    assert answer.usage is not None and answer.usage.completion_tokens == 1


def refused(client: openai.OpenAI, **said: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": "tiny-llama", "messages": HELLO, "max_tokens": 4, **said})
    return error.value


@pytest.mark.parametrize("name", ["gpt-4o", "tiny-llama-2", "../tiny-llama", "mlx-community/tiny-llama"])
def test_another_model_is_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model=name, messages=HELLO)
    assert (error.value.code, error.value.param, error.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    assert name in error.value.message and "tiny-llama" in error.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=name, prompt="hello")


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": OVER}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"top_k": -5}}, "top_k"),
        ({"extra_body": {"min_p": 7}}, "min_p"),
        ({"extra_body": {"priority": "urgent"}}, "priority"),
        ({"extra_headers": {"X-Priority": "urgent"}}, "X-Priority"),
        ({"seed": 2**70}, "seed"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"one": 1}}, "logit_bias.one"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hello"}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": DEEP}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wish"}}}},
            "response_format",
        ),
    ],
    ids=repr,
)
def test_a_bad_value_is_named(client: openai.OpenAI, said: dict[str, Any], param: str) -> None:
    error = refused(client, **said)
    assert error.type == "invalid_request_error"
    assert error.param is not None and error.param.startswith(param), (error.param, error.message)
    assert refused(client, stream=True, **said).message == error.message, "before a stream begins, a status can be told"


@pytest.mark.parametrize("tokens", [CONTEXT, CONTEXT + 1, 20 * CONTEXT])
def test_a_prompt_over_the_context_is_told_the_numbers(client: openai.OpenAI, tokens: int) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny-llama", prompt=[5] * tokens, max_tokens=1)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "prompt")
    assert str(CONTEXT) in error.value.message and str(tokens) in error.value.message
    chat = refused(client, messages=[{"role": "user", "content": "~ " * tokens}])
    assert (chat.code, chat.param) == ("context_length_exceeded", "messages")


def test_the_longest_prompt_that_fits_is_answered(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny-llama", prompt=[5] * (CONTEXT - 1), max_tokens=100)
    assert answer.usage is not None and answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.total_tokens <= CONTEXT


def test_a_token_that_is_none(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny-llama", prompt=[5, 100000], max_tokens=1)
    assert error.value.param == "prompt" and "100000" in error.value.message


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b'{"messages": [', 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"null", 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}', 400, "invalid_json"),
        (b'{"messages": ' + b"[" * 100_000, 400, "invalid_json"),
        (b" " * (LARGEST_MB * 1024 * 1024 + 1), 413, "body_too_large"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)
def test_a_body_that_is_no_request(worker: Child, body: bytes, status: int, code: str) -> None:
    with worker.http() as client:
        answer = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)])
def test_a_place_that_is_none(worker: Child, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, f"{worker.url}{path}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


@pytest.fixture(scope="module")
def guarded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A worker with keys, that computes one answer and lets one wait."""
    flags = ("--api-key", "open-sesame", "--api-key", "vip=high", "--max-queue", "1", "--max-batch", "1")
    with worker_of(model, tmp_path_factory.mktemp("guarded"), *flags) as worker:
        yield worker


@pytest.mark.parametrize("key", ["wrong", "open-sesam", "open-sesame2", "vip=high"])
def test_a_wrong_key_lets_nobody_in(guarded: Worker, key: str) -> None:
    with guarded.client(key) as client:
        for ask in (client.models.list, lambda: client.chat.completions.create(model="tiny-llama", messages=HELLO)):
            with pytest.raises(openai.AuthenticationError) as error:
                ask()
            assert error.value.code == "invalid_api_key"
            assert key not in error.value.message
    assert guarded.health()["status"] == "ready"


def test_the_right_key_does(guarded: Worker) -> None:
    for key in ("open-sesame", "vip"):
        with guarded.client(key) as client:
            answer = client.chat.completions.create(model="tiny-llama", messages=HELLO, max_tokens=3)
            assert answer.usage is not None and answer.usage.completion_tokens == 3
            assert [model.id for model in client.models.list()] == ["tiny-llama"]
    assert httpx.get(f"{guarded.url}/metrics").status_code == 401


def test_past_the_queue_people_are_told_when_to_come_back(guarded: Worker) -> None:
    said: Any = {"model": "tiny-llama", "messages": HELLO, "max_tokens": 3000, "stream": True, "temperature": 0}
    with guarded.client("open-sesame") as client:
        with client.chat.completions.create(**said) as running:
            next(running)
            guarded.until(lambda health: health["running"] == 1)
            with client.chat.completions.create(**said):
                guarded.until(lambda health: health["queue"] == 1)
                with pytest.raises(openai.RateLimitError) as error:
                    client.chat.completions.create(**{**said, "stream": False})
                assert (error.value.code, error.value.type) == ("queue_full", "rate_limit_error")
                assert 1 <= int(error.value.response.headers["retry-after"]) <= 60
        guarded.rest()
        # who does as they were told gets their answer
        with client.with_options(max_retries=2) as patient:
            answer = patient.chat.completions.create(**{**said, "stream": False, "max_tokens": 2})
    assert answer.usage.completion_tokens == 2
