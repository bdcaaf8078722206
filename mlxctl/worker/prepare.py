"""From an ask to what the engine is given and how its output is read: template, tokens, grammar, limits. No state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlxctl.worker.ask import AnswerFormat, Ask, ChatAsk, Terms, TextAsk
from mlxctl.worker.choice import Reading
from mlxctl.worker.errors import InvalidRequest
from mlxctl.worker.language import Grammars, Language
from mlxctl.worker.parsers.base import Parser
from mlxctl.worker.parsers.plain import PlainParser
from mlxctl.worker.types import Generation, Grammar


@dataclass(frozen=True, slots=True)
class Room:
    """How much there is: tokens of context, tokens of one answer (None: the rest of the context), ids of tokens."""

    context_length: int
    max_output_tokens: int | None
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """One generation a prompt, and how to read them all. `echoes`: the text before each answer."""

    generations: tuple[Generation, ...]
    reading: Reading
    echoes: tuple[str, ...] = ()


def prepare(ask: Ask, request_id: str, language: Language, room: Room) -> Prepared:
    """Takes milliseconds, or longer for a new grammar: not for the event loop. Raises `InvalidRequest`."""
    for token, _ in ask.terms.sampling.logit_bias:
        if token >= room.vocab_size:
            raise InvalidRequest(f"the vocabulary has no token {token}", param="logit_bias")
    if isinstance(ask, ChatAsk):
        return _prepare_chat(ask, request_id, language, room)
    return _prepare_text(ask, request_id, language, room)


def _prepare_chat(ask: ChatAsk, request_id: str, language: Language, room: Room) -> Prepared:
    adapter, choice = language.adapter, ask.tool_choice
    tools = ask.tools if choice.mode != "none" else []
    if choice.mode == "required":
        forced = adapter.force(tools, choice.name)
        prompt = adapter.prompt(ask.messages, tools, ask.template_kwargs, forced.opening, constrained=True)
        grammar: Grammar | None = language.grammars.json_schema(forced.schema, param="tools")
        parser = _forced_parser(forced.name)
    else:
        grammar = _grammar(ask.answer_format, language.grammars)
        prompt = adapter.prompt(ask.messages, tools or None, ask.template_kwargs, constrained=grammar is not None)

        def parser() -> Parser:
            return adapter.parser(prompt, tools or None)

    generation = _generation(request_id, prompt.tokens, ask.terms, language, room, "messages", grammar)
    reading = Reading(
        language.tokenizer,
        parser,
        stop=ask.terms.stop,
        inside_reasoning=prompt.inside_reasoning,
        parallel_tool_calls=ask.parallel_tool_calls,
    )
    return Prepared((generation,), reading)


def _forced_parser(name: str | None) -> Callable[[], Parser]:
    from mlxctl.worker.parsers.forced import ForcedCallParser

    return lambda: ForcedCallParser(name)


def _grammar(wanted: AnswerFormat, grammars: Grammars) -> Grammar | None:
    if wanted.kind == "text":
        return None
    if wanted.kind == "json_object":
        return grammars.json_object()
    return grammars.json_schema(wanted.schema, param="response_format")


def _prepare_text(ask: TextAsk, request_id: str, language: Language, room: Room) -> Prepared:
    generations, echoes = [], []
    for number, prompt in enumerate(ask.prompts):
        tokens = language.tokenizer.encode(prompt, special=True) if isinstance(prompt, str) else list(prompt)
        if wrong := next((token for token in tokens if token >= room.vocab_size), None):
            raise InvalidRequest(f"the vocabulary has no token {wrong}", param="prompt")
        one_id = request_id if len(ask.prompts) == 1 else f"{request_id}-{number}"
        generations.append(_generation(one_id, tuple(tokens), ask.terms, language, room, "prompt"))
        if ask.echo:
            echoes.append(prompt if isinstance(prompt, str) else _text_of(tokens, language))
    reading = Reading(language.tokenizer, PlainParser, stop=ask.terms.stop, continues=True)
    return Prepared(tuple(generations), reading, tuple(echoes))


def _text_of(tokens: list[int], language: Language) -> str:
    stream = language.tokenizer.detokenizer()
    return "".join([*map(stream.push, tokens), stream.finish()])


def _generation(
    request_id: str,
    tokens: tuple[int, ...],
    terms: Terms,
    language: Language,
    room: Room,
    param: str,
    grammar: Grammar | None = None,
) -> Generation:
    return Generation(
        request_id=request_id,
        prompt=tokens,
        max_tokens=_max_tokens(len(tokens), terms.max_tokens, room, param),
        sampling=terms.sampling,
        n=terms.n,
        priority=terms.priority,
        stop_tokens=language.adapter.stop_tokens,
        grammar=grammar,
        salt=terms.salt,
    )


def _max_tokens(num_prompt: int, wanted: int | None, room: Room, param: str) -> int:
    """What was asked for, as far as context and configuration allow."""
    if num_prompt == 0:
        raise InvalidRequest("the prompt is empty", param=param)
    left = room.context_length - num_prompt
    if left < 1:
        raise InvalidRequest(
            f"this model's context length is {room.context_length} tokens, and the prompt alone has {num_prompt}; "
            "at least one must be left for the answer",
            param=param,
            code="context_length_exceeded",
        )
    limits: list[Any] = [left, wanted, room.max_output_tokens]
    return int(min(limit for limit in limits if limit is not None))
