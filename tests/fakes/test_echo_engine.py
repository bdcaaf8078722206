"""The echo engine says what its script says, in the engine's words, and its faults are what they are called."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mlxctl.worker.errors import EngineFailed, InvalidRequest, QueueFull, Unavailable
from mlxctl.worker.parsers.base import Content, Reasoning, ToolCall
from mlxctl.worker.types import Drawn, Ended, Event, Failed, Generation, Prefilled, Sampling
from tests.fakes.echo_engine import (
    CALL,
    END,
    THINK,
    EchoAdapter,
    EchoEngine,
    NamedGrammars,
    Script,
    TagParser,
    byte_language,
    said,
)
from tests.fakes.echo_server import EchoServer, EchoWorker, chunks, eventually


class Heard:
    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.threads: set[str] = set()

    def __call__(self, events: list[Event]) -> None:
        self.batches.append(events)
        self.threads.add(threading.current_thread().name)

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    def drawn(self, request_id: str = "r", index: int = 0) -> bytes:
        mine = [
            one for one in self.events if isinstance(one, Drawn) and (one.request_id, one.index) == (request_id, index)
        ]
        return bytes(one.token for one in mine)

    def ended(self) -> list[tuple[int, str]]:
        return [(one.index, one.reason) for one in self.events if isinstance(one, Ended)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def engine(heard: Heard) -> Iterator[EchoEngine]:
    made = EchoEngine(heard)
    yield made
    made.stop()


def asked(text: str = "user: hi", request_id: str = "r", **more: object) -> Generation:
    fields: dict[str, object] = {"max_tokens": 100, "stop_tokens": frozenset({END})} | more
    return Generation(request_id, tuple(text.encode()), **fields)  # type: ignore[arg-type]


def test_it_repeats_the_last_line(engine: EchoEngine, heard: Heard) -> None:
    engine.submit(asked("system: be brief\nuser: hello"))
    eventually(lambda: heard.ended())
    assert heard.drawn() == b"hello"
    assert heard.events[0] == Prefilled("r", 0, 28, 0)
    assert heard.events[-1] == Ended("r", 0, "stop", END)
    assert heard.threads == {"echo-engine"}


def test_every_choice_gets_the_whole(engine: EchoEngine, heard: Heard) -> None:
    engine.submit(asked(n=3))
    eventually(lambda: len(heard.ended()) == 3)
    assert [heard.drawn(index=index) for index in range(3)] == [b"hi"] * 3
    assert engine.stats().totals.largest_batch == 3


def test_max_tokens_ends_it(engine: EchoEngine, heard: Heard) -> None:
    engine.submit(asked(max_tokens=1))
    eventually(lambda: heard.ended())
    assert (heard.drawn(), heard.ended()) == (b"h", [(0, "length")])


@pytest.mark.parametrize(("index", "left"), [(0, [1]), (None, [])])
def test_an_abort_ends_one_choice_or_all(engine: EchoEngine, heard: Heard, index: int | None, left: list[int]) -> None:
    engine.script = lambda _: Script(said("x"), prefill_s=0.2)
    engine.submit(asked(n=2))
    engine.abort("r", index)
    eventually(lambda: len(heard.ended()) == 2)
    assert sorted(index for index, reason in heard.ended() if reason == "stop") == left
    assert engine.aborted == [("r", index)]


def test_an_unknown_abort_is_ignored(engine: EchoEngine, heard: Heard) -> None:
    engine.abort("nobody")
    engine.submit(asked())
    eventually(lambda: heard.ended())
    assert heard.drawn() == b"hi"


def test_it_fails_when_told(engine: EchoEngine, heard: Heard) -> None:
    error = EngineFailed("asked to fail")
    engine.script = lambda _: Script(said("abc"), error=error, fail_after=2)
    engine.submit(asked())
    eventually(lambda: any(isinstance(one, Failed) for one in heard.events))
    assert heard.drawn() == b"ab"
    assert heard.events[-1] == Failed("r", error)
    assert engine.running == 0


def test_the_gate_stops_it_in_its_tracks(engine: EchoEngine, heard: Heard) -> None:
    engine.gate.clear()
    engine.submit(asked())
    time.sleep(0.05)
    # a loop that was already waiting for work may take one turn
    assert len(heard.drawn()) <= 1
    engine.gate.set()
    eventually(lambda: heard.ended())


def test_delays_are_kept(engine: EchoEngine, heard: Heard) -> None:
    engine.script = lambda _: Script(said("abc"), prefill_s=0.05, step_s=0.02)
    began = time.monotonic()
    engine.submit(asked())
    eventually(lambda: heard.ended())
    assert time.monotonic() - began >= 0.05 + 3 * 0.02


@pytest.mark.parametrize(
    ("prepare", "refusal"),
    [
        (lambda engine: setattr(engine, "max_queue", 0), QueueFull),
        (lambda engine: engine.drain(), Unavailable),
        (lambda engine: setattr(engine, "phase", "loading"), Unavailable),
    ],
    ids=["full", "draining", "loading"],
)
def test_it_refuses(engine: EchoEngine, prepare: Callable[[EchoEngine], None], refusal: type[Exception]) -> None:
    prepare(engine)
    with pytest.raises(refusal):
        engine.submit(asked())


def test_nothing_is_known_of_a_model_that_loads(engine: EchoEngine) -> None:
    engine.phase = "loading"
    assert engine.facts() is None


def test_logprobs_come_when_asked_for(engine: EchoEngine, heard: Heard) -> None:
    engine.submit(asked(sampling=Sampling(logprobs=2)))
    eventually(lambda: heard.ended())
    drawn = next(one for one in heard.events if isinstance(one, Drawn))
    assert drawn.logprobs is not None
    assert drawn.logprobs.top == ((ord("h"), -0.5), (ord("i"), -1.5))


def test_events_can_be_injected(engine: EchoEngine, heard: Heard) -> None:
    engine.inject(Ended("r", 0, "aborted"))
    eventually(lambda: heard.ended() == [(0, "aborted")])


def test_text_with_special_tokens() -> None:
    assert said("a<think>b<end>") == [97, THINK, 98, END]
    assert said("<call>") == [CALL]


def test_the_language_is_bytes() -> None:
    tokenizer = byte_language().tokenizer
    assert tokenizer.encode("é", special=True) == [0xC3, 0xA9]
    assert (tokenizer.piece(0xC3), tokenizer.piece_bytes(0xC3), tokenizer.piece(END)) == ("\ufffd", b"\xc3", "<end>")


def test_the_parser_reads_thoughts_and_calls() -> None:
    tokenizer, parser = byte_language().tokenizer, TagParser(inside_reasoning=True)
    tokens = said("t</think>c<call>f|{}</call>")
    pieces = [piece for token in tokens for piece in parser.push(token, tokenizer.piece(token))]
    assert pieces == [
        Reasoning("t"),
        Content("c"),
        ToolCall(0, name="f", call_id="call_0"),
        ToolCall(0, arguments="{"),
        ToolCall(0, arguments="}"),
    ]


def test_the_adapter_can_be_told_to_refuse_and_to_break() -> None:
    adapter = EchoAdapter()
    with pytest.raises(InvalidRequest):
        adapter.prompt([{"role": "user", "content": "refuse"}], None, {})
    with pytest.raises(KeyError):
        adapter.prompt([{"role": "user", "content": "break"}], None, {})
    prompt = adapter.prompt(
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}], None, {"enable_thinking": True}
    )
    assert (bytes(prompt.tokens), prompt.inside_reasoning) == (b"user: a", True)


def test_grammars_are_named_after_their_schema() -> None:
    assert NamedGrammars().json_schema({"type": "object"}).text == '{"type": "object"}'
    with pytest.raises(InvalidRequest):
        NamedGrammars().json_schema({"type": 7})


def test_the_server_answers_on_a_real_socket() -> None:
    with EchoServer(EchoWorker()) as server:
        assert server.client.get("/health/live").status_code == 200
        with server.connect("", path="/nowhere") as raw:
            assert b"404" in raw.recv(100)


def test_streams_are_cut_into_events() -> None:
    assert chunks('data: {"a": 1}\n\n: keep-alive\n\ndata: [DONE]\n\n') == [{"a": 1}, ": keep-alive", "[DONE]"]
