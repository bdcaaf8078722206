"""Asks a server over HTTP whether it serves, under which name, and proves it by one tiny chat completion.

Uses `http.client` alone: `status` and `load` both stand on it, and neither should wait for an HTTP library to import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

PROBE_MESSAGES = [{"role": "user", "content": "Say OK."}]
PROBE_TOKENS = 8
LOADING, FAILED = "loading", "failed"
"""What a worker's `/health` says of a model that cannot be asked yet, and of one that never can."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `status` is 0 when nobody answered. `body` is the JSON, or None when it is none."""

    status: int
    body: Any = None
    complaint: str = ""


def ask(
    address: str, port: int, path: str, payload: dict[str, Any] | None = None, *, timeout_s: float, key: str = ""
) -> Answer:
    """GET `path`, or POST `payload` to it. Never raises for what a server or the network does."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # with email and ssl behind it, this is a fifth of what `status` takes, and most looks at the ports ask nothing
    import http.client

    connection = http.client.HTTPConnection(local_address(address), port, timeout=timeout_s)
    try:
        if payload is None:
            connection.request("GET", path, headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            connection.request("POST", path, json.dumps(payload), headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, complaint=str(error) or type(error).__name__)
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(text))
    except ValueError:
        return Answer(response.status, complaint=text[:200].decode(errors="replace"))


def local_address(bind: str) -> str:
    """Where a server bound to `bind` is reached from this host."""
    return "127.0.0.1" if bind in ("", "0.0.0.0", "::") else bind


def served_names(answer: Answer) -> list[str]:
    """The ids of a `/v1/models` answer; empty when the server does not tell."""
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    if answer.status != 200 or not isinstance(data, list):
        return []
    return [str(item["id"]) for item in data if isinstance(item, dict) and "id" in item]


def names_model(names: list[str], model_id: str, repo_id: str, cache_path: str) -> bool:
    """Whether one of `names` means our model: its id, its repository, its path, or the last part of either."""
    path = PurePath(cache_path)
    wanted = {model_id, repo_id, cache_path, path.name, repo_id.rsplit("/", 1)[-1]}
    # a server may resolve links in the path that it was given
    return any(name in wanted or PurePath(name).name == path.name for name in names)


def worker_phase(answer: Answer) -> tuple[str, str]:
    """(phase, why it is not ready) of a worker's `/health`; empty where the answer is not a worker's."""
    body = answer.body if isinstance(answer.body, dict) else {}
    phase, reason = body.get("status"), body.get("reason")
    return (phase if isinstance(phase, str) else "", reason if isinstance(reason, str) else "")


def worker_requests(answer: Answer) -> int | None:
    """How many requests a worker has in flight, by its `/health`."""
    counted = answer.body.get("in_flight") if isinstance(answer.body, dict) else None
    return counted if isinstance(counted, int) and not isinstance(counted, bool) else None


def chat_payload(request_model: str) -> dict[str, Any]:
    return {"model": request_model, "messages": PROBE_MESSAGES, "max_tokens": PROBE_TOKENS, "temperature": 0}


def is_chat_answer(answer: Answer) -> bool:
    """A completion with a message. `reasoning_content` alone counts: a reasoning model may not get further."""
    try:
        message = answer.body["choices"][0]["message"]
        spoken = [message.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls")]
    except (TypeError, KeyError, IndexError, AttributeError):
        return False
    return answer.status == 200 and any(spoken)


def complaint_of(answer: Answer) -> str:
    """Why `answer` is no completion, in a few words."""
    if answer.status == 0:
        return answer.complaint
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return f"HTTP {answer.status}: {said or answer.complaint or 'no message in the answer'}"
