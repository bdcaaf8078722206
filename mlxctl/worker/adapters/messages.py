"""Makes a conversation, as the API has it, one that a given template can render. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mlxctl.worker.adapters.takes import Message, Takes, Tools
from mlxctl.worker.adapters.told import calls_in_words, calls_of_phi, result_in_words, tools_in_words
from mlxctl.worker.errors import InvalidRequest

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_SHORT_ID = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def normalise(
    messages: list[Message], tools: list[dict[str, Any]] | None, takes: Takes
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """What the template is given instead. `messages` stay as they are.

    Raises `InvalidRequest` about `messages` for what a text model cannot read.
    """
    told = _named_results([_plain(message, index) for index, message in enumerate(messages)])
    if not takes.developer:
        told = [{**one, "role": "system"} if one["role"] == "developer" else one for one in told]
    told = _one_head(told)
    if not takes.calls:
        told = [_without_calls(one, takes) for one in told]
    if tools:
        told, tools = _place_tools(told, tools, takes)
    if not takes.system:
        told = _fold_system(told)
    if not takes.late_system:
        told = [one if i == 0 or not _is_system(one) else {**one, "role": "user"} for i, one in enumerate(told)]
    if takes.calls:
        told = [_calls_as_taken(one, takes) for one in (told if takes.several_calls else _one_call_a_turn(told))]
    if takes.null_content:
        told = [part for one in told for part in _apart_from_words(one)]
    if not takes.repeated_roles:
        told = _merge_repeated(told)
    if takes.parts:
        told = [_in_parts(one) for one in told]
    return told, tools or None


def _is_system(message: Message) -> bool:
    return message["role"] in ("system", "developer")


def _plain(message: Message, index: int) -> Message:
    """One message with text for content, arguments as objects where they are JSON, and nothing that is empty."""
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"messages[{index}] has the unknown role {role!r}", param="messages")
    plain: Message = {"role": "tool" if role == "function" else role}
    plain["content"] = _text(message.get("content"), f"messages[{index}].content")
    if role == "assistant":
        thought = next((message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)), "")
        if thought:
            plain |= {"reasoning_content": thought, "thinking": thought}
        calls = list(message.get("tool_calls") or [])
        if message.get("function_call"):
            calls.append({"function": message["function_call"]})
        if calls:
            plain["tool_calls"] = [_call(call, f"call_{index}_{place}") for place, call in enumerate(calls)]
    for field in ("name", "tool_call_id"):
        if message.get(field):
            plain[field] = message[field]
    return plain


def _text(content: Any, where: str) -> str:
    """Parts joined; null as nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    pieces = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            pieces.append(part)
        elif kind in _TEXT_PARTS:
            pieces.append(str(part.get(_TEXT_PARTS[kind]) or ""))
        else:
            raise InvalidRequest(f"{where}[{place}] is {kind!r}; this worker reads text only", param="messages")
    return "".join(pieces)


def _call(call: Message, otherwise: str) -> Message:
    function = call.get("function") or {}
    named = {"name": function.get("name") or "", "arguments": _object(function.get("arguments"))}
    return {"id": call.get("id") or otherwise, "type": "function", "function": named}


def _object(arguments: Any) -> dict[str, Any]:
    """Arguments as an object. What a model wrote that is none is kept as text, so that it can see its own mistake."""
    if isinstance(arguments, dict):
        return arguments
    if not arguments:
        return {}
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        given = arguments
    return given if isinstance(given, dict) else {"arguments": given}


def _named_results(messages: list[Message]) -> list[Message]:
    """Each result with the name of the function that it answers; some templates ask for it."""
    names: dict[str, str] = {}
    told = []
    for message in messages:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls", [])}
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        told.append(message)
    return told


def _one_head(messages: list[Message]) -> list[Message]:
    """The system messages that open the conversation as one: many templates look at the first alone."""
    heads = 0
    while heads < len(messages) and _is_system(messages[heads]):
        heads += 1
    if heads < 2:
        return messages
    text = "\n\n".join(one["content"] for one in messages[:heads] if one["content"])
    return [{**messages[0], "content": text}, *messages[heads:]]


def _without_calls(message: Message, takes: Takes) -> Message:
    """Calls and results in words, for a template that would leave them out."""
    is_phi = takes.tools is Tools.FIELD_OF_SYSTEM
    if message["role"] == "tool" and not is_phi:
        return {"role": "user", "content": result_in_words(message)}
    calls = message.get("tool_calls")
    if not calls:
        return message
    words = [message["content"]] if message["content"] else []
    words.append(calls_of_phi(calls) if is_phi else calls_in_words(calls))
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": "\n".join(words)}


def _place_tools(
    messages: list[Message], tools: list[dict[str, Any]], takes: Takes
) -> tuple[list[Message], list[dict[str, Any]] | None]:
    if takes.tools is Tools.ARGUMENT:
        return messages, tools
    has_head = bool(messages) and _is_system(messages[0])
    head = messages[0] if has_head else {"role": "system", "content": ""}
    if takes.tools is Tools.FIELD_OF_SYSTEM:
        functions = [tool.get("function", tool) for tool in tools]
        head = {**head, "tools": json.dumps(functions, ensure_ascii=False)}
    elif takes.tools is Tools.TOLD:
        words = "\n\n".join(text for text in (head["content"], tools_in_words(tools)) if text)
        head = {**head, "content": words}
    left = tools if takes.tools is Tools.ARGUMENT_BESIDE_SYSTEM else None
    return [head, *(messages[1:] if has_head else messages)], left


def _fold_system(messages: list[Message]) -> list[Message]:
    """What the system says opens the first question."""
    if not messages or not _is_system(messages[0]):
        return messages
    text, rest = messages[0]["content"], messages[1:]
    if not text:
        return rest
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{text}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": text}, *rest]


def _one_call_a_turn(messages: list[Message]) -> list[Message]:
    """Each call in a turn of its own, with its result behind it."""
    told: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            told.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            results.append(messages[place])
            place += 1
        for number, call in enumerate(calls):
            words = message if number == 0 else {"role": "assistant", "content": ""}
            told.append({**words, "tool_calls": [call]})
            own = [one for one in results if one.get("tool_call_id") == call["id"]] or results[:1]
            told += own
            results = [one for one in results if one not in own]
        told += results
    return told


def _calls_as_taken(message: Message, takes: Takes) -> Message:
    taken = dict(message)
    if taken["role"] == "tool" and takes.short_ids and "tool_call_id" in taken:
        taken["tool_call_id"] = _short_id(taken["tool_call_id"])
    if "tool_calls" not in taken:
        return taken
    taken["tool_calls"] = [_call_as_taken(call, takes) for call in taken["tool_calls"]]
    if not takes.words_beside_thoughts and taken["content"] and "thinking" in taken:
        both = f"{taken['thinking']}\n\n{taken['content']}"
        taken |= {"thinking": both, "reasoning_content": both, "content": ""}
    return taken


def _apart_from_words(message: Message) -> list[Message]:
    """A call without content, its words in a turn before it: a template that wants it so shows one or the other."""
    if "tool_calls" not in message:
        return [message]
    words = [{"role": "assistant", "content": message["content"]}] if message["content"] else []
    return [*words, {**message, "content": None}]


def _call_as_taken(call: Message, takes: Takes) -> Message:
    function = call["function"]
    if not takes.object_arguments:
        function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return {**call, "id": _short_id(call["id"]) if takes.short_ids else call["id"], "function": function}


def _short_id(call_id: str) -> str:
    """Nine letters or digits, the same ones for the same id."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    number = int.from_bytes(hashlib.blake2b(call_id.encode("utf-8", "replace"), digest_size=8).digest())
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_SHORT_ID))
        digits.append(_SHORT_ID[digit])
    return "".join(digits)


def _merge_repeated(messages: list[Message]) -> list[Message]:
    """Turns of one speaker that follow each other as one. A turn with calls stays as it is, and so do results."""
    told: list[Message] = []
    for message in messages:
        last = told[-1] if told else None
        mergeable = last is not None and last["role"] == message["role"] and message["role"] != "tool"
        if last is None or not mergeable or "tool_calls" in last or message["content"] is None:
            told.append(message)
        else:
            text = "\n\n".join(one["content"] for one in (last, message) if one["content"])
            told[-1] = {**last, **message, "content": text}
    return told


def _in_parts(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
