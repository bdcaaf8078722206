"""The boot templates: filled in as their README says, they are what launchd and systemd read."""

from __future__ import annotations

import configparser
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest

from mlxctl.assets import asset
from tests.parts import absent

PLIST, UNIT = "com.mlxctl.boot.plist", "mlxctl-boot.service"
COMMAND = ["reconcile", "--restart", "--no-sync"]
VALUES = {
    "MLXCTL": "/opt/mlxctl/bin/mlxctl",
    "USER": "studio",
    "HOME": "/Users/studio",
    "PATH": "/opt/homebrew/bin:/usr/bin:/bin",
    "LOG": "/Users/studio/mlxctl-boot.log",
}


def template(name: str) -> Template:
    return Template((asset("launchd") / name).read_text())


def filler() -> str:
    """The Python of the README's own recipe."""
    found = re.search(r"<<'FILL'\n(.*?)\nFILL\n", (asset("launchd") / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def fill(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the README's recipe in `folder`."""
    return subprocess.run(
        [sys.executable, "-"],
        input=filler(),
        cwd=folder,
        env={"PATH": VALUES["PATH"], "USER": VALUES["USER"], "HOME": VALUES["HOME"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def unit_of(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


@pytest.mark.parametrize(
    ("name", "placeholders"), [(PLIST, {"MLXCTL", "USER", "HOME", "PATH", "LOG"}), (UNIT, set(VALUES) - {"LOG"})]
)
def test_placeholders_are_the_documented_ones(name: str, placeholders: set[str]) -> None:
    assert set(template(name).get_identifiers()) == placeholders
    assert template(name).is_valid()


def test_the_daemon_runs_one_command_once_as_the_user() -> None:
    job: dict[str, Any] = plistlib.loads(template(PLIST).substitute(VALUES).encode())
    assert job == {
        "Label": "com.mlxctl.boot",
        "ProgramArguments": [VALUES["MLXCTL"], *COMMAND],
        "UserName": "studio",
        "EnvironmentVariables": {"HOME": VALUES["HOME"], "PATH": VALUES["PATH"]},
        "RunAtLoad": True,
        "AbandonProcessGroup": True,
        "StandardOutPath": VALUES["LOG"],
        "StandardErrorPath": VALUES["LOG"],
    }


def test_the_unit_leaves_the_models_alone() -> None:
    unit = unit_of(template(UNIT).substitute(VALUES))
    service = dict(unit["Service"])
    assert service == {
        "Type": "oneshot",
        "User": "studio",
        "Environment": f'"HOME={VALUES["HOME"]}" "PATH={VALUES["PATH"]}"',
        "ExecStart": f'"{VALUES["MLXCTL"]}" {" ".join(COMMAND)}',
        "TimeoutStartSec": "infinity",
        "RemainAfterExit": "yes",
        "KillMode": "process",
        "OOMPolicy": "continue",
    }
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize(
    "odd",
    [
        "/Users/a & b",
        "/Volumes/<disk>/it's",
        '/Users/"quoted"',
        "/Users/Zoë/日本",
        "/Users/]]>",
        "/Users/$HOME/$$",
        "/%h",
    ],
)
def test_the_recipe_escapes_odd_paths_for_the_plist(tmp_path: Path, odd: str) -> None:
    fill(tmp_path, HOME=odd, PATH=f"{odd}:/usr/bin")
    job = plistlib.loads((tmp_path / PLIST).read_bytes())
    assert job["EnvironmentVariables"] == {"HOME": odd, "PATH": f"{odd}:/usr/bin"}
    assert job["StandardErrorPath"] == f"{odd}/mlxctl-boot.log"


def test_the_recipe_names_the_mlxctl_beside_its_python(tmp_path: Path) -> None:
    done = fill(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    job = plistlib.loads((tmp_path / PLIST).read_bytes())
    named = Path(job["ProgramArguments"][0])
    assert named == Path(sys.executable).with_name("mlxctl")
    assert unit_of((tmp_path / UNIT).read_text())["Service"]["ExecStart"] == f'"{named}" {" ".join(COMMAND)}'
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([PLIST, UNIT])


@pytest.mark.parametrize("sign", ['"', "'", "\\", "$", "%"])
def test_the_recipe_refuses_what_systemd_would_read_otherwise(tmp_path: Path, sign: str) -> None:
    done = fill(tmp_path, HOME=f"/home/a{sign}b")
    assert done.returncode == 1
    assert "write mlxctl-boot.service by hand" in done.stderr
    assert not (tmp_path / UNIT).exists()


@pytest.mark.parametrize("home", ["plain", "with spaces", "Zoë & <odd>"])
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, home: str) -> None:
    if absent("systemd-analyze"):
        assert os.environ.get("CI") != "true", "systemd-analyze is absent: `make test-deps` installs it"
        return
    folder = tmp_path / home
    folder.mkdir()
    program = folder / "mlxctl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT
    unit.write_text(template(UNIT).substitute({**VALUES, "MLXCTL": str(program), "HOME": str(folder), "USER": "root"}))
    done = verify(unit)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_systemd_would_have_told(tmp_path: Path) -> None:
    """The same check on a unit that is wrong, so that its silence above means something."""
    if absent("systemd-analyze"):
        assert os.environ.get("CI") != "true", "systemd-analyze is absent: `make test-deps` installs it"
        return
    unit = tmp_path / UNIT
    text = template(UNIT).substitute({**VALUES, "MLXCTL": sys.executable, "USER": "root"})
    unit.write_text(text.replace("KillMode=process", "KillMode=perhaps"))
    assert "perhaps" in verify(unit).stderr


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze verify`, without the notices of units that are not ours."""
    program = shutil.which("systemd-analyze", path=os.environ["PATH"] + ":/usr/bin")
    assert program is not None
    return subprocess.run(
        [program, "--man=no", "--recursive-errors=no", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


MODERN = ("bootstrap", "bootout", "kickstart", "print", "enable")


def test_the_readme_speaks_modern_launchctl_and_no_old_verbs() -> None:
    told = (asset("launchd") / "README.md").read_text()
    verbs = set(re.findall(r"launchctl (\w+)", told))
    assert verbs == set(MODERN)
    targets = set(re.findall(r"launchctl (?:bootout|kickstart -k|print|enable) (\S+)", told))
    assert {target.rstrip("`") for target in targets} == {"system/com.mlxctl.boot"}
