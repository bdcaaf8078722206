"""The OpenAPI document: what it names is there, and what the server does it names. Schemathesis tries the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fakes.echo_server import EchoServer, EchoWorker

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


@pytest.fixture(scope="module")
def document() -> Iterator[dict[str, Any]]:
    worker = EchoWorker()
    yield worker.app.openapi()
    worker.stop()


def test_the_paths(document: dict[str, Any]) -> None:
    assert sorted(document["paths"]) == [
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
    ]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_requests_and_every_error_are_documented(document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    (reference,) = operation["requestBody"]["content"]["application/json"]["schema"].values()
    assert reference.rsplit("/", 1)[1] in ("ChatRequest", "CompletionRequest")
    assert set(operation["responses"]) == {"200", "400", "401", "404", "408", "413", "429", "500", "503"}
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    for status, response in operation["responses"].items():
        if status != "200":
            assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_nothing_tells_of_a_422(document: dict[str, Any]) -> None:
    assert "422" not in str(document)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_fields_are_described_with_their_bounds(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    temperature = fields["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert fields["messages"]["minItems"] == 1


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    with EchoServer(EchoWorker()) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_comes_the_document_holds(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    """Requests as the document wants them, and requests as it does not."""
    if mode is GenerationMode.NEGATIVE and method == "GET":
        assert not schema[path][method].definition.raw.get("requestBody"), "a GET has nothing that could be wrong"
        return

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=list(CHECKS), timeout=10)

    holds()
