"""Which family a model belongs to, and the adapter that follows from it and from what the registry says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxctl.worker.adapters.base import HARMONY, Adapter, Voice
from mlxctl.worker.adapters.families import REASONING_MARKS, Family, family_of_model, family_of_template
from mlxctl.worker.adapters.takes import Tools, probe
from mlxctl.worker.chat_template import ChatTemplate, template_text

if TYPE_CHECKING:
    from mlxctl.worker.tokenizer import Tokenizer

OFF = "none"
"""The name of a parser that leaves everything as it is."""


def choose_adapter(
    tokenizer: Tokenizer,
    config: dict[str, Any],
    *,
    chat_template: str = "",
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> Adapter:
    """The adapter of a model with this `config.json`.

    The template is the named one, else the model's own, else its family's. Both parsers are worked out from it unless
    they are named; `none` means that nothing is looked for. Raises `ValueError` for a template or parser that does
    not exist, or a template that does not parse.
    """
    model_type = str(config.get("model_type") or "").lower()
    family, plain, with_tools = _templates(tokenizer, model_type, chat_template)
    voice = Voice(plain, probe(plain))
    tooled = voice if with_tools.text == plain.text else Voice(with_tools, probe(with_tools))
    tools = _tool_parser(tool_call_parser, tooled, family, tokenizer)
    reasoning = _reasoning(reasoning_parser, plain.text)
    return Adapter(
        name=family.name,
        stop_tokens=_stop_tokens(tokenizer, family),
        tokenizer=tokenizer,
        plain=voice,
        with_tools=tooled,
        tool_parser=tools,
        reasoning=None if tools == HARMONY else reasoning,
    )


def _templates(tokenizer: Tokenizer, model_type: str, named: str) -> tuple[Family, ChatTemplate, ChatTemplate]:
    """The family, its template, and its template for requests with tools."""
    own = tokenizer.chat_template
    if named:
        own = template_text(named, tokenizer.folder)
    elif isinstance(own, dict) and not own.get("default"):
        own = None
    if not own:
        family = family_of_model(model_type, lambda piece: tokenizer.token_id(piece) is not None)
        own = template_text(family.template)
    else:
        text = own if isinstance(own, str) else own["default"]
        family = family_of_template(text, model_type)
    texts = (own, own) if isinstance(own, str) else (own["default"], own.get("tool_use") or own["default"])
    plain, with_tools = (ChatTemplate(text, tokenizer.special) for text in texts)
    return family, plain, with_tools


def _tool_parser(named: str | None, voice: Voice, family: Family, tokenizer: Tokenizer) -> str:
    from mlxctl.worker.parsers.names import HARMONY_NAMES, template_tool_parser, tool_parser

    if named and named != OFF:
        tool_parser(named, tools=None, token_id=tokenizer.token_id)  # refuses a name that nobody knows
        name = named.strip().lower().replace("-", "_")
        return HARMONY if name in HARMONY_NAMES else name
    if family.name == HARMONY:
        return HARMONY  # without it the channels would be shown as text
    if named == OFF:
        return ""
    if voice.takes.tools is Tools.TOLD:
        return "hermes"
    return template_tool_parser(voice.template.text) or family.tool_parser


def _reasoning(named: str | None, text: str) -> tuple[str, str] | None:
    from mlxctl.worker.parsers.names import reasoning_tags

    if named == OFF:
        return None
    found = named or next((parser for mark, parser in REASONING_MARKS if mark in text), None)
    return reasoning_tags(found) if found else None


def _stop_tokens(tokenizer: Tokenizer, family: Family) -> frozenset[int]:
    """What the model's files name, and what ends a turn in its family. In harmony `<|end|>` ends a message alone."""
    ends = tokenizer.eos_ids | {tokenizer.token_id(piece) for piece in family.ends}
    between = {tokenizer.token_id("<|end|>")} if family.name == HARMONY else set()
    return frozenset(token for token in ends - between if token is not None)
