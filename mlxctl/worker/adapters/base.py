"""What a model's family means for one request: the prompt it reads, the parser of the answer, how a call is forced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxctl.worker.chat_template import RESERVED, ChatTemplate
from mlxctl.worker.errors import InvalidRequest

if TYPE_CHECKING:
    from mlxctl.worker.adapters.takes import Takes
    from mlxctl.worker.parsers.base import Parser
    from mlxctl.worker.tokenizer import Tokenizer

HARMONY = "harmony"
HARMONY_ANSWER = "<|channel|>final<|message|>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """`inside_reasoning`: it ends inside an opened reasoning tag. `opening`: its last tokens, where they already belong
    to the answer; `Adapter.parser` lets the parser read them first."""

    tokens: tuple[int, ...]
    inside_reasoning: bool = False
    opening: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Forced:
    """A call that must come: `opening` goes into `Adapter.prompt`, the output keeps to `schema` and is read by
    `ForcedCallParser(name)`."""

    opening: str
    schema: dict[str, Any]
    name: str | None


@dataclass(frozen=True, slots=True)
class Voice:
    """A template, and what it takes."""

    template: ChatTemplate
    takes: Takes


@dataclass(frozen=True, slots=True)
class Adapter:
    """One model's ways. `name` is its family; `stop_tokens` end a turn.

    `tool_parser` is empty where calls are not looked for; `reasoning` are the tags around thoughts, if any.
    """

    name: str
    stop_tokens: frozenset[int]
    tokenizer: Tokenizer
    plain: Voice
    with_tools: Voice
    tool_parser: str
    reasoning: tuple[str, str] | None

    def prompt(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> Prompt:
        """The tokens of a conversation.

        `kwargs` go to the template by name. `opening` begins the answer. `constrained`: a grammar holds the answer from
        its first token, so it may not start with thoughts; an `opening` implies it.
        Raises `InvalidRequest` about `messages` or `chat_template_kwargs`.
        """
        from mlxctl.worker.adapters.messages import normalise

        if taken := sorted(RESERVED & kwargs.keys()):
            raise InvalidRequest(f"a chat template may not be given {', '.join(taken)}", param="chat_template_kwargs")
        voice = self.with_tools if tools else self.plain
        constrained = constrained or bool(opening)
        if constrained:
            kwargs = {"enable_thinking": False, **kwargs}
        told, taken_tools = normalise(messages, tools, voice.takes)
        text = voice.template.render(told, taken_tools, **kwargs)
        inside = self.reasoning is not None and text.rstrip().endswith(self.reasoning[0])
        if inside and constrained and self.reasoning is not None:
            text = f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{self.reasoning[1]}\n\n"
            inside = False
        answer = HARMONY_ANSWER if self.tool_parser == HARMONY and constrained and not opening else ""
        tokens = self.tokenizer.encode(text + opening, special=False, param="messages")
        opened = self.tokenizer.encode(answer, special=False) if answer else []
        return Prompt((*tokens, *opened), inside, tuple(opened))

    def parser(self, prompt: Prompt, tools: list[dict[str, Any]] | None) -> Parser:
        """A fresh parser of one choice that goes on from `prompt`."""
        from mlxctl.worker.parsers.names import tool_parser
        from mlxctl.worker.parsers.plain import PlainParser
        from mlxctl.worker.parsers.reasoning import ThinkParser

        parser: Parser = PlainParser()
        if self.tool_parser and (tools or self.tool_parser == HARMONY):
            parser = tool_parser(self.tool_parser, tools=tools, token_id=self.tokenizer.token_id)
        if self.reasoning is not None:
            start, end = self.reasoning
            parser = ThinkParser(parser, start, end, starts_inside=prompt.inside_reasoning)
        for token in prompt.opening:
            for _ in parser.push(token, self.tokenizer.piece(token)):
                pass
        return parser

    def force(self, tools: list[dict[str, Any]], name: str | None) -> Forced:
        """What makes the model call `name`, or any of `tools`. Raises `InvalidRequest` about `tool_choice`."""
        from mlxctl.worker.adapters.force import force_call

        return force_call(tools, name, self.tool_parser, self.with_tools.template.text)
