"""What holds of the JSON that every command prints, whatever the command."""

from __future__ import annotations

import json
from typing import Any

from mlxctl.core.errors import CODES, EXIT_CODES
from tests.fakes.home import Ran

ENVELOPE = ["schema", "command", "ok", "data", "messages", "errors"]


def envelope(ran: Ran) -> dict[str, Any]:
    """The one object that a command printed, checked for all that holds of every command."""
    lines = ran.out.splitlines()
    assert len(lines) == 1, ran
    told: dict[str, Any] = json.loads(lines[0])
    check_envelope(told, ran.code)
    return told


def check_envelope(told: dict[str, Any], exit_code: int) -> None:
    assert list(told) == ENVELOPE
    assert told["schema"] == 1
    assert exit_code in EXIT_CODES
    assert told["ok"] is (exit_code == 0)
    assert isinstance(told["data"], dict)
    assert all(isinstance(message, str) and message for message in told["messages"])
    assert told["errors"] or told["ok"], "a failure without a reason"
    for error in told["errors"]:
        assert set(error) - {"detail"} == {"code", "message", "hint"}
        assert error["code"] in CODES
        assert error["message"].strip()
        assert error["hint"].strip(), f"{error['code']} does not say what to do next"
        assert "\n" not in error["message"] + error["hint"]
