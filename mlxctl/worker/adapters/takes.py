"""What a chat template takes, found out by rendering small conversations with it when the model is loaded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mlxctl.worker.chat_template import ChatTemplate
from mlxctl.worker.errors import InvalidRequest

Message = dict[str, Any]


class Tools(Enum):
    """How a template is given the tools."""

    ARGUMENT = "as `tools`"
    ARGUMENT_BESIDE_SYSTEM = "as `tools`, which it shows in a system message only"
    FIELD_OF_SYSTEM = "as JSON text in the field `tools` of the system message"
    TOLD = "not at all: they are told in words"


@dataclass(frozen=True, slots=True)
class Takes:
    """What may be handed to a template as it is; all else is said to it in another way (messages.py)."""

    system: bool = True
    late_system: bool = True
    """A system message after the first turn."""
    developer: bool = False
    repeated_roles: bool = True
    """Two turns of one speaker in a row."""
    parts: bool = False
    """Content is a list of parts, never text."""
    tools: Tools = Tools.ARGUMENT
    calls: bool = True
    """Calls of the assistant and the results that answer them."""
    several_calls: bool = True
    object_arguments: bool = True
    """Arguments of a call as an object; otherwise as JSON text."""
    null_content: bool = False
    """A call without words has no content; otherwise it is empty text."""
    short_ids: bool = False
    """Ids of calls are nine letters or digits."""
    words_beside_thoughts: bool = True
    """A call may have both."""


def probe(template: ChatTemplate) -> Takes:
    """Try everything once."""
    parts = not _shows(template, [_said("user")], "zqUser") and _shows(template, _in_parts([_said("user")]), "zqUser")

    def shows(messages: list[Message], *words: str, tools: Any = None) -> bool:
        return _shows(template, _in_parts(messages) if parts else messages, *words, tools=tools)

    user, assistant, system, developer = (_said(role) for role in ("user", "assistant", "system", "developer"))
    takes_system = shows([system, user], "zqSystem", "zqUser")
    call_form = _probe_calls(template, parts)
    null_content, object_arguments, short_ids = call_form or (False, True, False)

    def turn(*calls: int, **more: Any) -> list[Message]:
        message = _calling(calls, null_content, object_arguments, short_ids)
        return [user, {**message, **more}, *(_result(call, short_ids) for call in calls)]

    return Takes(
        system=takes_system,
        late_system=takes_system and shows([user, assistant, system, user], "zqSystem"),
        developer="developer" in template.text and shows([developer, user], "zqDeveloper", "zqUser"),
        repeated_roles=shows([user, user]) and shows([user, assistant, assistant]),
        parts=parts,
        tools=_probe_tools(template, parts),
        calls=call_form is not None,
        several_calls=call_form is not None and shows(turn(1, 2), *_traces(1), *_traces(2), tools=_TOOLS),
        object_arguments=object_arguments,
        null_content=null_content,
        short_ids=short_ids,
        words_beside_thoughts=call_form is None
        or shows(turn(1, content="zqWords", thinking="zqThought", reasoning_content="zqThought"), tools=_TOOLS),
    )


def _probe_calls(template: ChatTemplate, parts: bool) -> tuple[bool, bool, bool] | None:
    """The first form of a call and its result that comes out whole: null content, object arguments, short ids."""
    for short_ids, null_content, object_arguments in itertools.product((False, True), (False, True), (True, False)):
        messages = [_said("user"), _calling((1,), null_content, object_arguments, short_ids), _result(1, short_ids)]
        text = _render(template, _in_parts(messages) if parts else messages, _TOOLS)
        if text is None or any(trace not in text for trace in _traces(1)):
            continue
        # Python's spelling of an object, JSON within JSON, and a missing content that was written out
        if any(wrong in text for wrong in ("{'zqKey1'", '\\"zqKey1', "None")):
            continue
        return null_content, object_arguments, short_ids
    return None


def _probe_tools(template: ChatTemplate, parts: bool) -> Tools:
    text = json.dumps(_TOOLS)
    ways: list[tuple[Tools, list[Message], Any]] = [
        (Tools.ARGUMENT, [_said("user")], _TOOLS),
        (Tools.ARGUMENT_BESIDE_SYSTEM, [_said("system"), _said("user")], _TOOLS),
        (Tools.FIELD_OF_SYSTEM, [{**_said("system"), "tools": text}, _said("user")], None),
    ]
    for way, messages, tools in ways:
        if _shows(template, _in_parts(messages) if parts else messages, "zqName1", "zqField", tools=tools):
            return way
    return Tools.TOLD


def _render(template: ChatTemplate, messages: list[Message], tools: Any) -> str | None:
    try:
        return template.render(messages, tools)
    except InvalidRequest:
        return None


def _shows(template: ChatTemplate, messages: list[Message], *words: str, tools: Any = None) -> bool:
    text = _render(template, messages, tools)
    return text is not None and all(word in text for word in words)


_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"zqName{index}",
            "description": "Tries.",
            "parameters": {
                "type": "object",
                "properties": {"zqField": {"type": "string", "description": "Any."}},
                "required": ["zqField"],
            },
        },
    }
    for index in (1, 2)
]


def _said(role: str) -> Message:
    return {"role": role, "content": f"zq{role.title()}"}


def _in_parts(messages: list[Message]) -> list[Message]:
    return [
        {**one, "content": [{"type": "text", "text": one["content"]}]} if isinstance(one["content"], str) else one
        for one in messages
    ]


def _id(call: int, short: bool) -> str:
    return f"zqId0000{call}" if short else f"call_zq-000000000000{call}"


def _calling(calls: Sequence[int], null_content: bool, object_arguments: bool, short_ids: bool) -> Message:
    asked = []
    for call in calls:
        given = {f"zqKey{call}": f"zqValue{call}"}
        function = {"name": f"zqName{call}", "arguments": given if object_arguments else json.dumps(given)}
        asked.append({"id": _id(call, short_ids), "type": "function", "function": function})
    return {"role": "assistant", "content": None if null_content else "", "tool_calls": asked}


def _result(call: int, short_ids: bool) -> Message:
    content = f"zqResult{call}"
    return {"role": "tool", "content": content, "name": f"zqName{call}", "tool_call_id": _id(call, short_ids)}


def _traces(call: int) -> tuple[str, ...]:
    """What a whole call and its result leave in a prompt; its name is among the tools in any case."""
    return (f"zqName{call}", f"zqKey{call}", f"zqValue{call}", f"zqResult{call}")
