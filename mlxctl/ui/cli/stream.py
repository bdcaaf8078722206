"""What streams: a conversation, a followed log, quickstart's first answer. With --json, one object a line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxctl.control.commands.chat import Finished, Piece, chat, serving
from mlxctl.core.errors import UsageError
from mlxctl.core.result import Result
from mlxctl.ui.cli.edge import execute, print_json

if TYPE_CHECKING:
    from mlxctl.control.site import Site
    from mlxctl.control.state import PortState

DIM, PLAIN = "\033[2m", "\033[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFlags:
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


def follow_log(target: str, lines: int, as_json: bool) -> int:
    def command(site: Site) -> Result:
        from mlxctl.control.commands.logs import follow_log as follow

        try:
            for line in follow(site, target, lines):
                print_json({"line": line}) if as_json else print(line, flush=True)
        except KeyboardInterrupt:
            # Ctrl-C is how one stops to follow: no error
            return Result("logs -f")
        return Result("logs -f")

    return execute("logs -f", as_json, command)


def converse(target: str, prompt: str | None, flags: ChatFlags, as_json: bool) -> int:
    def command(site: Site) -> Result:
        state = serving(site, target)
        messages = [{"role": "system", "content": flags.system}] if flags.system else []
        finished = None
        for asked in _questions(prompt, as_json):
            messages.append({"role": "user", "content": asked})
            text, finished = answer(state, messages, flags, as_json, site.key_for(state.engine))
            messages.append({"role": "assistant", "content": text})
        return Result("chat", finished.to_json() if finished else {})

    return execute("chat", as_json, command)


def _questions(prompt: str | None, as_json: bool) -> Iterator[str]:
    """The prompt given, or what is piped in, or what a person types until Ctrl-D."""
    if prompt is not None:
        yield prompt
        return
    if not sys.stdin.isatty():
        piped = sys.stdin.read().strip()
        if not piped:
            raise UsageError("bad_flag", "there is no prompt", "give one as an argument, or on standard input")
        yield piped
        return
    if not as_json:
        print("Ctrl-D ends the conversation.", file=sys.stderr)
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing in input())
    while True:
        try:
            asked = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        if asked:
            yield asked


def answer(
    state: PortState, messages: list[dict[str, str]], flags: ChatFlags, as_json: bool, key: str = ""
) -> tuple[str, Finished]:
    """Show one answer as it comes; returns its text and how it ended."""
    said: list[str] = []
    shade = sys.stdout.isatty() and not as_json and not os.environ.get("NO_COLOR")
    finished = Finished("stop", 0, 0.0, 0.0)
    for event in chat(state, messages, max_tokens=flags.max_tokens, temperature=flags.temperature, key=key):
        if isinstance(event, Finished):
            finished = event
        elif as_json:
            print_json({event.kind: event.text})
        else:
            print(
                f"{DIM}{event.text}{PLAIN}" if shade and event.kind == "reasoning" else event.text, end="", flush=True
            )
        if isinstance(event, Piece) and event.kind == "content":
            said.append(event.text)
    if not as_json:
        print(flush=True)
        if finished.tokens > 1:
            print(
                f"{finished.tokens} tokens, {finished.tokens_per_s:.1f} tokens/s, "
                f"first after {finished.first_token_s:.2f} s",
                file=sys.stderr,
            )
    return "".join(said), finished


def quickstart(question: str | None, as_json: bool) -> int:
    def command(site: Site) -> Result:
        from mlxctl.control.commands.quickstart import QUESTION, bring_up, closing_lines

        asked = question or QUESTION
        loaded, data = bring_up(site)
        if not as_json:
            print(f"\n{loaded.entry.model_id} serves on {data['base_url']}\n\n> {asked}")
        text, finished = answer(
            loaded.state,
            [{"role": "user", "content": asked}],
            ChatFlags(temperature=0.0, max_tokens=200),
            as_json,
            site.key_for(loaded.state.engine),
        )
        if not as_json:
            print("\n" + "\n".join(closing_lines(data, asked)))
        return Result("quickstart", {**data, "question": asked, "answer": text, **finished.to_json()})

    return execute("quickstart", as_json, command)
