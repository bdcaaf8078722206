"""What the worker says of itself: models, health, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlxctl.worker.api.documents import Health, ModelCard, ModelList
from mlxctl.worker.config import EngineConfig
from tests.fakes.echo_engine import MODEL_FOLDER, Script, said
from tests.fakes.echo_server import EchoServer, EchoWorker, eventually

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}


def test_the_model_that_is_loaded(server: EchoServer) -> None:
    listed = ModelList.model_validate(server.client.get("/v1/models").json())
    (card,) = listed.data
    assert (card.id, card.root, card.owned_by) == ("echo", "/models/echo", "mlxctl")
    assert card.context_length == card.max_model_len == 4096
    for name in ("echo", "default_model"):
        assert ModelCard.model_validate(server.client.get(f"/v1/models/{name}").json()) == card


@pytest.mark.parametrize("name", ["gpt-4", "org/model", "echo/more"])
def test_another_model_is_not_listed(server: EchoServer, name: str) -> None:
    response = server.client.get(f"/v1/models/{name}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_without_a_name_the_folder_is_the_name() -> None:
    with EchoServer(EchoWorker(served_model_name="", engine={}, max_output_tokens=5)) as server:
        assert server.client.get("/v1/models").json()["data"][0]["id"] == MODEL_FOLDER.name


PHASES: dict[str, tuple[Callable[[EchoServer], None], int, str]] = {
    "ready": (lambda server: None, 200, ""),
    "loading": (lambda server: setattr(server.worker.engine, "phase", "loading"), 503, "being loaded"),
    "failed": (lambda server: server.worker.service.fail("no such tokenizer"), 503, "no such tokenizer"),
    "draining": (lambda server: server.worker.service.drain(), 503, "shutting down"),
    "stopped": (lambda server: setattr(server.worker.engine, "phase", "stopped"), 503, "shutting down"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_health_in_every_phase(phase: str) -> None:
    prepare, status, reason = PHASES[phase]
    with EchoServer(EchoWorker()) as server:
        prepare(server)
        for path in ("/health", "/health/ready"):
            response = server.client.get(path)
            assert response.status_code == status
            assert response.json()["status"] == phase
            assert reason in response.json()["reason"]
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/v1/models").status_code == status
        assert server.client.post(CHAT, json=BODY).status_code == status


def test_health_figures(server: EchoServer) -> None:
    server.worker.engine.script = lambda _: Script(said("hello"), prefill_s=30)
    with server.connect('{"messages": [{"role": "user", "content": "hi"}], "stream": true}') as raw:
        raw.recv(10)
        eventually(lambda: server.worker.engine.running)
        health = Health.model_validate(server.client.get("/health").json())
        assert (health.in_flight, health.running, health.model, health.decoder) == (1, 1, "echo", "grouped")
        assert health.self_test == {"batch": "passed"}
        assert health.memory["weight_bytes"] == 1000
        assert health.uptime_s > 0
    eventually(lambda: server.client.get("/health").json()["in_flight"] == 0)


def test_health_of_a_model_that_loads_has_no_figures_yet(server: EchoServer) -> None:
    server.worker.engine.phase = "loading"
    health = Health.model_validate(server.client.get("/health").json())
    assert (health.context_length, health.self_test, health.decoder) == (None, {}, "")


def test_metrics(server: EchoServer) -> None:
    server.client.post(CHAT, json=BODY)
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'mlxctl_worker_requests_total{status="200"}' in response.text
    assert "mlxctl_worker_ready 1.0" in response.text


def test_metrics_may_be_off() -> None:
    with EchoServer(EchoWorker(metrics=False)) as server:
        assert server.client.get("/metrics").status_code == 404


def test_max_output_tokens_bound_every_answer() -> None:
    config: dict[str, Any] = {"max_output_tokens": 3, "engine": {}}
    with EchoServer(EchoWorker(**config)) as server:
        server.worker.engine.script = lambda _: Script(said("hello"))
        for asked in ({}, {"max_tokens": 100}):
            answer = server.client.post(CHAT, json={**BODY, **asked}).json()["choices"][0]
            assert (answer["message"]["content"], answer["finish_reason"]) == ("hel", "length")


def test_the_engine_config_of_a_fake_is_a_real_one() -> None:
    assert EchoWorker().config.engine == EngineConfig(model=MODEL_FOLDER)
