"""Where registry and machine disagree, and what is done about it when somebody says so."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from mlxctl.control.commands.reconcile import Finding, plan_finding, reconcile
from mlxctl.control.listeners import Holder
from mlxctl.control.observe import Observation
from mlxctl.control.state import PortState
from mlxctl.core.errors import UsageError
from mlxctl.core.registry import ModelEntry
from tests.fakes.home import Home
from tests.fakes.story import assigned, bring_up, kill, processes_of, serving, state, stranger

ENTRY = ModelEntry(repo_id="org/a", model_id="mlx-a", cache_path="/m", port=8100)
OTHER = PortState(port=8100, model_id="mlx-b")
OURS = PortState(port=8100, model_id="mlx-a")
SERVES = {"alive": True, "listening": True, "phase": "ready"}


@pytest.mark.parametrize(
    ("entry", "recorded", "facts", "answers", "kind"),
    [
        (ENTRY, OURS, SERVES, True, None),
        (ENTRY, OURS, SERVES, False, "unwell"),
        (ENTRY, OURS, {**SERVES, "listening": False, "phase": "failed"}, False, "unwell"),
        (ENTRY, OURS, {"phase": "failed"}, False, "stale"),
        (ENTRY, OURS, {"phase": "stopped"}, False, "stale"),
        # one of listener, process and HTTP is enough not to be stale
        (ENTRY, OURS, {"phase": "failed", "listening": True}, False, None),
        (ENTRY, OURS, {"phase": "failed"}, True, None),
        (ENTRY, OURS, {"phase": "starting", "alive": True}, False, None),
        (ENTRY, OURS, {"phase": "starting", "alive": True, "abandoned": True}, False, "unwell"),
        (ENTRY, OURS, {"phase": "draining", "alive": True, "abandoned": True}, True, "unwell"),
        (ENTRY, OURS, {"phase": "failed", "listening": True, "survivor": True}, True, "unwell"),
        (ENTRY, OURS, {"phase": "failed", "listening": True, "stranger": Holder(5, "nginx")}, True, "stranger"),
        (ENTRY, OTHER, SERVES, True, "leftover"),
        (ENTRY, OTHER, {"phase": "starting", "alive": True}, True, None),
        (ENTRY, OTHER, {"phase": "starting", "alive": True, "abandoned": True}, True, "leftover"),
        (None, OURS, SERVES, True, "leftover"),
        (None, OURS, {"phase": "failed", "listening": True, "survivor": True}, True, "leftover"),
        (None, OURS, {"phase": "failed"}, False, None),
        (None, OURS, {"phase": "stopped", "listening": True, "stranger": Holder(5, "nginx")}, True, None),
        (None, PortState(port=8100), {"phase": "stopped"}, False, None),
    ],
)
def test_plan_finding(
    entry: ModelEntry | None, recorded: PortState, facts: dict[str, Any], answers: bool, kind: str | None
) -> None:
    found = plan_finding(Observation(port=8100, entry=entry, state=recorded, **facts), answers)
    assert (found.kind if found else None) == kind
    if found:
        assert found.port == 8100
        assert found.model_id == ("mlx-b" if kind == "leftover" and recorded is OTHER else "mlx-a")
        assert found.why


def test_a_finding_in_json() -> None:
    assert Finding(8100, "stale", "mlx-a", "nothing runs").to_json("none") == {
        "port": 8100,
        "kind": "stale",
        "model_id": "mlx-a",
        "why": "nothing runs",
        "action": "none",
    }


def actions(home: Home, **flags: bool) -> dict[int, tuple[str, str]]:
    findings = reconcile(home.site(), **flags).data["findings"]
    return {found["port"] - home.base: (found["kind"], found["action"]) for found in findings}


def a_mixed_home(home: Home) -> Home:
    """0 serves, 1 was killed, 2 never ran, 3 is a stranger's, 4 is registered and a stranger's."""
    home = home.with_engine()
    for name in "abc":
        home.model(name)
    bring_up(home, "mlx-a", 0)
    bring_up(home, "mlx-b", 1)
    kill(home, 1)
    home.model("c", port=home.base + 2)
    home.model("d", port=home.base + 4)
    return home


MIXED = {1: "stale", 2: "stale", 4: "stranger"}


def test_a_dry_run_changes_nothing(home: Home) -> None:
    home = a_mixed_home(home)
    with stranger(home.base + 3), stranger(home.base + 4):
        before = home.registry_path.read_bytes(), [state(home, offset) for offset in range(5)], processes_of(home)
        told = reconcile(home.site())
        assert {found["port"] - home.base: found["kind"] for found in told.data["findings"]} == MIXED
        assert {found["action"] for found in told.data["findings"]} == {"none"}
        assert told.exit_code == 0
        assert "nothing was changed" in told.messages[0]
        assert (home.registry_path.read_bytes(), [state(home, n) for n in range(5)], processes_of(home)) == before


def test_apply_takes_what_does_not_run_off_its_port(home: Home) -> None:
    home = a_mixed_home(home)
    with stranger(home.base + 3), stranger(home.base + 4):
        assert actions(home, apply=True) == {1: ("stale", "clear"), 2: ("stale", "clear"), 4: ("stranger", "none")}
        assert assigned(home) == {0: "mlx-a", 4: "mlx-d"}
        assert {"mlx-b", "mlx-c"} <= set(home.registry().models)
        assert actions(home, apply=True) == {4: ("stranger", "none")}
    assert serving(home) == {0: "mlx-a"}


def test_restart_starts_what_should_run(home: Home) -> None:
    home = a_mixed_home(home)
    pid = state(home, 0).pid
    with stranger(home.base + 3), stranger(home.base + 4):
        assert actions(home, heal=True) == {1: ("stale", "restart"), 2: ("stale", "restart"), 4: ("stranger", "none")}
        assert serving(home) == {0: "mlx-a", 1: "mlx-b", 2: "mlx-c"}
    assert state(home, 0).pid == pid
    assert (state(home, 1).restarts, state(home, 1).wanted) == (1, "up")


def test_one_failure_is_told_and_does_not_stop_the_others(home: Home) -> None:
    home = home.with_engine("--die-at-once", "--only", "bad")
    home.model("bad", port=home.base)
    home.model("good", port=home.base + 1)
    told = reconcile(home.site(), heal=True)
    assert [found["action"] for found in told.data["findings"]] == ["failed", "restart"]
    assert (told.exit_code, [problem.code for problem in told.errors]) == (7, ["died"])
    assert serving(home) == {1: "mlx-good"}
    assert assigned(home) == {0: "mlx-bad", 1: "mlx-good"}


def test_a_server_that_hangs_is_unwell_and_restart_heals_it(home: Home) -> None:
    home = home.with_engine(MLXCTL_STOP_GRACE_S="0.3")
    home.model("a")
    bring_up(home, "mlx-a", 0)
    hung = kill(home, 0, signal.SIGSTOP)
    assert actions(home, heal=True) == {0: ("unwell", "restart")}
    assert serving(home) == {0: "mlx-a"}
    assert state(home, 0).pid != hung
    assert len(processes_of(home)) == 1


def test_registry_and_ports_agree(home: Home) -> None:
    told = reconcile(home.site())
    assert (told.data, told.messages, told.exit_code) == ({"findings": []}, ("registry and ports agree",), 0)


def test_apply_and_restart_exclude_each_other(home: Home) -> None:
    with pytest.raises(UsageError) as caught:
        reconcile(home.site(), apply=True, heal=True)
    assert caught.value.code == "bad_flag"


@pytest.mark.parametrize(("no_sync", "notices"), [(True, 0), (False, 1)])
def test_no_sync_is_quiet(home: Home, no_sync: bool, notices: int) -> None:
    home.model("a", port=home.base)
    assert len(reconcile(home.site(), apply=True, no_sync=no_sync).messages) == notices
