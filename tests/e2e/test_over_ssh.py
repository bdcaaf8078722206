"""How people use it: over SSH, through a real sshd. A model outlives the connection; a cut connection undoes a load."""

from __future__ import annotations

import getpass
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxctl.control.probe import ask
from tests.fakes.home import Home
from tests.parts import absent

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(absent("sshd", "ssh")), reason="absent: sshd or ssh; `make test-deps` installs them"),
]

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {root}/host_key
AuthorizedKeysFile {root}/user_key.pub
PidFile {root}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""


@dataclass(frozen=True)
class Sshd:
    root: Path
    port: int

    def argv(self, home: Home, *command: str, terminal: bool = False) -> list[str]:
        """An `ssh` command line that runs `mlxctl COMMAND` in `home` on the other end."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in home.env().items()]
        remote = ["env", "-i", *settings, shlex.quote(sys.executable), "-m", "mlxctl", *map(shlex.quote, command)]
        options = [
            f"UserKnownHostsFile={self.root}/known_hosts",
            "StrictHostKeyChecking=no",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        where = ["-i", str(self.root / "user_key"), "-p", str(self.port), f"{getpass.getuser()}@127.0.0.1"]
        return [
            "ssh",
            *(["-tt"] if terminal else []),
            *(word for o in options for word in ("-o", o)),
            *where,
            " ".join(remote),
        ]


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    root = tmp_path_factory.mktemp("sshd")
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "sshd_config").write_text(CONFIG.format(port=port, root=root))
    # where root runs it, sshd wants its folder for privilege separation
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin") or "sshd"
    with (
        (root / "log").open("w") as log,
        subprocess.Popen([program, "-D", "-e", "-f", str(root / "sshd_config")], stderr=log) as server,
    ):
        try:
            _await_port(port, root / "log")
            yield Sshd(root, port)
        finally:
            server.terminate()


def _await_port(port: int, log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_a_model_outlives_the_connection_that_started_it(home: Home, sshd: Sshd) -> None:
    home = home.with_engine()
    home.model("a")
    argv = sshd.argv(home, "load", "mlx-a", "auto", terminal=True)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done
    assert "is ready on port" in done.stdout
    # the session is closed; the model is not
    time.sleep(0.5)
    assert ask("127.0.0.1", home.base + 20, "/v1/models", timeout_s=5).status == 200
    listed = subprocess.run(sshd.argv(home, "list"), capture_output=True, text=True, timeout=60, check=False)
    assert f"{home.base + 20}" in listed.stdout
    # exit codes come through
    assert (
        subprocess.run(sshd.argv(home, "unload", "8099"), capture_output=True, timeout=60, check=False).returncode == 2
    )


def test_a_cut_connection_undoes_the_load(home: Home, sshd: Sshd) -> None:
    old = home.with_engine()
    old.model("old")
    old.model("new")
    assert old.run("load", "mlx-old", str(home.base)).code == 0
    slow = home.with_engine("--never-listen", "--only", "new")
    argv = sshd.argv(slow, "load", "mlx-new", str(home.base), terminal=True)
    client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    states = home.site().states
    assert _eventually(lambda: states.read(home.base).model_id == "mlx-new" and states.read(home.base).pid is not None)
    stamp = states.read(home.base).stamp
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert _eventually(lambda: states.read(home.base).model_id == "mlx-old" and states.read(home.base).phase == "ready")
    assert home.site().host.stamped(stamp) == []
    assert ask("127.0.0.1", home.base, "/v1/models", timeout_s=5).status == 200
    registered = home.registry().at(home.base)
    assert registered is not None and registered.model_id == "mlx-old"


def _eventually(is_so: object, within_s: float = 20.0) -> bool:
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        if is_so():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False
