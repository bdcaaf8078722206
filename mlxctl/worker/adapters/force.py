"""A call that must come: how its family begins one, and the schema of what follows. Pure."""

from __future__ import annotations

from typing import Any

from mlxctl.worker.adapters.base import Forced
from mlxctl.worker.errors import InvalidRequest

_JSON = ('{"name": "%s", "arguments": ', "")
_OPENINGS: dict[str, tuple[str, str]] = {
    "harmony": (
        "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>",
        "<|channel|>commentary <|constrain|>json<|message|>",
    ),
    "hermes": ('<tool_call>\n{"name": "%s", "arguments": ', "<tool_call>\n"),
    "llama3": ('{"name": "%s", "parameters": ', ""),
    "gemma": ('{"name": "%s", "parameters": ', ""),
    "mistral": ('[TOOL_CALLS][{"name": "%s", "arguments": ', "[TOOL_CALLS]["),
    "deepseek": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n```json\n", ""),
    "phi4": ('<|tool_call|>[{"name": "%s", "arguments": ', "<|tool_call|>["),
}
"""By parser: what stands before the arguments of a named call, and before a call that may be of any function."""
_LIKE = {
    other: like
    for like, others in {
        "hermes": "qwen qwen2 qwen2_5 qwen3 qwen3_vl qwen3_moe qwen3_coder qwen3_5 json_tools",
        "llama3": "llama llama3_json",
        "mistral": "devstral",
        "deepseek": "deepseek_v3 deepseek_r1",
        "phi4": "phi4_mini",
        "gemma": "gemma3",
    }.items()
    for other in others.split()
}
"""Other names of the parsers above, and parsers of models that know their form too."""


def force_call(tools: list[dict[str, Any]], name: str | None, parser: str, template: str = "") -> Forced:
    """The call of `name`, or of any of `tools`, as a family with this tool parser begins it.

    `template`: the text of the chat template, for families whose later models begin a call in another way.
    Raises `InvalidRequest` about `tool_choice` when there is no such function.
    """
    functions = [tool.get("function", tool) for tool in tools]
    named, unnamed = _openings(_LIKE.get(parser, parser), template)
    if name is not None:
        found = next((one for one in functions if one["name"] == name), None)
        if found is None:
            raise InvalidRequest(f"tool_choice names the function {name!r}, which is not in tools", param="tool_choice")
        return Forced(named % name, _parameters(found), name)
    if not functions:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
    return Forced(unnamed, _any_call(functions), None)


def _openings(parser: str, template: str) -> tuple[str, str]:
    if parser == "mistral" and "[ARGS]" in template:
        return "[TOOL_CALLS]%s[ARGS]", "[TOOL_CALLS]["
    if parser == "deepseek" and template and "```json" not in template:
        return "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁sep｜>", ""
    return _OPENINGS.get(parser, _JSON)


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of the arguments; they are an object, said or not."""
    return {"type": "object", **(function.get("parameters") or {})}


def _any_call(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """One object with the name of a function and its arguments."""
    calls, definitions = [], {}
    for number, function in enumerate(functions):
        # a reference within a function's schema starts at that schema's root, so each is moved as a whole
        place = f"arguments_{number}"
        definitions[place] = _moved(_parameters(function), f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{place}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions} if len(calls) > 1 else {**calls[0], "$defs": definitions}


def _moved(schema: Any, root: str) -> Any:
    """`schema` with its local references made to start at `root`."""
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: root + value[1:] if _is_local(key, value) else _moved(value, root) for key, value in schema.items()}


def _is_local(key: str, value: Any) -> bool:
    return key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/"))
