"""Ctrl-C, SIGTERM and SIGHUP wait while something is done that must not stop half way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals that come meanwhile are delivered afterwards."""
    with came_too_late() as came:
        yield
    for number in came:
        signal.raise_signal(number)


@contextlib.contextmanager
def came_too_late() -> Iterator[list[signal.Signals]]:
    """Signals that come meanwhile change nothing; the list tells which came.

    Python runs signal handlers in the main thread alone, so elsewhere nothing has to be held back.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def remember(number: int, _frame: FrameType | None) -> None:
        came.append(signal.Signals(number))

    # nohup ignores SIGHUP on purpose; a handler, unlike an ignored signal, is not inherited by what is started here
    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, remember)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
