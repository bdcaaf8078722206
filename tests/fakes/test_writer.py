"""The writer saves alone in each child, and tells truthfully how each ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mlxctl.core.errors import RegistryUnreadable
from mlxctl.core.registry import Registry
from tests.fakes.writer import DONE, NEW, Writer, register_new

BASE = 8100


def test_a_child_saves_only_when_it_is_let_loose(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    writer = Writer(path, BASE)
    pid = writer.fork()
    assert Path(f"/proc/{pid}").exists() or not Path("/proc").exists()
    assert not path.exists()
    assert writer.go() == ("exit", DONE)
    assert path.read_text() == register_new(Registry()).text()
    assert NEW.model_id in path.read_text()
    assert writer.close() == ""


def test_a_kill_and_a_refusal_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    writer = Writer(path, BASE)
    os.kill(writer.fork(), signal.SIGKILL)
    assert writer.go() == ("signal", signal.SIGKILL)
    path.write_text("{")
    writer.fork()
    assert writer.go() == ("exit", RegistryUnreadable.exit_code)
    assert writer.close() == ""
