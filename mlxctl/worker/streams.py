"""The way of events from the engine thread to the requests on the event loop: one call a step, one inbox a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from mlxctl.worker.errors import Unavailable
from mlxctl.worker.types import Drawn, Event, Failed

INBOX_EVENTS = 4096
"""What a stream may have unread; one that falls further behind is ended."""


class Inbox:
    """The unread events of one request. Used on the event loop alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: int, overflow: Callable[[], None]) -> None:
        self._loop = loop
        self._bound = bound
        self._overflow = overflow
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    def put(self, event: Event) -> None:
        """Keep an event for `take`. Past the bound the whole request is given up."""
        if self._is_closed:
            return
        if len(self._events) >= self._bound:
            self._overflow()
            self.fail(event.request_id, "the stream was not read for too long")
            return
        self._events.append(event)

    def fail(self, request_id: str, why: str) -> None:
        """What is unread gives way to an error, and nothing comes after it."""
        self._events = [Failed(request_id, Unavailable(why))]
        self._is_closed = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, silence_s: float | None) -> list[Event]:
        """All unread events, at least one; none if there was silence for that long."""
        if not self._events:
            self._waiter = self._loop.create_future()
            timer = None if silence_s is None else self._loop.call_later(silence_s, self.wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        events, self._events = self._events, []
        return events


class Streams:
    """Every open inbox, by request id. `deliver` belongs to the engine thread, all else to the event loop."""

    def __init__(self, bound: int = INBOX_EVENTS) -> None:
        self._bound = bound
        self._inboxes: dict[str, Inbox] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_step: Callable[[int], None] = _not_told
        """Told how many tokens each step drew."""

    def __len__(self) -> int:
        return len(self._inboxes)

    def open(self, request_ids: Iterable[str], overflow: Callable[[], None]) -> Inbox:
        """One inbox for all these ids. Must come before they are submitted."""
        self._loop = asyncio.get_running_loop()
        inbox = Inbox(self._loop, self._bound, overflow)
        for request_id in request_ids:
            self._inboxes[request_id] = inbox
        return inbox

    def close(self, request_ids: Iterable[str]) -> None:
        """Whatever still comes for these ids is dropped."""
        for request_id in request_ids:
            self._inboxes.pop(request_id, None)

    def fail_all(self, why: str) -> None:
        for request_id, inbox in list(self._inboxes.items()):
            inbox.fail(request_id, why)

    def deliver(self, events: list[Event]) -> None:
        """Hand over what a step brought. Dropped where nobody has asked yet, or the loop has ended."""
        if self._loop is None or not events:
            return
        try:
            self._loop.call_soon_threadsafe(self._dispatch, events)
        except RuntimeError:
            # the loop is closed: the server has gone, and with it everybody who waited
            return

    def _dispatch(self, events: list[Event]) -> None:
        touched: dict[int, Inbox] = {}
        self.on_step(sum(isinstance(event, Drawn) for event in events))
        for event in events:
            inbox = self._inboxes.get(event.request_id)
            if inbox is not None:
                inbox.put(event)
                touched[id(inbox)] = inbox
        for inbox in touched.values():
            inbox.wake()


def _not_told(_: int) -> None:
    pass
