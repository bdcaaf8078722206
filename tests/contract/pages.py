"""The pages that people read, and what is in them: text without code, fenced blocks, links, command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "launchd").glob("*.md"),
        *(ROOT / "templates").glob("*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?<![\w/.~])((?:mlxctl|docs|tests|templates|launchd|bench|core|control|ui)/[\w./-]*\w(?:/|\.\w+))(?![\w/])"
)
"""A file or folder of this repository, named in running text; `core/`, `control/` and `ui/` are below `mlxctl/`."""


@dataclass(frozen=True)
class Block:
    """One fenced block; `language` is empty for output."""

    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    return [Block(language, body) for language, body in FENCE.findall(text)]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The names under which headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of `page` to files or headings of this repository that are not there."""
    broken = []
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        if not found.exists() or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def missing_paths(text: str) -> list[str]:
    """Paths of this repository that `text` names and that are not there."""
    named = set(PATH.findall(text))
    return sorted(path for path in named if not ((ROOT / path).exists() or (ROOT / "mlxctl" / path).exists()))


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after `mlxctl` of every command line in a shell block: what people copy."""
    for block in blocks(text):
        if block.language == "sh":
            yield from _in_shell(block.text)


def mentions(text: str) -> Iterator[list[str]]:
    """The words after `mlxctl` of every command in backticks, which may leave out arguments."""
    for quoted in re.findall(r"`(mlxctl [^`\n]+)`", prose(text).replace("\\|", "|")):
        yield [word for word in shlex.split(quoted)[1:] if not word.startswith("[")]


def _in_shell(text: str) -> Iterator[list[str]]:
    for line in re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", text, flags=re.DOTALL).splitlines():
        words = shlex.split(line, comments=True)
        words = words[2:] if words[:1] == ["ssh"] and not words[1].startswith("-") else words
        if words and Path(words[0]).name == "mlxctl":
            yield words[1:]
