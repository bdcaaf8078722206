"""The envelope: what a `Result` becomes under --json, and which exit code goes with `ok`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxctl.core.errors import Conflict, Interrupted, MlxctlError, NotReady, RegistryUnreadable
from mlxctl.core.result import Problem, Result

EMPTY: dict[str, Any] = {"data": {}, "messages": [], "errors": []}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        pytest.param(Result("list"), {"command": "list", "ok": True, **EMPTY}, id="bare"),
        pytest.param(
            Result("list", {"models": []}, ("none yet",)),
            {"command": "list", "ok": True, **EMPTY, "data": {"models": []}, "messages": ["none yet"]},
            id="data and a notice",
        ),
        pytest.param(
            Result("verify", {}, (), (Problem("bad_model", "torn", "fetch it again"),), 3),
            {
                "command": "verify",
                "ok": False,
                **EMPTY,
                "errors": [{"code": "bad_model", "message": "torn", "hint": "fetch it again"}],
            },
            id="drift",
        ),
        pytest.param(
            Result.failed("load", NotReady("died", "it ended", "see the log", ("line 1", "line 2"))),
            {
                "command": "load",
                "ok": False,
                **EMPTY,
                "errors": [
                    {"code": "died", "message": "it ended", "hint": "see the log", "detail": ["line 1", "line 2"]}
                ],
            },
            id="an error with the end of a log",
        ),
        pytest.param(
            Result("init", {}, (), (Problem("bad_model", "half a download"),), 0),
            {
                "command": "init",
                "ok": True,
                **EMPTY,
                "errors": [{"code": "bad_model", "message": "half a download", "hint": ""}],
            },
            id="a problem that does not fail the command",
        ),
    ],
)
def test_envelope(result: Result, shown: dict[str, Any]) -> None:
    assert result.to_json() == {"schema": 1, **shown}
    assert list(result.to_json()) == ["schema", "command", "ok", "data", "messages", "errors"]
    assert json.loads(json.dumps(result.to_json())) == {"schema": 1, **shown}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (MlxctlError("unexpected", "x"), 1),
        (Conflict("port_taken", "x"), 5),
        (RegistryUnreadable("registry_corrupt", "x"), 9),
        (Interrupted("interrupted", "x"), 130),
    ],
)
def test_a_failed_command_leaves_with_its_error_s_code(error: MlxctlError, exit_code: int) -> None:
    failed = Result.failed("load", error)
    assert (failed.exit_code, failed.ok) == (exit_code, False)
    assert failed.errors == (Problem.of(error),)


def test_the_envelope_is_a_copy() -> None:
    data = {"port": 8120}
    Result("load", data).to_json()["data"]["port"] = 1
    assert data == {"port": 8120}
