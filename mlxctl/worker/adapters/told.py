"""Tools, calls and results in words, for templates that know nothing of them; the `hermes` parser reads such calls."""

from __future__ import annotations

import json
from typing import Any


def tools_in_words(tools: list[dict[str, Any]]) -> str:
    described = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"# Tools\n\nYou can call functions. Each is described by one line of JSON:\n<tools>\n{described}\n</tools>\n\n"
        "To call one, write its name and its arguments as JSON, in these tags:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def calls_in_words(calls: list[dict[str, Any]]) -> str:
    return "\n".join(f"<tool_call>\n{_call_json(call)}\n</tool_call>" for call in calls)


def calls_of_phi(calls: list[dict[str, Any]]) -> str:
    """Phi-4-mini writes its calls so, while its own template leaves them out."""
    return f"<|tool_call|>[{', '.join(_call_json(call) for call in calls)}]<|/tool_call|>"


def _call_json(call: dict[str, Any]) -> str:
    function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
    return json.dumps(function, ensure_ascii=False)


def result_in_words(message: dict[str, Any]) -> str:
    return f"<tool_response>\n{message['content']}\n</tool_response>"
