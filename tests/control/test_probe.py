"""What a server's answer proves: its name, a real completion, or why it is none."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mlxctl.control.probe import (
    PROBE_TOKENS,
    Answer,
    ask,
    chat_payload,
    complaint_of,
    is_chat_answer,
    local_address,
    names_model,
    served_names,
)
from tests.fakes.scripted import Scripted, answer
from tests.fakes.story import stranger


def chat(**message: Any) -> Answer:
    return Answer(200, {"choices": [{"message": {"role": "assistant", **message}}]})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (Answer(200, {"data": [{"id": "a"}, {"id": "b"}]}), ["a", "b"]),
        (Answer(200, {"data": [{"id": 7}, {"name": "no id"}, "text", None]}), ["7"]),
        (Answer(200, {"data": []}), []),
        (Answer(200, {"data": {"id": "a"}}), []),
        (Answer(200, ["a"]), []),
        (Answer(200), []),
        (Answer(404, {"data": [{"id": "a"}]}), []),
        (Answer(0, complaint="refused"), []),
    ],
)
def test_served_names(given: Answer, names: list[str]) -> None:
    assert served_names(given) == names


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("mlx-smol", True),
        ("org/Smol-4bit", True),
        ("Smol-4bit", True),
        ("/hub/converted--mlx-smol", True),
        ("/real/place/of/converted--mlx-smol", True),
        ("converted--mlx-smol", True),
        ("other/Smol-4bit", False),
        ("Smol", False),
        ("smol-4bit", False),
        ("mlx-smol-2", False),
        ("", False),
    ],
)
def test_names_model(name: str, ours: bool) -> None:
    def named(names: list[str]) -> bool:
        return names_model(names, "mlx-smol", "org/Smol-4bit", "/hub/converted--mlx-smol")

    assert named([name]) is ours
    assert named(["somebody", name]) is ours
    assert named([]) is False


@pytest.mark.parametrize(
    ("given", "proof"),
    [
        (chat(content="OK"), True),
        (chat(content=None, reasoning_content="Let me think"), True),
        (chat(content="", reasoning="Let me think"), True),
        (chat(tool_calls=[{"id": "1"}]), True),
        (chat(content=""), False),
        (chat(content=None), False),
        (chat(), False),
        (Answer(500, chat(content="OK").body), False),
        (Answer(200, {"choices": []}), False),
        (Answer(200, {"choices": [{}]}), False),
        (Answer(200, {"choices": [{"message": None}]}), False),
        (Answer(200, {"choices": [{"message": "OK"}]}), False),
        (Answer(200, {"choices": None}), False),
        (Answer(200, {"error": "no"}), False),
        (Answer(200, [1]), False),
        (Answer(200), False),
        (Answer(0, complaint="refused"), False),
    ],
)
def test_is_chat_answer(given: Answer, proof: bool) -> None:
    assert is_chat_answer(given) is proof


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Answer(0, complaint="Connection refused"), "Connection refused"),
        (Answer(500, {"error": {"message": "out of memory"}}), "HTTP 500: out of memory"),
        (Answer(404, {"error": "no such model"}), "HTTP 404: no such model"),
        (Answer(422, {"detail": "wrong"}), "HTTP 422: no message in the answer"),
        (Answer(502, complaint="<html>bad gateway"), "HTTP 502: <html>bad gateway"),
        (Answer(200, {"choices": []}), "HTTP 200: no message in the answer"),
        (Answer(500, {"error": {}}), "HTTP 500: no message in the answer"),
    ],
)
def test_complaint_of(given: Answer, words: str) -> None:
    assert complaint_of(given) == words


@pytest.mark.parametrize(
    ("bind", "reached"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("", "127.0.0.1"), ("::1", "::1")],
)
def test_local_address(bind: str, reached: str) -> None:
    assert local_address(bind) == reached


def test_ask_gives_status_and_json() -> None:
    with Scripted(answer(json.dumps({"a": 1}))) as server:
        assert ask("127.0.0.1", server.port, "/x", timeout_s=2) == Answer(200, {"a": 1})
        ask("127.0.0.1", server.port, "/x", chat_payload("mlx-a"), timeout_s=2)
    assert [(asked["model"], asked["max_tokens"]) for asked in server.asked] == [("mlx-a", PROBE_TOKENS)]


@pytest.mark.parametrize(
    ("reply", "status", "complaint"),
    [
        (answer("<html>", "502 Bad Gateway"), 502, "<html>"),
        (answer("x" * 500), 200, "x" * 200),
        (answer("\ufffd"), 200, "\ufffd"),
        (b"", 0, "Remote end closed connection"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 0, "SSH-2.0"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", 0, "IncompleteRead"),
    ],
)
def test_ask_never_raises_for_what_a_server_does(reply: bytes, status: int, complaint: str) -> None:
    with Scripted(reply) as server:
        told = ask("127.0.0.1", server.port, "/x", timeout_s=2)
    assert told.status == status
    assert told.body is None
    assert complaint in told.complaint


def test_ask_gives_up_on_who_does_not_answer() -> None:
    with stranger(0) as listener:
        begun = time.monotonic()
        told = ask("127.0.0.1", listener.getsockname()[1], "/x", timeout_s=0.2)
    assert (told.status, "timed out" in told.complaint) == (0, True)
    assert time.monotonic() - begun < 2
    assert ask("127.0.0.1", listener.getsockname()[1] if listener.fileno() > 0 else 1, "/x", timeout_s=0.2).status == 0
