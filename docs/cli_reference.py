"""Writes the parts of docs/cli.md and docs/settings.md that the program itself knows. `make docs` runs it.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; everything else is written by
hand and stays as it is. With --check nothing is written, and the exit code is 3 when a page would change.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import typer.main

import mlxctl
from mlxctl.core import errors
from mlxctl.core import settings as settings_table
from mlxctl.core.options import CLIENT, CONTROL, GATEWAY, ROUTER, WORKER, options
from mlxctl.core.settings import load_settings
from mlxctl.ui.cli.app import app

DOCS = Path(__file__).parent
PACKAGE = Path(mlxctl.__file__).parent
PARTS = {
    CONTROL: "used now",
    GATEWAY: "read and shown; used once gateway sync and offload exist",
    ROUTER: "read and shown; used once `serve` exists",
    WORKER: "used by `mlxctl worker`, however it is started",
    CLIENT: "read and shown; used once the client exists",
}
SECTIONS = {
    "usage": 2,
    "not found": 4,
    "conflict": 5,
    "refused": 6,
    "not ready": 7,
    "upstream": 8,
    "registry": 9,
    "interrupted": 130,
}
"""The comments that group `errors.CODES`, and the exit code of each group."""


def commands() -> Iterator[tuple[str, Any]]:
    """(words, command) of every command that does something, in the order of `mlxctl --help`."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                yield from walk(f"{words} {name}", below)
        else:
            yield words, command

    yield from walk("mlxctl", typer.main.get_command(app))


def is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def command_reference() -> str:
    return "\n".join(line for words, command in commands() for line in command_lines(words, command)).strip()


def command_lines(words: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if is_argument(parameter)]
    shown = [p.metavar or p.name.upper() for p in arguments]
    usage = " ".join(
        [
            words,
            *(
                name if p.required or name.startswith("[") else f"[{name}]"
                for p, name in zip(arguments, shown, strict=True)
            ),
        ]
    )
    yield f"### `{usage}`\n"
    yield f"{command.help}\n"
    yield "| argument or flag | default | meaning |\n|---|---|---|"
    yield from (f"| `{cell(name)}` | | {cell(p.help or '')} |" for p, name in zip(arguments, shown, strict=True))
    yield from (flag_row(p) for p in command.params if not is_argument(p) and not p.hidden)
    yield ""


def flag_row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    kind = "" if option.is_flag else f" {option.type_descriptor.annotation.__name__.upper()}"
    kind = re.sub(" (STR|LIST)$", " TEXT", kind)
    default = "" if option.is_flag or option.default is None else f"`{option.default}`"
    span = [str(bound) for bound in (option.min, option.max) if bound is not None]
    bounds = f" ({' to '.join(span)})" if len(span) == 2 else f" (at least {span[0]})" if span else ""
    return f"| {names}{kind} | {default} | {cell(option.help or '')}{bounds} |"


def global_flags() -> str:
    root: Any = typer.main.get_command(app)
    rows = [f"| {', '.join(f'`{name}`' for name in p.opts)} | {cell(p.help or '')} |" for p in root.params]
    return "\n".join(["| flag | meaning |", "|---|---|", *rows, "| `--help`, `-h` | Show what a command takes. |"])


def exit_codes() -> str:
    rows = [f"| {number} | {meaning} |" for number, meaning in errors.EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def error_groups() -> dict[str, int]:
    """The exit code of each error code, as the groups of `errors.CODES` give it."""
    source = Path(errors.__file__).read_text(encoding="utf-8")
    table = source[source.index("\nCODES: dict") :].partition("\n}")[0]
    found, exit_code = {}, errors.EXIT_UNEXPECTED
    for line in table.strip().splitlines()[1:]:
        if comment := re.fullmatch(r" +# (.+)", line):
            exit_code = SECTIONS[comment[1]]
        elif named := re.match(r' +"(\w+)":', line):
            found[named[1]] = exit_code
    return found


def error_codes() -> str:
    groups = error_groups()
    rows = [f"| `{code}` | {groups[code]} | {cell(meaning)} |" for code, meaning in errors.CODES.items()]
    return "\n".join(["| code | exit | meaning |", "|---|---|---|", *rows])


def settings_tables() -> str:
    blocks = []
    for part, note in PARTS.items():
        rows = [setting_row(entry) for entry in options() if entry.metadata["part"] == part]
        head = ["| name | variables | takes | default | meaning |", "|---|---|---|---|---|"]
        blocks.append("\n".join([f"### {part}: {note}\n", *head, *rows]))
    return "\n\n".join(blocks)


def setting_row(entry: Field[Any]) -> str:
    facts = entry.metadata
    variables = ", ".join(f"`{name}`" for name in facts["env"])
    meaning = facts["meaning"] + ("; shown as `********`" if facts["secret"] else "")
    meaning += "; not used yet" if facts["part"] in (CONTROL, WORKER) and not is_used(entry.name) else ""
    return f"| `{entry.name}` | {variables} | {facts['kind']} | {default_of(entry.name)} | {cell(meaning)} |"


def is_used(name: str) -> bool:
    """Whether the control plane, the worker or the command line reads it, or another setting's default stands on it."""
    based_on = f'"{name}"' in inspect.getsource(settings_table)
    return based_on or any(re.search(rf"\bsettings\.{name}\b", text) for text in _sources())


@functools.cache
def _sources() -> tuple[str, ...]:
    files = [path for room in ("control", "worker", "ui") for path in sorted((PACKAGE / room).rglob("*.py"))]
    return tuple(path.read_text(encoding="utf-8") for path in files)


def default_of(name: str) -> str:
    """The default, for both platforms where it differs, with `~` for the home folder."""
    linux, mac = (
        _shown(getattr(load_settings({"HOME": "~"}, platform=platform), name)) for platform in ("linux", "darwin")
    )
    return linux if linux == mac else f"{linux}; macOS: {mac}"


def _shown(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


GENERATED: dict[str, dict[str, Callable[[], str]]] = {
    "cli.md": {
        "global flags": global_flags,
        "commands": command_reference,
        "exit codes": exit_codes,
        "error codes": error_codes,
    },
    "settings.md": {"settings": settings_tables},
}


def render(page: str) -> str:
    """The text that `page` should have. Raises `ValueError` when a pair of marks is missing."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, generate in GENERATED[page].items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page} does not have the marks of {name!r} once each")
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + generate() + "\n\n" + end + rest.partition(end)[2]
    return text


def main(argv: list[str]) -> int:
    stale = [page for page in GENERATED if render(page) != (DOCS / page).read_text(encoding="utf-8")]
    for page in stale:
        print(f"docs/{page} {'is not what the program says now' if argv else 'written'}")
        if not argv:
            (DOCS / page).write_text(render(page), encoding="utf-8")
    return errors.EXIT_DRIFT if stale and argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
