"""API keys: what is open, what is guarded, and what a key brings with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlxctl.worker.types import Priority
from tests.fakes.echo_server import EchoServer, EchoWorker

KEYS = {"sk-one": Priority.HIGH, "sk-two": Priority.NORMAL, "schlüssel": Priority.LOW}
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def guarded() -> Iterator[EchoServer]:
    with EchoServer(EchoWorker(api_keys=KEYS)) as server:
        yield server


def authorized(key: str) -> dict[str, str | bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/health/live", 200),
        ("/health/ready", 200),
        ("/openapi.json", 200),
        ("/v1/models", 401),
        ("/v1/models/echo", 401),
        ("/metrics", 401),
        ("/v1/nothing", 401),
        ("//health/../metrics", 401),
    ],
)
def test_what_is_open(guarded: EchoServer, path: str, status: int) -> None:
    assert guarded.client.get(path).status_code == status


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(guarded: EchoServer, path: str, key: str) -> None:
    assert guarded.client.get(path, headers=authorized(key)).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer sk-onE", "Bearer sk-one2", "Bearer sk-on", "Basic sk-one", "sk-one", "Bearer é"],
)
def test_anything_else_does_not(guarded: EchoServer, header: str) -> None:
    response = guarded.client.post(CHAT, json=BODY, headers={"Authorization": header.encode()})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["bearer sk-one", "BEARER sk-one", "Bearer   sk-one"])
def test_the_scheme_may_be_written_in_any_way(guarded: EchoServer, header: str) -> None:
    assert guarded.client.get("/v1/models", headers={"Authorization": header}).status_code == 200


def test_without_a_key_no_body_is_read(guarded: EchoServer) -> None:
    """The answer comes although the body never does."""
    with guarded.connect("{", length=10_000_000) as raw:
        assert raw.recv(100).startswith(b"HTTP/1.1 401")


def test_without_keys_everybody_is_welcome_with_the_usual_priority() -> None:
    with EchoServer(EchoWorker(default_priority=Priority.LOW)) as server:
        assert server.client.post(CHAT, json=BODY, headers=authorized("anything")).status_code == 200
        (generation,) = server.worker.engine.submitted
    assert (generation.priority, generation.salt) == (Priority.LOW, "")


def test_each_key_has_a_cache_of_its_own(guarded: EchoServer) -> None:
    guarded.worker.engine.submitted.clear()
    for key in ("sk-one", "sk-two", "sk-one"):
        assert guarded.client.post(CHAT, json=BODY, headers=authorized(key)).status_code == 200
    first, second, third = (one.salt for one in guarded.worker.engine.submitted)
    assert first == third != second
    assert "sk-" not in first


PRIORITIES = [
    ("sk-one", None, None, Priority.HIGH),
    ("sk-two", None, None, Priority.NORMAL),
    ("schlüssel", None, None, Priority.LOW),
    ("sk-one", None, "low", Priority.LOW),
    ("sk-one", None, "LOW", Priority.LOW),
    ("sk-one", None, "2", Priority.LOW),
    ("schlüssel", "high", None, Priority.HIGH),
    ("schlüssel", 0, None, Priority.HIGH),
    ("schlüssel", 1, "high", Priority.NORMAL),
    ("sk-two", "low", "high", Priority.LOW),
]


@pytest.mark.parametrize(("key", "in_body", "header", "expected"), PRIORITIES)
def test_priorities(
    guarded: EchoServer, key: str, in_body: str | int | None, header: str | None, expected: Priority
) -> None:
    """The body's before the header's before the key's."""
    guarded.worker.engine.submitted.clear()
    body = BODY if in_body is None else {**BODY, "priority": in_body}
    headers = authorized(key) | ({} if header is None else {"X-Priority": header})
    assert guarded.client.post(CHAT, json=body, headers=headers).status_code == 200
    assert guarded.worker.engine.submitted[0].priority == expected


def test_the_document_names_the_key(guarded: EchoServer) -> None:
    document = guarded.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    assert document["paths"][CHAT]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]
