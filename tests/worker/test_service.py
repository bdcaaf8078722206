"""The life of requests in the service: opened, read, ended, failed, left, drained."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mlxctl.worker.answer import Answer, TextEvent
from mlxctl.worker.ask import Ask, ChatAsk, Terms, TextAsk
from mlxctl.worker.choice import Delta, Finish
from mlxctl.worker.errors import EngineFailed, InvalidRequest, QueueFull, Unavailable
from mlxctl.worker.parsers.base import Content
from mlxctl.worker.types import Ended, Generation
from tests.fakes.echo_engine import END, Script, said
from tests.fakes.echo_server import EchoWorker, eventually


@contextmanager
def worker(*arguments: Any, **more: Any) -> Iterator[EchoWorker]:
    made = EchoWorker(*arguments, **more)
    try:
        yield made
    finally:
        made.stop()


def chat(text: str = "hello", **terms: Any) -> ChatAsk:
    return ChatAsk(Terms(**terms), [{"role": "user", "content": text}])


async def whole(answer: Answer) -> tuple[dict[int, str], dict[int, str]]:
    """Contents and finish reasons by choice."""
    contents: dict[int, str] = {}
    reasons: dict[int, str] = {}
    await answer.open()
    async for batch in answer.batches():
        for told in batch:
            add(told, contents, reasons)
    return contents, reasons


def add(told: TextEvent, contents: dict[int, str], reasons: dict[int, str]) -> None:
    if isinstance(told, Finish):
        assert told.index not in reasons, "a choice ends once"
        reasons[told.index] = told.reason
        return
    assert isinstance(told, Delta)
    assert told.index not in reasons, "nothing comes after the end"
    text = "".join(piece.text for piece in told.pieces if isinstance(piece, Content))
    contents[told.index] = contents.get(told.index, "") + text


def ask(made: EchoWorker, asked: Ask) -> tuple[dict[int, str], dict[int, str]]:
    async def story() -> tuple[dict[int, str], dict[int, str]]:
        with made.service.answer(asked) as answer:
            return await asyncio.wait_for(whole(answer), 5)

    return asyncio.run(story())


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, 10))


@pytest.mark.parametrize(
    ("asked", "contents", "reasons"),
    [
        (chat(), {0: "hello"}, {0: "stop"}),
        (chat(n=3), {0: "hello", 1: "hello", 2: "hello"}, {0: "stop", 1: "stop", 2: "stop"}),
        (chat(max_tokens=2), {0: "he"}, {0: "length"}),
        (chat(stop=("lo",)), {0: "hel"}, {0: "stop"}),
        (chat(stop=("lo",), n=2), {0: "hel", 1: "hel"}, {0: "stop", 1: "stop"}),
        (TextAsk(Terms(n=2), ("ab", "cd")), {0: "ab", 1: "ab", 2: "cd", 3: "cd"}, dict.fromkeys(range(4), "stop")),
    ],
)
def test_answers(asked: Ask, contents: dict[int, str], reasons: dict[int, str]) -> None:
    with worker() as made:
        assert ask(made, asked) == (contents, reasons)
        assert (made.service.in_flight, len(made.streams)) == (0, 0)


def test_usage_counts_prompts_once_and_answers_each() -> None:
    with worker(lambda _: Script(said("ab"), cached=4)) as made:

        async def story() -> Any:
            with made.service.answer(chat("hi", n=2)) as answer:
                await whole(answer)
                return answer.usage

        usage = run(story())
        assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (8, 4, 4)


def test_a_request_that_is_read_again_keeps_its_first_count() -> None:
    """A preempted request comes back from its own blocks; those are no gift of an earlier one."""
    with worker(lambda _: Script(said("ab"), cached=2, step_s=0.02)) as made:

        async def story() -> Any:
            from mlxctl.worker.types import Prefilled

            with made.service.answer(chat("hi")) as answer:
                await answer.open()
                made.engine.inject(Prefilled(answer.request_id, 8, 8, 8))
                async for _ in answer.batches():
                    pass
                return answer.usage.cached_tokens

        assert run(story()) == 2


def test_a_stop_string_ends_the_choice_in_the_engine() -> None:
    with worker(lambda _: Script(said("abcdef" * 1000), step_s=0.001)) as made:
        contents, reasons = ask(made, chat(stop=("f",)))
        assert (contents, reasons) == ({0: "abcde"}, {0: "stop"})
        assert made.engine.aborted[0] == (made.engine.submitted[0].request_id, 0)
        eventually(lambda: made.engine.running == 0)


@pytest.mark.parametrize("fail_after", [0, 3])
def test_a_failure_comes_after_what_was_said(fail_after: int) -> None:
    error = EngineFailed("out of luck")
    with worker(lambda _: Script(said("abcdef"), error=error, fail_after=fail_after)) as made:

        async def story() -> str:
            contents: dict[int, str] = {}
            with made.service.answer(chat()) as answer:
                await answer.open()
                with pytest.raises(EngineFailed, match="out of luck"):
                    async for batch in answer.batches():
                        for told in batch:
                            add(told, contents, {})
            return contents.get(0, "")

        assert run(story()) == "abc"[:fail_after]
        assert made.service.in_flight == 0


def test_an_answer_that_the_engine_gives_up_is_an_error() -> None:
    with worker(lambda _: Script(said("abc"), prefill_s=5)) as made:

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                await answer.open()
                made.engine.inject(Ended(answer.request_id, 0, "aborted"))
                with pytest.raises(Unavailable):
                    async for _ in answer.batches():
                        pass

        run(story())


@pytest.mark.parametrize("when", ["before the first token", "in the middle"])
def test_closing_aborts_at_once(when: str) -> None:
    prefill_s = 5.0 if when == "before the first token" else 0.0
    with worker(lambda _: Script(said("x" * 4000), prefill_s=prefill_s, step_s=0.001)) as made:

        async def story() -> str:
            with made.service.answer(chat(n=2)) as answer:
                await answer.open()
                if not prefill_s:
                    async for _ in answer.batches():
                        break
            return answer.request_id

        request_id = run(story())
        assert (request_id, None) in made.engine.aborted
        eventually(lambda: made.engine.running == 0)
        assert (made.service.in_flight, len(made.streams)) == (0, 0)


def test_closing_twice_and_after_the_end_aborts_nothing() -> None:
    with worker() as made:

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                await whole(answer)
            answer.close()

        run(story())
        assert made.engine.aborted == []


def test_leaving_while_the_prompt_is_prepared_submits_nothing() -> None:
    begun, proceed = threading.Event(), threading.Event()
    with worker() as made:
        adapter: Any = made.language.adapter
        original = adapter.prompt

        def slow(*arguments: Any, **more: Any) -> Any:
            begun.set()
            proceed.wait(5)
            return original(*arguments, **more)

        adapter.prompt = slow

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                opening = asyncio.ensure_future(answer.open())
                await asyncio.to_thread(begun.wait, 5)
                opening.cancel()
            proceed.set()
            await asyncio.gather(opening, return_exceptions=True)

        run(story())
        eventually(lambda: adapter.asked)
        assert made.engine.submitted == []
        assert (made.service.in_flight, len(made.streams)) == (0, 0)


def test_preparing_does_not_hold_up_the_loop() -> None:
    """The template waits for a word that only the loop can give."""
    proceed = threading.Event()
    heard: list[bool] = []
    with worker() as made:
        adapter: Any = made.language.adapter
        original = adapter.prompt

        def slow(*arguments: Any, **more: Any) -> Any:
            heard.append(proceed.wait(2))
            return original(*arguments, **more)

        adapter.prompt = slow

        async def story() -> tuple[dict[int, str], dict[int, str]]:
            with made.service.answer(chat()) as answer:
                reading = asyncio.ensure_future(whole(answer))
                for _ in range(10):
                    await asyncio.sleep(0.005)
                assert not reading.done()
                proceed.set()
                return await reading

        assert run(story()) == ({0: "hello"}, {0: "stop"})
        assert heard == [True]


REFUSALS: dict[str, tuple[Callable[[EchoWorker], None], type[Exception], int | None]] = {
    "no language yet": (lambda made: setattr(made.service, "language", None), Unavailable, 5),
    "the model loads": (lambda made: setattr(made.engine, "phase", "loading"), Unavailable, 5),
    "the engine has failed": (lambda made: setattr(made.engine, "phase", "failed"), Unavailable, 10),
    "the tokenizer could not be loaded": (lambda made: made.service.fail("no tokenizer"), Unavailable, 10),
    "draining": (lambda made: made.service.drain(), Unavailable, 10),
    "the queue is full": (lambda made: setattr(made.engine, "max_queue", 0), QueueFull, 3),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    prepare, refusal, retry_after_s = REFUSALS[name]
    with worker() as made:
        prepare(made)

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                with pytest.raises(refusal) as caught:
                    await answer.open()
                assert caught.value.retry_after_s == retry_after_s  # type: ignore[attr-defined]

        run(story())
        assert (made.service.in_flight, len(made.streams), made.engine.running) == (0, 0, 0)


def test_when_the_second_prompt_is_refused_the_first_is_taken_back() -> None:
    with worker(lambda _: Script(said("a"), prefill_s=5), engine={"max_queue": 1}) as made:

        async def story() -> None:
            with made.service.answer(TextAsk(Terms(), ("a", "b"))) as answer, pytest.raises(QueueFull):
                await answer.open()

        run(story())
        assert len(made.engine.submitted) == 1
        assert made.engine.running == 0
        assert len(made.streams) == 0


def test_only_so_many_prompts_are_prepared_at_once() -> None:
    from mlxctl.worker.config import EngineConfig
    from tests.fakes.echo_engine import MODEL_FOLDER

    with worker(engine={}) as made:
        made.service.config = type(made.config)(engine=EngineConfig(model=MODEL_FOLDER, max_queue=4))
        hold = threading.Event()
        adapter: Any = made.language.adapter
        original = adapter.prompt
        adapter.prompt = lambda *arguments, **more: (hold.wait(5), original(*arguments, **more))[1]

        async def one() -> str:
            with made.service.answer(chat()) as answer:
                try:
                    await whole(answer)
                except QueueFull:
                    return "refused"
                return "answered"

        async def story() -> list[str]:
            asking = [asyncio.ensure_future(one()) for _ in range(10)]
            await asyncio.sleep(0.05)
            hold.set()
            return await asyncio.gather(*asking)

        assert sorted(run(story())) == ["answered"] * 4 + ["refused"] * 6


def test_draining_lets_the_running_finish() -> None:
    with worker(lambda _: Script(said("hello"), step_s=0.02)) as made:

        async def story() -> dict[int, str]:
            with made.service.answer(chat()) as answer:
                reading = asyncio.ensure_future(whole(answer))
                await asyncio.sleep(0.03)
                made.service.drain()
                with made.service.answer(chat()) as late, pytest.raises(Unavailable):
                    await late.open()
                assert not await made.service.finished(0.0)
                return (await reading)[0]

        assert run(story()) == {0: "hello"}
        assert run(made.service.finished(1.0))


def test_cutting_off_ends_everything_with_an_error() -> None:
    with worker(lambda _: Script(said("x" * 4000), step_s=0.01)) as made:

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                reading = asyncio.ensure_future(whole(answer))
                await asyncio.sleep(0.05)
                made.service.cut_off()
                with pytest.raises(Unavailable, match="shutting down"):
                    await reading

        run(story())
        eventually(lambda: made.engine.running == 0)


@pytest.mark.parametrize(
    ("prepare", "phase"),
    [
        (lambda made: None, "ready"),
        (lambda made: setattr(made.engine, "phase", "loading"), "loading"),
        (lambda made: setattr(made.service, "language", None), "loading"),
        (lambda made: setattr(made.engine, "phase", "failed"), "failed"),
        (lambda made: setattr(made.engine, "phase", "stopped"), "stopped"),
        (lambda made: made.service.drain(), "draining"),
        (lambda made: made.service.fail("broken"), "failed"),
    ],
)
def test_phases(prepare: Callable[[EchoWorker], None], phase: str) -> None:
    with worker() as made:
        prepare(made)
        told, why = made.service.phase(made.engine.stats())
        assert told == phase
        assert bool(why) == (phase not in ("ready", "failed")) or phase == "failed"


def test_many_at_once_get_what_is_theirs() -> None:
    def script(generation: Generation) -> Script:
        return Script([*generation.prompt[6:], END], step_s=0.0005)

    with worker(script) as made:

        async def one(number: int) -> tuple[str, str]:
            with made.service.answer(chat(f"number {number}")) as answer:
                contents, _ = await whole(answer)
            return contents[0], f"number {number}"

        async def story() -> list[tuple[str, str]]:
            return await asyncio.gather(*(one(number) for number in range(64)))

        for said_, expected in run(story()):
            assert said_ == expected


def test_the_metrics_are_told() -> None:
    with worker(engine={"step_s": 0.01}) as made:
        ask(made, chat(n=2))
        with pytest.raises(InvalidRequest):
            ask(made, chat("refuse"))
        page = made.metrics.render(made.engine.stats()).decode()
    for line in (
        "mlxctl_worker_requests_received_total 2.0",
        'mlxctl_worker_requests_total{status="200"} 1.0',
        'mlxctl_worker_requests_total{status="400"} 1.0',
        'mlxctl_worker_answers_total{reason="stop"} 2.0',
        "mlxctl_worker_time_to_first_token_seconds_count 1.0",
        "mlxctl_worker_request_queue_seconds_count 1.0",
        "mlxctl_worker_batch_rows_sum 10.0",
    ):
        assert line in page
    gaps = float(page.split("inter_token_latency_seconds_count ")[1].split("\n")[0])
    # tokens that come with the first ones have no gap before them
    assert 1 <= gaps <= 8


def test_a_client_that_left_is_a_499() -> None:
    with worker(lambda _: Script(said("a"), prefill_s=5)) as made:

        async def story() -> None:
            with made.service.answer(chat()) as answer:
                await answer.open()

        run(story())
        page = made.metrics.render(made.engine.stats()).decode()
        assert 'mlxctl_worker_requests_total{status="499"} 1.0' in page
        assert 'mlxctl_worker_answers_total{reason="aborted"} 1.0' in page
