"""Events reach the request that they are for, in order, from another thread, and never without bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mlxctl.worker.errors import Unavailable
from mlxctl.worker.streams import Inbox, Streams
from mlxctl.worker.types import Drawn, Ended, Event, Failed


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(story)


def drawn(token: int, request_id: str = "a") -> Drawn:
    return Drawn(request_id, 0, token)


def from_another_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


async def all_of(inbox: Inbox) -> list[Event]:
    return await asyncio.wait_for(inbox.take(None), 5)


def nothing() -> None:
    raise AssertionError("nobody fell behind")


def test_a_step_reaches_everybody_it_is_for() -> None:
    async def story() -> None:
        streams = Streams()
        a, b = streams.open(["a"], nothing), streams.open(["b"], nothing)
        from_another_thread(lambda: streams.deliver([drawn(1), drawn(2, "b"), drawn(3), drawn(4, "stranger")]))
        assert await all_of(a) == [drawn(1), drawn(3)]
        assert await all_of(b) == [drawn(2, "b")]

    run(story())


def test_steps_that_pile_up_come_at_once_and_in_order() -> None:
    async def story() -> None:
        streams = Streams()
        inbox = streams.open(["a"], nothing)
        for token in range(100):
            from_another_thread(lambda token=token: streams.deliver([drawn(token)]))
        await asyncio.sleep(0)
        assert await all_of(inbox) == [drawn(token) for token in range(100)]

    run(story())


def test_one_inbox_for_several_ids() -> None:
    async def story() -> None:
        streams = Streams()
        inbox = streams.open(["a", "b"], nothing)
        streams.deliver([drawn(1), drawn(2, "b")])
        assert await all_of(inbox) == [drawn(1), drawn(2, "b")]
        assert len(streams) == 2
        streams.close(["a", "b", "never opened"])
        assert len(streams) == 0

    run(story())


def test_one_call_of_the_loop_for_a_step() -> None:
    async def story() -> int:
        streams = Streams()
        ids = [str(number) for number in range(50)]
        for request_id in ids:
            streams.open([request_id], nothing)
        loop, calls = asyncio.get_running_loop(), 0
        original = loop.call_soon_threadsafe

        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            return original(*arguments, **more)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        streams.deliver([drawn(1, request_id) for request_id in ids])
        return calls

    assert run(story()) == 1


def test_every_step_is_counted() -> None:
    async def story() -> list[int]:
        rows: list[int] = []
        streams = Streams()
        streams.on_step = rows.append
        streams.open(["a"], nothing)
        streams.deliver([drawn(1), drawn(2, "b"), Ended("b", 0, "stop")])
        streams.deliver([Ended("a", 0, "stop")])
        await asyncio.sleep(0)
        return rows

    assert run(story()) == [2, 0]


def test_silence_is_an_empty_batch() -> None:
    async def story() -> None:
        streams = Streams()
        inbox = streams.open(["a"], nothing)
        assert await inbox.take(0.01) == []
        streams.deliver([drawn(1)])
        assert await inbox.take(5) == [drawn(1)]

    run(story())


def test_what_was_closed_is_dropped() -> None:
    async def story() -> None:
        streams = Streams()
        inbox = streams.open(["a"], nothing)
        streams.close(["a"])
        streams.deliver([drawn(1)])
        assert await inbox.take(0.02) == []

    run(story())


def test_who_falls_behind_is_given_up_and_holds_no_more() -> None:
    async def story() -> None:
        overflows: list[str] = []
        streams = Streams(bound=3)
        slow = streams.open(["a"], lambda: overflows.append("a"))
        other = streams.open(["b"], nothing)
        for token in range(10):
            streams.deliver([drawn(token), drawn(token, "b")])
            assert len(await all_of(other)) == 1
        streams.deliver([Ended("a", 0, "aborted")])
        await asyncio.sleep(0)
        (told,) = await all_of(slow)
        assert isinstance(told, Failed)
        assert isinstance(told.error, Unavailable)
        assert overflows == ["a"]

    run(story())


def test_a_bound_is_about_what_is_unread() -> None:
    async def story() -> None:
        streams = Streams(bound=3)
        inbox = streams.open(["a"], nothing)
        for token in range(30):
            streams.deliver([drawn(token)])
            assert await all_of(inbox) == [drawn(token)]

    run(story())


def test_all_can_be_failed_at_once() -> None:
    async def story() -> None:
        streams = Streams()
        inboxes = [streams.open([name], nothing) for name in "abc"]
        waiting = [asyncio.ensure_future(all_of(inbox)) for inbox in inboxes]
        await asyncio.sleep(0)
        streams.fail_all("going down")
        for events in await asyncio.gather(*waiting):
            assert [str(event.error) for event in events] == ["going down"]

    run(story())


@pytest.mark.parametrize("events", [[], [drawn(1)]])
def test_before_anybody_asked_nothing_is_kept(events: list[Event]) -> None:
    Streams().deliver(events)


def test_after_the_loop_has_ended_nothing_breaks() -> None:
    streams = Streams()

    async def story() -> None:
        streams.open(["a"], nothing)

    run(story())
    streams.deliver([drawn(1)])


def test_a_cancelled_wait_leaves_the_inbox_usable() -> None:
    async def story() -> None:
        streams = Streams()
        inbox = streams.open(["a"], nothing)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.take(None), 0.01)
        streams.deliver([drawn(1)])
        assert await all_of(inbox) == [drawn(1)]

    run(story())
