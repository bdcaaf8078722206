"""Judges parallel commands: whether what they came to could have come about by one after the other.

A command is an interval in time and what it told. A serial order fits when it keeps every command that ended before
another began before it, when each command tells what it would tell alone in its place, and when the last one leaves
the final assignment. Where `auto` put a model is taken as told, as long as the port was free: which port is the lowest
free one depends on what other commands were about to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOAD, UNLOAD = "load", "unload"
NOTHING_THERE = 4
Assigned = frozenset[tuple[int, str]]


@dataclass(frozen=True)
class Command:
    """`words` as typed: (load, MODEL, PORT|auto) or (unload, PORT|MODEL). `port` and `model` are what it told."""

    words: tuple[str, ...]
    begun: float
    ended: float
    code: int
    port: int | None = None
    model: str | None = None


def after(command: Command, before: Assigned, experimental: range) -> Assigned | None:
    """What `command` leaves when it runs alone on `before`, or None when it would have told otherwise."""
    ports = dict(before)
    models = {model: port for port, model in before}
    if command.words[0] == LOAD:
        _, model, word = command.words
        if command.code != 0 or command.model != model or command.port is None:
            return None
        if word != "auto":
            fits = command.port == int(word)
        elif model in models:
            fits = command.port == models[model]
        else:
            fits = command.port in experimental and command.port not in ports
        kept = {port: other for port, other in ports.items() if other != model and port != command.port}
        return frozenset({**kept, command.port: model}.items()) if fits else None
    target = command.words[1]
    port = int(target) if target.isdigit() else models.get(target)
    if port is None or port not in ports:
        return before if command.code == NOTHING_THERE else None
    if (command.code, command.port, command.model) != (0, port, ports[port]):
        return None
    return before - {(port, ports[port])}


def serial_order(commands: Sequence[Command], last: Assigned, experimental: range) -> list[Command] | None:
    """An order that fits and ends in the assignment `last`, or None when there is none."""
    every = (1 << len(commands)) - 1
    # whoever ended before a command began has to stand before it
    earlier = [sum(1 << i for i, other in enumerate(commands) if other.ended < command.begun) for command in commands]
    reached: dict[tuple[int, Assigned], tuple[int, Assigned, int] | None] = {(0, frozenset()): None}
    open_ends: list[tuple[int, Assigned]] = [(0, frozenset())]
    while open_ends:
        done, assigned = here = open_ends.pop()
        if done == every and assigned == last:
            return _path(commands, reached, here)
        for number, command in enumerate(commands):
            if done >> number & 1 or earlier[number] & ~done:
                continue
            left = after(command, assigned, experimental)
            following = (done | 1 << number, left or frozenset())
            if left is not None and following not in reached:
                reached[following] = (done, assigned, number)
                open_ends.append(following)
    return None


def _path(
    commands: Sequence[Command],
    reached: dict[tuple[int, Assigned], tuple[int, Assigned, int] | None],
    here: tuple[int, Assigned],
) -> list[Command]:
    order = []
    while (step := reached[here]) is not None:
        order.append(commands[step[2]])
        here = step[:2]
    return order[::-1]
