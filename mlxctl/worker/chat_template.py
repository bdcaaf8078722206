"""Chat templates: which text a name means, and how it is rendered, in a sandbox, with what transformers gives them."""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxctl.assets import asset
from mlxctl.worker.errors import InvalidRequest

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 64 * 1024 * 1024
MAX_SECONDS = 30.0
RESERVED = frozenset({"messages", "tools", "documents", "raise_exception", "strftime_now"})
"""Names that `chat_template_kwargs` may not set."""


def template_names() -> list[str]:
    """Names of the shipped templates."""
    return sorted(path.stem for path in asset("templates").glob("*.jinja"))


def template_text(value: str, folder: Path | None = None) -> str:
    """The template that `value` means: a shipped name, a file (also one in `folder`), or the text itself.

    Raises `ValueError` when it is none of them.
    """
    if "{{" in value or "{%" in value or "\n" in value:
        return value
    shipped = asset("templates") / f"{value}.jinja"
    named = Path(value).expanduser()
    places = [] if "/" in value else [shipped]
    places += [named] if named.is_absolute() or folder is None else [folder / named, named]
    try:
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            return found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the chat template {value} cannot be read: {error}") from error
    raise ValueError(f"the chat template {value} is neither a file nor one of {', '.join(template_names())}")


class ChatTemplate:
    """One parsed template with the special tokens that it may name. Rendering is thread-safe.

    Raises `ValueError` with the line when `text` does not parse.
    """

    def __init__(self, text: str, special: dict[str, str]) -> None:
        import jinja2

        self.text = text
        self._special = dict(special)
        try:
            self._template = _environment().from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template does not parse: line {error.lineno}: {error.message}") from error

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The prompt's text. Raises `InvalidRequest` about `messages` when the template refuses them or fails."""
        import jinja2

        taken = sorted(RESERVED & kwargs.keys())
        if taken:
            raise InvalidRequest(f"a chat template may not be given {', '.join(taken)}", param="chat_template_kwargs")
        variables = {
            **self._special,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **kwargs,
        }
        try:
            return self._render(variables)
        except _refusal() as refused:
            raise InvalidRequest(f"the chat template refuses these messages: {refused}", param="messages") from refused
        except (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise InvalidRequest(
                f"the chat template cannot render these messages: {error or type(error).__name__}", param="messages"
            ) from error

    def _render(self, variables: dict[str, Any]) -> str:
        """Piece by piece, so that a template without end is stopped at the next piece."""
        deadline = time.monotonic() + MAX_SECONDS
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise ValueError(f"it writes more than {MAX_CHARACTERS} characters")
            if time.monotonic() > deadline:
                raise ValueError(f"it takes longer than {MAX_SECONDS:g} s")
        return "".join(pieces)


@cache
def _refusal() -> type[Exception]:
    """What `raise_exception` raises: the template's own complaint."""
    import jinja2

    class Refusal(jinja2.TemplateError):
        pass

    return Refusal


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; here it is its content and nothing more."""

        tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class GuardedNamespace(Namespace):
        """A namespace that keeps no underscored names: they are doors to Python's internals."""

        def __init__(*args: Any, **given: Any) -> None:
            self, *rest = args
            attributes = dict(*rest, **given)
            for name in attributes:
                check(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a template may not store the underscored name {name!r}")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=GuardedNamespace, dict=_make_dict
    )
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as models read it: Jinja's own filter would write `<` as `\\u003c`."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise _refusal()(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _make_dict(*args: Any, **given: Any) -> dict[Any, Any]:
    return dict(*args, **given)
