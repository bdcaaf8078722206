"""The official OpenAI client against a worker that `mlxctl load` started: a real model, answering as people ask."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from bench.worker.model import smollm2
from tests.e2e.workers import Worker
from tests.fakes.home import Home, free_base

pytestmark = pytest.mark.e2e

MODEL = "mlx-smollm2-135m-instruct-f32"
CAPITAL = "The capital of France is Paris."
"""What the model says of its own accord, at temperature 0."""


class Weather(BaseModel):
    """Arguments of the tool below."""

    model_config = ConfigDict(extra="forbid", strict=True)

    city: Literal["Paris", "Rome", "Oslo"]
    days: int = Field(ge=1, le=9)


def tool(name: str, parameters: dict[str, Any]) -> Any:
    return {
        "type": "function",
        "function": {"name": name, "description": f"Gives the {name}", "parameters": parameters},
    }


WEATHER = tool("weather", Weather.model_json_schema())
CLOCK = tool("clock", {"type": "object", "properties": {}, "additionalProperties": False})


def asks(*turns: str) -> Any:
    """A conversation: the user, the assistant, the user…"""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": words} for number, words in enumerate(turns)]


FRANCE = asks("What is the capital of France?")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    # the model knows no reasoning of its own, so a person who taught it some would set this
    home = Home(tmp_path_factory.mktemp("home"), free_base(), {"MLX_REASONING_PARSER": "think"})
    home.hub_cache.mkdir()
    try:
        loaded = home.run("load", str(smollm2(None)), str(home.base), "--json", timeout_s=200)
        assert loaded.code == 0, loaded
        told = home.run("status", "--json").data["ports"][0]
        assert (told["port"], told["range"], told["phase"]) == (home.base, "team", "ready")
        assert (told["engine"], told["model_id"]) == ("worker", MODEL)
        worker = Worker(told["port"], told["pid"])
        assert worker.health()["decoder"] == "grouped", "the self-test has degraded it"
        yield worker
        assert not worker.rest()["in_flight"]
        assert home.run("unload", str(home.base)).code == 0
    finally:
        home.stop_everything()


@pytest.fixture(scope="module")
def client(served: Worker) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def create(client: openai.OpenAI, messages: Any = FRANCE, /, **more: Any) -> Any:
    """Greedy and short, unless told otherwise."""
    said: Any = {"model": MODEL, "temperature": 0, "max_tokens": 12, **more}
    return client.chat.completions.create(messages=messages, **said)


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "mlxctl")
    assert client.models.retrieve(MODEL) == model
    assert (model.model_extra or {})["context_length"] == 8192


def test_a_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    answer = create(client)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", CAPITAL, "stop")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    *words, last = chunks
    assert words[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in words) == CAPITAL
    assert [chunk.choices[0].finish_reason for chunk in words if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.model for chunk in chunks} == {MODEL}
    assert (last.choices, last.usage.completion_tokens) == ([], answer.usage.completion_tokens)
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens
    assert len(words) > 4, "it came in one piece"


@pytest.mark.parametrize("name", [MODEL, "default_model", ""])
def test_every_name_of_the_one_model_serves(client: openai.OpenAI, name: str) -> None:
    assert create(client, model=name, max_tokens=1).choices[0].message.content == "The"


def test_a_second_turn_finds_the_first_in_the_cache(client: openai.OpenAI) -> None:
    system = {
        "role": "system",
        "content": "You are a patient guide to the cities of Europe, and you answer in one line.",
    }
    first = create(client, [system, *FRANCE])
    answered = asks(FRANCE[0]["content"], first.choices[0].message.content, "And of Italy?")
    second = create(client, [system, *answered], max_tokens=2)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens <= cached < second.usage.prompt_tokens
    # what was drawn is reused as well, but for the last token, which nobody needed to read
    assert cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 1


def test_system_messages_and_parts_of_text(client: openai.OpenAI) -> None:
    system = "You are a poet who loves the sea."
    parts = [{"type": "text", "text": FRANCE[0]["content"][:12]}, {"type": "text", "text": FRANCE[0]["content"][12:]}]
    spelled = [
        [{"role": "system", "content": system}, *FRANCE],
        [{"role": "developer", "content": [{"type": "text", "text": system}]}, *FRANCE],
        [{"role": "system", "content": system}, {"role": "user", "content": parts}],
    ]
    answers = [create(client, messages, max_tokens=4) for messages in spelled]
    assert len({answer.usage.prompt_tokens for answer in answers}) == 1
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert answers[0].usage.prompt_tokens != create(client, max_tokens=1).usage.prompt_tokens


def test_several_choices(client: openai.OpenAI) -> None:
    drawn = {"n": 2, "temperature": 1, "seed": 4, "max_tokens": 5}
    answer = create(client, **drawn)
    first, second = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert first != second
    assert 5 < answer.usage.completion_tokens <= 10
    told = ["", ""]
    for chunk in create(client, stream=True, **drawn):
        told[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert told == [first, second]


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (" Paris", "The capital of France is"),
        (["Berlin", "France is P", " is"], "The capital of France"),
        ("apital", "The c"),
        (["nowhere", "is."], "The capital of France is Par"),
        (["nowhere"], CAPITAL),
    ],
)
def test_stop_strings_are_cut_exactly(client: openai.OpenAI, stop: str | list[str], told: str) -> None:
    pieces = [chunk.choices[0] for chunk in create(client, stop=stop, stream=True)]
    assert ("".join(piece.delta.content or "" for piece in pieces), pieces[-1].finish_reason) == (told, "stop")
    if told == CAPITAL[:5]:
        whole = create(client, stop=stop)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (told, "stop")
        assert whole.usage.completion_tokens == 2


@pytest.mark.parametrize("limit", [{"max_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": openai.omit}])
def test_an_answer_is_no_longer_than_asked(client: openai.OpenAI, limit: dict[str, Any]) -> None:
    answer = create(client, **limit)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("The capital of", "length")
    assert answer.usage.completion_tokens == 3


def test_a_seed_is_an_answer(client: openai.OpenAI) -> None:
    first, second, again = [
        create(client, temperature=1.5, seed=seed, max_tokens=5).choices[0].message.content for seed in (1, 2, 1)
    ]
    assert first == again != second


def test_logprobs(client: openai.OpenAI) -> None:
    answer = create(client, logprobs=True, top_logprobs=3, max_tokens=4)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content == "The capital of France"
    for token in tokens:
        best = [other.logprob for other in token.top_logprobs]
        assert token.top_logprobs[0].token == token.token and best == sorted(best, reverse=True)
        assert len(best) == 3 and sum(map(math.exp, best)) <= 1.0001
        assert bytes(token.bytes).decode() == token.token
    streamed = create(client, logprobs=True, top_logprobs=3, max_tokens=4, stream=True)
    scored = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].logprobs]
    assert [token.token for part in scored for token in part.content] == [token.token for token in tokens]


def token_ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(Path(smollm2(None)) / "tokenizer.json")).encode(text).ids)


def test_logit_bias(client: openai.OpenAI) -> None:
    (first,), (sea,) = token_ids("The"), token_ids(" sea")
    banned = create(client, logit_bias={str(first): -100}, max_tokens=2).choices[0].message.content
    assert banned and not banned.startswith("The")
    wanted = create(client, logit_bias={str(sea): 100}, max_tokens=3).choices[0].message.content
    assert wanted.split() == ["sea"] * 3


def test_penalties(client: openai.OpenAI) -> None:
    again = asks("Say: one one one one", "one one one one", "Say: two two two two")
    plain = create(client, again, max_tokens=4).choices[0].message.content
    for penalties in ({"presence_penalty": 2.0, "frequency_penalty": 2.0}, {"extra_body": {"repetition_penalty": 1.8}}):
        assert create(client, again, max_tokens=4, **penalties).choices[0].message.content != plain
    others = {"top_k": 1, "min_p": 0.1, "top_p": 0.9}
    assert create(client, again, max_tokens=4, temperature=1, extra_body=others).choices[0].message.content == plain


def test_json_mode(client: openai.OpenAI) -> None:
    shown = asks("A dog, as JSON", '{"name": "Rex"}', "A cow, as JSON", '{"name": "Bella"}', "A cat, as JSON")
    answer = create(client, shown, response_format={"type": "json_object"}, max_tokens=24)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_schema_is_kept_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=asks("Where shall we go?"), response_format=Weather, temperature=0, max_tokens=40
    )
    parsed = answer.choices[0].message.parsed
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(parsed, Weather) and parsed.days in range(1, 10)


FORCED = {"type": "function", "function": {"name": "weather"}}


def test_a_named_tool_is_called(client: openai.OpenAI) -> None:
    asked: Any = {"tools": [CLOCK, WEATHER], "tool_choice": FORCED, "max_tokens": 40}
    (said,) = create(client, asks("How will it be in Rome?"), **asked).choices
    (call,) = said.message.tool_calls
    assert (said.finish_reason, call.function.name, said.message.content) == ("tool_calls", "weather", None)
    assert Weather.model_validate_json(call.function.arguments).days


def test_a_call_that_must_come_is_streamed_as_it_is_written(client: openai.OpenAI) -> None:
    asked: Any = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 40, "temperature": 0, "model": MODEL}
    with client.chat.completions.stream(messages=asks("How will it be in Rome?"), **asked) as stream:
        deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        (said,) = stream.get_final_completion().choices
    (call,) = said.message.tool_calls or []
    assert (said.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert Weather.model_validate_json(call.function.arguments).days
    assert "".join(event.arguments_delta for event in deltas) == call.function.arguments
    assert len(deltas) > 2, "the arguments came in one piece"


def test_a_tool_is_called_by_a_model_that_was_shown_how(client: openai.OpenAI) -> None:
    def call(city: str) -> str:
        return f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'

    messages = asks("Weather in Rome?", call("Rome"), "Weather in Oslo?", call("Oslo"), "Weather in Paris?")
    bare = tool("weather", {"type": "object", "properties": {"city": {"type": "string"}}})
    (said,) = create(client, messages, tools=[bare], max_tokens=40).choices
    assert (said.finish_reason, said.message.content) == ("tool_calls", None)
    assert json.loads(said.message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_reasoning_has_a_field_of_its_own(client: openai.OpenAI) -> None:
    thought = asks("2+2?", "<think>two and two</think>4", "3+3?", "<think>three and three</think>6", "4+4?")
    answer = create(client, thought, max_tokens=20)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("four and four", "8")
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens
    told = {"reasoning_content": "", "content": ""}
    for chunk in create(client, thought, max_tokens=20, stream=True):
        for name in told:
            told[name] += getattr(chunk.choices[0].delta, name, None) or ""
    assert told == {"reasoning_content": "four and four", "content": "8"}


def test_completions(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    said: Any = {"model": MODEL, "temperature": 0, "max_tokens": 4}
    answer = client.completions.create(prompt=prompt, logprobs=2, **said)
    (choice,) = answer.choices
    assert choice.text.startswith(" Paris") and choice.finish_reason == "length"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[:2] == [0, len(" Paris")] and len(choice.logprobs.top_logprobs[0]) == 2
    both = client.completions.create(prompt=[prompt, "One, two, three,"], echo=True, **said)
    assert both.choices[0].text == prompt + choice.text
    assert both.choices[1].text.startswith("One, two, three, four")
    tokens = client.completions.create(prompt=token_ids(prompt), stream=True, **said)
    assert "".join(chunk.choices[0].text for chunk in tokens) == choice.text


def test_closing_a_stream_cancels_it(client: openai.OpenAI, served: Worker) -> None:
    before = served.rest()["totals"]
    stream = create(client, asks("Write a long story."), stream=True, max_tokens=2000)
    assert [next(stream).choices[0].delta for _ in range(2)]
    assert served.health()["in_flight"] == 1
    stream.close()
    began = time.monotonic()
    after = served.rest(5)["totals"]
    assert time.monotonic() - began < 2
    assert (after["aborted"], after["drawn_tokens"] - before["drawn_tokens"] < 100) == (before["aborted"] + 1, True)


def test_twelve_at_once_say_what_each_would_alone(client: openai.OpenAI, served: Worker) -> None:
    lands = ("France", "Italy", "Norway", "Spain")
    questions = [asks(f"What is the capital of {lands[number % 4]}{'?' * (number + 1)}") for number in range(12)]

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as everybody:
            asked = (
                everybody.chat.completions.create(model=MODEL, messages=question, temperature=0, max_tokens=6)
                for question in questions
            )
            return [str(answer.choices[0].message.content) for answer in await asyncio.gather(*asked)]

    told = asyncio.run(together())
    assert served.health()["totals"]["largest_batch"] > 2
    for number in (0, 11):
        assert create(client, questions[number], max_tokens=6).choices[0].message.content == told[number]


def test_health_and_metrics_tell_what_happened(client: openai.OpenAI, served: Worker) -> None:
    before = served.metrics()
    answer = create(client, max_tokens=3)
    served.rest()
    after, health = served.metrics(), served.health()
    assert (health["status"], health["self_test"]["grouped"], health["context_length"]) == ("ready", "passed", 8192)
    grown = {name: after[name] - before[name] for name in after if name in before}
    assert grown["mlxctl_worker_generated_tokens_total"] == 3
    assert grown["mlxctl_worker_prompt_tokens_total"] == answer.usage.prompt_tokens
    assert grown["mlxctl_worker_cached_tokens_total"] == answer.usage.prompt_tokens_details.cached_tokens
    assert grown["mlxctl_worker_time_to_first_token_seconds_count"] == 1
    assert grown["mlxctl_worker_inter_token_latency_seconds_count"] == 2
    assert after["mlxctl_worker_ready"] == 1
