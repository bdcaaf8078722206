"""What an ask becomes for the engine: prompt, limits, grammar, stop tokens; and what is refused on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlxctl.worker.ask import AnswerFormat, Ask, ChatAsk, Terms, TextAsk, ToolChoice
from mlxctl.worker.errors import InvalidRequest
from mlxctl.worker.prepare import Prepared, Room, prepare
from mlxctl.worker.types import Priority, Sampling
from tests.fakes.echo_engine import END, VOCAB_SIZE, EchoAdapter, NamedGrammar, byte_language

ROOM = Room(context_length=100, max_output_tokens=None, vocab_size=VOCAB_SIZE)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER = [{"role": "user", "content": "hi"}]


def prepared(ask: Ask, room: Room = ROOM) -> Prepared:
    return prepare(ask, "r", byte_language(), room)


def chat(**more: Any) -> ChatAsk:
    return ChatAsk(Terms(), USER, **more)


@pytest.mark.parametrize(
    ("wanted", "most", "given"),
    [
        (None, None, 92),
        (10, None, 10),
        (92, None, 92),
        (93, None, 92),
        (10**6, None, 92),
        (None, 50, 50),
        (10, 50, 10),
        (60, 50, 50),
        (None, 1000, 92),
    ],
)
def test_max_tokens(wanted: int | None, most: int | None, given: int) -> None:
    """The prompt `user: hi` has 8 tokens of 100."""
    ask = ChatAsk(Terms(max_tokens=wanted), USER)
    (generation,) = prepared(ask, replace(ROOM, max_output_tokens=most)).generations
    assert generation.max_tokens == given


def test_the_terms_arrive() -> None:
    terms = Terms(Sampling(temperature=0.5, seed=7), n=3, priority=Priority.HIGH, salt="tenant")
    (generation,) = prepared(ChatAsk(terms, USER)).generations
    assert bytes(generation.prompt) == b"user: hi"
    assert (generation.request_id, generation.n, generation.priority) == ("r", 3, Priority.HIGH)
    assert (generation.sampling, generation.salt) == (terms.sampling, "tenant")
    assert generation.stop_tokens == {END}


@pytest.mark.parametrize("length", [100, 101, 5000])
def test_a_prompt_beyond_the_context_tells_the_numbers(length: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(TextAsk(Terms(), ("x" * length,)))
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"
    assert "100" in caught.value.message
    assert str(length) in caught.value.message


def test_the_longest_prompt_leaves_one_token() -> None:
    (generation,) = prepared(TextAsk(Terms(), ("x" * 99,))).generations
    assert generation.max_tokens == 1


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (TextAsk(Terms(), ("",)), "prompt"),
        (TextAsk(Terms(), ((),)), "prompt"),
        (TextAsk(Terms(), ("fine", (VOCAB_SIZE,))), "prompt"),
        (TextAsk(Terms(Sampling(logit_bias=((VOCAB_SIZE, 1.0),))), ("a",)), "logit_bias"),
        (chat(answer_format=AnswerFormat("json_schema", {"type": "nonsense"})), "response_format"),
        (ChatAsk(Terms(), [{"role": "user", "content": "refuse"}]), "messages"),
    ],
)
def test_refusals_name_their_field(ask: Ask, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(ask)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        (AnswerFormat(), None),
        (AnswerFormat("json_object"), NamedGrammar("json_object")),
        (AnswerFormat("json_schema", {"type": "array"}), NamedGrammar('{"type": "array"}')),
    ],
)
def test_answer_formats(form: AnswerFormat, grammar: NamedGrammar | None) -> None:
    """A held answer may not begin with thoughts, whatever was asked for."""
    language = byte_language()
    ask = chat(answer_format=form, template_kwargs={"enable_thinking": True})
    result = prepare(ask, "r", language, ROOM)
    assert result.generations[0].grammar == grammar
    assert isinstance(language.adapter, EchoAdapter)
    assert language.adapter.asked[0]["constrained"] is (grammar is not None)
    assert result.reading.inside_reasoning is (grammar is None)


@pytest.mark.parametrize(
    ("choice", "shown", "held"),
    [
        (ToolChoice("none"), None, False),
        (ToolChoice("auto"), [TOOL], False),
        (ToolChoice("required"), [TOOL], True),
        (ToolChoice("required", "f"), [TOOL], True),
    ],
)
def test_tools(choice: ToolChoice, shown: Any, held: bool) -> None:
    language = byte_language()
    result = prepare(chat(tools=[TOOL], tool_choice=choice), "r", language, ROOM)
    assert isinstance(language.adapter, EchoAdapter)
    assert language.adapter.asked[0]["tools"] == shown
    assert (result.generations[0].grammar is not None) is held


def test_every_prompt_is_a_generation_of_its_own() -> None:
    result = prepared(TextAsk(Terms(n=2), ("ab", (99, 100)), echo=True))
    assert [one.request_id for one in result.generations] == ["r-0", "r-1"]
    assert [bytes(one.prompt) for one in result.generations] == [b"ab", b"cd"]
    assert result.echoes == ("ab", "cd")
    assert result.reading.continues


def test_no_echo_unless_asked_for() -> None:
    assert prepared(TextAsk(Terms(), ("ab",))).echoes == ()


def test_each_choice_gets_a_parser_of_its_own() -> None:
    reading = prepared(chat()).reading
    assert reading.parser() is not reading.parser()
