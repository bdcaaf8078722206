"""Workers over models of other builds: windows, states, experts, harmony. A crowd is told what each is told alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.workers import Child, Worker, worker_of
from tests.fakes.tiny_models import WINDOW, tiny_model

pytestmark = pytest.mark.e2e

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ROWS = 4
"""Answers that are computed at once: fewer than come, so that some wait and some give way."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 30]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@dataclass(frozen=True)
class Pair:
    """Two workers over one model: one as it is started every day, and one that batches nothing and keeps nothing."""

    kind: str
    model: Path
    daily: Child
    alone: Child

    def vocabulary(self) -> list[dict[str, Any]]:
        """The tokens beside the ordinary ones: `id`, `content`, `special`."""
        return list(json.loads((self.model / "tokenizer.json").read_text())["added_tokens"])

    def stops(self) -> list[int]:
        return list(json.loads((self.model / "generation_config.json").read_text())["eos_token_id"])


@pytest.fixture(scope="module", params=["gpt_oss", "gemma3", "qwen3_next"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(request.param, folder / "model")
    with (
        worker_of(model, folder, "--max-batch", str(ROWS)) as daily,
        worker_of(model, folder, "--no-batching", "--cache-gb", "0") as alone,
    ):
        yield Pair(request.param, model, daily, alone)


def chat(words: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 40, **more}


def post(worker: Worker, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{worker.url}{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(worker: Worker, body: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The message put together from its deltas, the finish reason, and the usage."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = httpx.post(f"{worker.url}{CHAT}", json=asked, timeout=120).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    *chunks, last = [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if not line.startswith(":")]
    message: dict[str, Any] = {}
    for chunk in chunks:
        for name, text in chunk["choices"][0]["delta"].items():
            message[name] = message.get(name, "") + text
    return message, chunks[-1]["choices"][0]["finish_reason"], last["usage"]


def test_the_self_test_lets_it_batch(pair: Pair) -> None:
    health = pair.daily.health()
    assert (health["status"], health["decoder"], health["prefix_cache"]) == ("ready", "grouped", True)
    assert set(health["self_test"].values()) == {"passed"} and {"grouped", "restore"} <= set(health["self_test"])
    alone = pair.alone.health()
    assert (alone["decoder"], alone["prefix_cache"], alone["cache"]["budget_bytes"]) == ("single", False, 0)


@pytest.mark.parametrize("words", ["hi there the man", "tell me of the sea, and of the wind on it", "x"])
def test_a_stream_and_its_whole_are_the_same(pair: Pair, words: str) -> None:
    whole = post(pair.daily, CHAT, chat(words))
    choice = whole["choices"][0]
    assert choice["message"]["content"] or choice["message"].get("reasoning_content")
    message, reason, usage = streamed(pair.daily, chat(words))
    told = {name: text for name, text in choice["message"].items() if text is not None}
    assert (message, reason) == (told, choice["finish_reason"])
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_special_tokens_stay_out_of_answers(pair: Pair) -> None:
    """Each in turn is made the only thing that the model wants to say."""
    stops = pair.stops()
    for token in pair.vocabulary():
        if not token["special"]:
            continue
        answer = post(pair.daily, CHAT, chat("hi", max_tokens=3, logit_bias={str(token["id"]): 100}))
        choice = answer["choices"][0]
        assert token["content"] not in json.dumps(choice["message"], ensure_ascii=False), choice
        assert (choice["finish_reason"] == "stop") == (token["id"] in stops), token


def test_a_schema_and_a_tool_are_kept_to(pair: Pair) -> None:
    """Random models say what a grammar makes them say: the family's own words around it must not be in the way."""
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    said = post(pair.daily, CHAT, chat("where to?", response_format=wanted, max_tokens=300))["choices"][0]
    assert said["finish_reason"] == "stop"
    assert set(json.loads(said["message"]["content"])) == {"city", "days"}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        body = chat("where to?", tools=[TOOL], tool_choice=choice, max_tokens=300)
        said = post(pair.daily, CHAT, body)["choices"][0]
        (call,) = said["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert (said["finish_reason"], call["function"]["name"]) == ("tool_calls", "weather")
        assert arguments["city"] in ("Paris", "Rome") and arguments["days"] in (1, 2, 30)


def crowd(stops: list[int]) -> list[dict[str, Any]]:
    """Six low requests of all lengths, two of which share a long beginning, then a high one for which others give way.
    Those that come first go on for long, since no stop token may end them.
    """
    shared = "the sea and the wind and the men on it " * 6
    prompts = [
        "a",
        shared + "are at rest",
        "of the " * 40,
        shared + "have gone home",
        "it is " * 3 * WINDOW,
        "no and yes",
    ]
    low = [
        {"prompt": prompt, "max_tokens": most, "priority": "low"}
        for prompt, most in zip(prompts, (160, 120, 90, 140, 33, 60), strict=True)
    ]
    high = {"prompt": "now then", "max_tokens": 20, "priority": "high", "n": 2}
    never = {str(stop): -100 for stop in stops}
    return [{**body, "temperature": 0, "logprobs": 0, "logit_bias": never} for body in (*low, high)]


def spelled(answer: Any) -> list[tuple[list[str], str]]:
    """Every choice's tokens, and how it ended."""
    return [(choice["logprobs"]["tokens"], choice["finish_reason"]) for choice in answer["choices"]]


def test_a_crowd_is_told_what_each_is_told_alone(pair: Pair) -> None:
    bodies = crowd(pair.stops())
    before = pair.daily.rest()["totals"]

    async def together() -> list[Any]:
        async with pair.daily.async_http() as client:

            async def ask(body: dict[str, Any]) -> Any:
                return (await client.post(TEXT, json=body)).json()

            low = [asyncio.create_task(ask(body)) for body in bodies[:-1]]
            await asyncio.to_thread(pair.daily.until, lambda health: health["running"] == ROWS)
            return await asyncio.gather(*low, ask(bodies[-1]))

    told = asyncio.run(together())
    after = pair.daily.rest()["totals"]
    grown = {name: after[name] - before[name] for name in after}
    assert after["largest_batch"] == ROWS
    assert grown["cached_tokens"] > 0 and grown["preemptions"] > 0 and grown["forks"] > 0, grown
    for body, answer in zip(bodies, told, strict=True):
        single = [spelled(post(pair.alone, TEXT, {**body, "n": 1})) for _ in range(body.get("n", 1))]
        assert spelled(answer) == [choice for answer in single for choice in answer], body
    # and again, from the cache alone
    for body, answer in zip(bodies, told, strict=True):
        assert spelled(post(pair.daily, TEXT, body)) == spelled(answer), body


def test_a_conversation_goes_on_from_the_cache(pair: Pair) -> None:
    """Generated tokens are found again, whatever the family's template puts around them."""
    body = chat("tell me of the sea, of the wind on it, and of the men in the woods by the sea " * 2)
    first = post(pair.daily, CHAT, body)
    content = first["choices"][0]["message"]["content"]
    turns = [*body["messages"], {"role": "assistant", "content": content}, {"role": "user", "content": "and then?"}]
    second = post(pair.daily, CHAT, {**body, "messages": turns})
    # windows and states can only be taken up where they were kept, which is at whole blocks
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= 64
    assert second["choices"] == post(pair.alone, CHAT, {**body, "messages": turns})["choices"]
