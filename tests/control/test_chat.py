"""`mlxctl chat`: events as they come, and a server that breaks off in the middle."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from mlxctl.control.commands.chat import Finished, Piece, chat, serving
from mlxctl.control.state import PortState
from mlxctl.core.errors import NotFound, NotReady
from tests.fakes.engine import ANSWER
from tests.fakes.home import Home
from tests.fakes.scripted import Scripted, answer, events
from tests.fakes.story import bring_up, kill
from tests.fakes.terminal import Terminal


def delta(reason: str | None = None, **said: str) -> dict[str, Any]:
    return {"choices": [{"delta": said, "finish_reason": reason}]}


def talk(reply: bytes, **options: Any) -> tuple[list[Piece], Finished, dict[str, Any]]:
    with Scripted(reply) as server:
        state = PortState(port=server.port, request_model="mlx-a")
        *pieces, finished = chat(state, [{"role": "user", "content": "hi"}], **options)
    assert isinstance(finished, Finished)
    return [piece for piece in pieces if isinstance(piece, Piece)], finished, server.asked[0]


def test_an_answer_comes_piece_by_piece() -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 9}}
    reply = events(delta(reasoning_content="hm"), delta(content="Hel"), delta(content="lo"), delta("length"), usage)
    pieces, finished, asked = talk(reply, max_tokens=9, temperature=0.0)
    assert pieces == [Piece("reasoning", "hm"), Piece("content", "Hel"), Piece("content", "lo")]
    assert (finished.reason, finished.tokens) == ("length", 9)
    assert 0 <= finished.first_token_s <= finished.total_s
    assert (asked["model"], asked["stream"], asked["max_tokens"], asked["temperature"]) == ("mlx-a", True, 9, 0.0)


def test_what_is_not_asked_for_is_not_sent() -> None:
    _pieces, finished, asked = talk(events(delta(content="a"), delta("stop", content="b")))
    assert "max_tokens" not in asked
    assert "temperature" not in asked
    assert finished.tokens == 2, "without usage, pieces are counted"


@pytest.mark.parametrize(
    "reply",
    [
        events(delta(content="a"), done=False),
        events(delta(content="a"), '{"choices": [{"del', done=False),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\ndata: {}\n\n",
        events({"error": {"message": "out of memory"}}, done=False),
        b"",
    ],
    ids=["no end", "torn line", "short body", "an error event", "nothing"],
)
def test_a_server_that_breaks_off_is_no_answer(reply: bytes) -> None:
    with pytest.raises(NotReady) as caught:
        talk(reply)
    assert (caught.value.code, caught.value.exit_code) == ("bad_answer", 7)
    assert "mlxctl logs" in caught.value.hint


def test_the_end_may_be_told_by_the_reason_or_by_the_mark() -> None:
    assert talk(events(delta("stop", content="a"), done=False))[1].reason == "stop"
    assert talk(events(delta(content="a"), "[DONE]", done=False))[1].reason == "stop"


def test_what_a_server_says_when_it_refuses_is_shown() -> None:
    with pytest.raises(NotReady) as caught:
        talk(answer('{"error": "context too long"}', "400 Bad Request"))
    assert "HTTP 400" in caught.value.message
    assert "context too long" in caught.value.message


@pytest.mark.parametrize(
    ("tokens", "first", "total", "speed"), [(11, 1.0, 3.0, 5.0), (1, 1.0, 1.0, 0.0), (0, 0, 0, 0), (5, 2.0, 2.0, 0.0)]
)
def test_speed_counts_the_tokens_after_the_first(tokens: int, first: float, total: float, speed: float) -> None:
    finished = Finished("stop", tokens, first, total)
    assert finished.tokens_per_s == speed
    assert finished.to_json()["tokens_per_s"] == speed


def test_who_serves(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    with pytest.raises(NotFound) as caught:
        serving(home.site(), "mlx-a")
    assert (caught.value.code, caught.value.hint) == ("not_serving", "start it with `mlxctl load mlx-a auto`")
    bring_up(home, "mlx-a", 3)
    for word in ("mlx-a", "org/a", str(home.base + 3)):
        assert serving(home.site(), word).port == home.base + 3
    kill(home, 3)
    with pytest.raises(NotFound) as caught:
        serving(home.site(), "mlx-a")
    assert str(home.base + 3) in caught.value.hint


def test_the_command_line_streams(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    plain = home.run("chat", "mlx-a", "hello")
    assert (plain.code, plain.out.strip()) == (0, ANSWER)
    assert "6 tokens" in plain.err
    piped = home.run("chat", str(home.base), "--json", stdin="hello\n")
    lines = [json.loads(line) for line in piped.out.splitlines()]
    assert "".join(line["content"] for line in lines[:-1]).strip() == ANSWER
    assert lines[-1]["data"]["tokens"] == 6
    assert home.run("chat", "mlx-a", stdin="  \n").code == 2
    assert home.run("chat", "mlx-b", "hello", "--json").error["code"] == "unknown_model"


def test_a_conversation_on_a_terminal(home: Home) -> None:
    home = home.with_engine()
    home.model("a")
    bring_up(home, "mlx-a", 0)
    with Terminal.run(home, "chat", "mlx-a") as terminal:
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for(ANSWER)
        terminal.shown = terminal.shown.split(ANSWER)[-1]
        terminal.wait_for("> ")
        time.sleep(0.1)
        terminal.type("\x04")
        assert terminal.end() == 0


def test_the_address_is_the_one_of_the_running_server() -> None:
    """The setting may have been changed since the model was started."""
    with Scripted(events(delta("stop", content="a"))) as server:
        state = replace(PortState(port=server.port, request_model="mlx-a"), address="127.0.0.1")
        assert Piece("content", "a") in list(chat(state, [{"role": "user", "content": "hi"}]))
