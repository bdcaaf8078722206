"""Text that stands for a value, and the JSON it means: by a parameter's schema, or as a Python literal. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+\Z")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_BOOLEANS = {"true": "true", "false": "false", "1": "true", "0": "false"}
_SYNONYMS = {"str": "string", "text": "string", "int": "integer", "float": "number", "bool": "boolean"}
_OF_PYTHON = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
_DEEPEST = 8
_PYTHON_TOKEN = re.compile(
    r"""(?P<blank>\s+)|(?P<string>[rRbBuU]?(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\""""
    r"""|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))|(?P<word>[\w.+-]+)|(?P<mark>[\[\](){},:])""",
    re.DOTALL,
)
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_BRACKETS = {"(": "[", ")": "]"}
_PYTHON_ESCAPE = re.compile(
    r"\\(?:(?P<char>[abfnrtv\\'\"\n])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<o>[0-7]{1,3}))"
)
_PYTHON_CHARS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\n": ""}


def types_of(schema: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows, empty when it does not say."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return frozenset()
    said = schema.get("type")
    types = {one for one in (*_listed(said), said) if isinstance(one, str)}
    if not types:
        values = [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        types |= {_type_of(one) for one in values}
        for key in ("anyOf", "oneOf", "allOf"):
            for branch in _listed(schema.get(key)):
                types |= types_of(branch, depth + 1)
    if types and schema.get("nullable") is True:
        types.add("null")
    return frozenset(_SYNONYMS.get(one.lower(), one.lower()) for one in types)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _type_of(value: Any) -> str:
    return next((name for kind, name in _OF_PYTHON if isinstance(value, kind)), "null")


def json_of(text: str, types: frozenset[str] | None) -> str:
    """The JSON text of a value that was written without quotes. `types` None: nothing is known of it, so it is text.

    What is of none of the types is text, too: nothing is lost, and the caller of the function can say what it misses.
    """
    if types is None or types == {"string"}:
        return text_json(text)
    word = text.strip()
    if ("null" in types and word in ("null", "None")) or ("string" not in types and word == "null"):
        return "null"
    if "integer" in types and (found := _INTEGER.match(word) or _WHOLE.match(word)):
        return found.group(found.lastindex or 0)
    if "number" in types and _NUMBER.match(word):
        return word
    if "boolean" in types and word.lower() in _BOOLEANS:
        return _BOOLEANS[word.lower()]
    if not types or types & {"object", "array"}:
        found_json = _container_json(word)
        if found_json is not None:
            return found_json
    return text_json(text)


def text_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _container_json(word: str) -> str | None:
    """An object or array as JSON, written as JSON or as Python."""
    if not word.startswith(("{", "[")):
        return None
    return word if _is_json(word) else _python_json(word)


def literal_json(text: str) -> str:
    """The JSON text of a Python literal, or of JSON, which models mix; of anything else, as text."""
    word = text.strip()
    if _is_json(word):
        return word
    found = _python_json(word)
    return text_json(word) if found is None else found


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def _python_json(text: str) -> str | None:
    """Each token of a Python literal as JSON has it; None when that gives no JSON."""
    parts: list[str] = []
    place = 0
    while place < len(text):
        match = _PYTHON_TOKEN.match(text, place)
        if match is None:
            return None
        place = match.end()
        if match["blank"]:
            continue
        token = _python_token(match)
        if token in ("]", "}") and parts and parts[-1] == ",":
            parts.pop()
        parts.append(token)
    found = "".join(part + " " if part in (",", ":") else part for part in parts)
    return found if _is_json(found) else None


def _python_token(match: re.Match[str]) -> str:
    if match["string"]:
        return text_json(_unquoted(match["string"]))
    if match["word"]:
        return _PYTHON_WORDS.get(match["word"], match["word"])
    return _BRACKETS.get(match["mark"], match["mark"])


def _unquoted(literal: str) -> str:
    prefix = "" if literal[0] in "'\"" else literal[0]
    body = literal[len(prefix) :]
    marks = 3 if body[:3] in ("'''", '"""') and len(body) >= 6 else 1
    inner = body[marks:-marks]
    return inner if prefix in ("r", "R") else _PYTHON_ESCAPE.sub(_unescaped, inner)


def _unescaped(match: re.Match[str]) -> str:
    if char := match["char"]:
        return _PYTHON_CHARS.get(char, char)
    digits, base = (match["o"], 8) if match["o"] else (match["x"] or match["u"] or match["U"], 16)
    code = int(digits, base)
    return chr(code) if code < 0xD800 or 0xE000 <= code < 0x110000 else "\ufffd"
