"""Chat templates: which file an entry means, and whether it parses."""

from __future__ import annotations

import re
from pathlib import Path

from mlxctl.assets import asset
from mlxctl.core.errors import NotReady

_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
HARMONY = "harmony"
HARMONY_FAMILIES = frozenset({"gpt_oss"})


def template_names() -> list[str]:
    """Names of the templates that mlxctl ships, usable as `chat_template`."""
    return sorted(path.stem for path in asset("templates").glob("*.jinja"))


def template_path(value: str, folder: Path) -> Path:
    """The file that `chat_template: value` means: a shipped name, an absolute path, or a path in the model's folder.

    Raises `NotReady` when there is no such file.
    """
    shipped = asset("templates") / f"{value}.jinja"
    if "/" not in value and shipped.is_file():
        return shipped
    path = Path(value).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        raise NotReady(
            "bad_template",
            f"the chat template {value} does not exist",
            f"set `chat_template` to a file, to one of {', '.join(template_names())}, or remove it from the entry",
        )
    return path


def check_template(path: Path) -> str:
    """The text of the template at `path`. Raises `NotReady` naming the line when it does not parse."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotReady("bad_template", f"the chat template {path} cannot be read: {error}", "mend the file") from error
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    # `generation` marks what the assistant says, for training; transformers accepts it, so we do too
    plain = _GENERATION.sub("", text)
    try:
        environment.parse(plain)
    except jinja2.TemplateSyntaxError as error:
        raise NotReady(
            "bad_template",
            f"the chat template {path} does not parse: line {error.lineno}: {error.message}",
            "mend that line",
        ) from error
    return text


def default_template(folder: Path, family: str) -> str | None:
    """What `chat_template` becomes for a new entry: only harmony models need it said."""
    if family not in HARMONY_FAMILIES:
        return None
    own = folder / "chat_template.jinja"
    return str(own) if own.is_file() else HARMONY


def default_parser(family: str) -> str | None:
    """The tool and reasoning parser of a family whose raw output would show its tags."""
    return HARMONY if family in HARMONY_FAMILIES else None
